"""Index-preserving LoRA against LoRA on both sides and full fine-tuning: all-MiniLM-L6-v2 on movie search (MSRD).

The query side learns from the documents alone, without any label; from the training pairs alone; from pairs, titles and
made queries; and from the adapter of both sides as well. Beside it stands a linear map of the query vectors.

    python -m benchmarks.embedding_msrd              train what is missing, then compare on the test queries
    python -m benchmarks.embedding_msrd --train      train only; a killed training is resumed by the next call
    python -m benchmarks.embedding_msrd --limit 50 --set optim.max_steps=4     trial; no results are written

Queries are split by families of near-variants (`benchmarks.readers.msrd`), as for `rewriting_msrd`. Every model but
the first is trained on the same rows. Adapters are in `benchmarks/work/embedding_msrd/store`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import WORK, dataset, is_trial, named_comparison, real_data, save, trial_parser
from benchmarks.embedding_msrd.linear_map import mapped
from benchmarks.encoders import trained_encoder
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.data.collection import CORPUS_FILE
from searchlora.eval.comparison import Comparison
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.intervals import cluster_sums
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.evaluation_result import EvaluationResult
from searchlora.experiments.options import EvaluationOptions
from searchlora.systems.system import BASE

NAME, MEASURE = "embedding_msrd", "nDCG@10"
HERE = Path(__file__).parent

ZERO, BOTH, FULL, MAP = "zero-shot", "adapter, both sides", "full fine-tuning", "linear map of queries"
ALONE, PAIRS, MADE, QUERY = (
    "query side, documents alone",
    "query side, pairs only",
    "query side, made queries",
    "adapter, query side",
)

#: No movie is encoded in training of the query side: small batches are as fast, and a whole epoch takes minutes.
BATCHES = ("optim.batch_size=64", "optim.epochs=1")

#: Learning rate of the query side, the best of four on validation queries.
CHOSEN = ("optim.learning_rate=2.0e-3",)

#: Rows of each movie beside the pairs, chosen on validation queries, as the learning rate.
DOCUMENTS = ("query_side.titles=1", "query_side.made=1")

#: None of these rows: the pairs are all there is, or are made of the documents themselves.
NO_DOCUMENTS = ("query_side.titles=0", "query_side.made=0")

#: System -> its name in the store, and what its recipe changes.
SYSTEMS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    ALONE: ("msrd-documents", ("sides=query", *BATCHES, *CHOSEN, *NO_DOCUMENTS)),
    BOTH: ("msrd-method-lora", ("method=lora",)),
    FULL: ("msrd-method-full", ("method=full",)),
    PAIRS: ("msrd-query-pairs", ("sides=query", *BATCHES, *CHOSEN, *NO_DOCUMENTS)),
    MADE: ("msrd-query-made", ("sides=query", *BATCHES, *CHOSEN, *DOCUMENTS)),
    QUERY: ("msrd-query", ("sides=query", *BATCHES, *CHOSEN, *DOCUMENTS, "query_side.teacher=msrd-method-lora@1")),
}

#: Goal: the share of what both sides gain over the base.
GOAL = 0.65


def main() -> None:
    arguments = trial_parser(NAME)
    arguments.add_argument("--train", action="store_true", help="train what is missing, and stop")
    options = arguments.parse_args()
    work = WORK / (f"{NAME}_trial" if is_trial(options) else NAME)
    data = dataset(work / "data", "embedding", real_data() / "msrd", format="msrd", split_ratios=(0.7, 0.1, 0.2)).folder
    parts = {"format": "documents", "split_ratios": (0.95, 0.05, 0.0)}
    documents = dataset(work / "documents", "embedding", data / CORPUS_FILE, **parts).folder
    store = Store(work / "store")
    trained = {
        system: trained_encoder(
            name, documents if system == ALONE else data, store, HERE / "recipe.yaml", [*changes, *options.set]
        )
        for system, (name, changes) in SYSTEMS.items()
    }
    if options.train:
        return
    with progress_bars() as steps:
        evaluated = evaluate(
            trained[QUERY].reference,
            data,
            EvaluationOptions(limit=options.limit, cache_dir=work / "outputs"),
            compare_with=[trained[system].reference for system in SYSTEMS if system != QUERY],
            store=store,
            steps=steps,
        )
        linear = mapped(evaluated.dataset, trained[QUERY].manifest.base.name, options.limit, steps)
    names = {BASE: ZERO, **{stored.reference: system for system, stored in trained.items()}}
    evaluations = {MAP: linear, **{name: result.evaluation for name, result in evaluated.systems.items()}}
    named = {names.get(name, name): evaluation for name, evaluation in evaluations.items()}
    against = {name: named_comparison(evaluations, names, name, MEASURE) for name in (QUERY, BOTH, ALONE)}
    print_comparison(against[QUERY])
    if not is_trial(options):
        shares = {system: share_of_gain(named, system) for system in (MAP, ALONE, PAIRS, MADE, QUERY)}
        save(NAME, against[QUERY], {**_about(against, trained, evaluated), "share_of_gain": shares, "goal": GOAL})


def share_of_gain(evaluations: Mapping[str, Evaluation], system: str, draws: int = 10_000) -> dict[str, float]:
    """What part of the gain of both sides over the base a system has; 95% percentile interval over query families."""
    families = evaluations[ZERO].clusters
    base, *others = ([evaluations[name].values[MEASURE][row] for row in families] for name in (ZERO, system, BOTH))
    sums, _ = cluster_sums(np.array(others).T - np.array(base)[:, None], list(families.values()))
    own, both = sums.T
    drawn = np.random.default_rng(13).integers(len(own), size=(draws, len(own)))
    low, high = np.quantile(own[drawn].sum(axis=1) / both[drawn].sum(axis=1), [0.025, 0.975])
    return {"share": float(own.sum() / both.sum()), "low": float(low), "high": float(high)}


def _about(
    against: Mapping[str, Comparison], trained: Mapping[str, StoredAdapter], evaluated: EvaluationResult
) -> dict[str, Any]:
    others = [pair for name in (BOTH, ALONE) for pair in against[name].comparisons if pair.b not in (QUERY, BOTH)]
    return {
        "caption": "MSRD: all-MiniLM-L6-v2 on movie queries; mean and 95% interval over query families",
        "test_queries": len(evaluated.records),
        "documents": len(evaluated.dataset.documents() or ()),
        "more_comparisons": [vars(comparison) for comparison in others],
        "recipes": {system: stored.manifest.recipe for system, stored in trained.items()},
        "training": {system: stored.manifest.training for system, stored in trained.items()},
        "bytes": {system: stored.weight_bytes for system, stored in trained.items()},
    }


if __name__ == "__main__":
    main()
