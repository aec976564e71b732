"""Index-preserving LoRA against LoRA on both sides and full fine-tuning: all-MiniLM-L6-v2 on movie search (MSRD).

    python -m benchmarks.embedding_msrd              train what is missing, then compare on the test queries
    python -m benchmarks.embedding_msrd --train      train only; a killed training is resumed by the next call
    python -m benchmarks.embedding_msrd --limit 50 --set optim.max_steps=4     trial; no results are written

Queries are split by families of near-variants (`data.formats.msrd`), as for `rewriting_msrd`. Every model is trained on
the same rows. Adapters are in `benchmarks/work/embedding_msrd/store`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, dataset, is_trial, named_comparison, real_data, save, trial_parser
from benchmarks.encoders import trained_encoder
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.eval.comparison import Comparison
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.evaluation_result import EvaluationResult
from searchlora.experiments.options import EvaluationOptions
from searchlora.systems.system import BASE

NAME, MEASURE = "embedding_msrd", "nDCG@10"
HERE = Path(__file__).parent

BOTH, QUERY, FULL = "adapter, both sides", "adapter, query side", "full fine-tuning"

#: No movie is encoded in training of the query side: small batches are as fast, and a whole epoch takes minutes.
BATCHES = ("optim.batch_size=64", "optim.epochs=1")

#: Learning rate of the query side, the best of four on validation queries.
CHOSEN = ("optim.learning_rate=2.0e-3",)

#: System -> its name in the store, and what its recipe changes.
SYSTEMS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    QUERY: ("msrd-query", ("sides=query", *BATCHES, *CHOSEN)),
    BOTH: ("msrd-method-lora", ("method=lora",)),
    FULL: ("msrd-method-full", ("method=full",)),
}

#: Goals of query side − both sides: difference, and lower bound of its interval.
GOAL = {"difference": -0.005, "low": -0.01}


def main() -> None:
    arguments = trial_parser(NAME)
    arguments.add_argument("--train", action="store_true", help="train what is missing, and stop")
    options = arguments.parse_args()
    work = WORK / (f"{NAME}_trial" if is_trial(options) else NAME)
    data = dataset(work / "data", "embedding", real_data() / "msrd", format="msrd", split_ratios=(0.7, 0.1, 0.2)).folder
    store = Store(work / "store")
    trained = {
        system: trained_encoder(name, data, store, HERE / "recipe.yaml", [*changes, *options.set])
        for system, (name, changes) in SYSTEMS.items()
    }
    if options.train:
        return
    with progress_bars() as steps:
        evaluated = evaluate(
            trained[QUERY].reference,
            data,
            EvaluationOptions(limit=options.limit, cache_dir=work / "outputs"),
            compare_with=[trained[system].reference for system in (BOTH, FULL)],
            store=store,
            steps=steps,
        )
    names = {BASE: "zero-shot", **{stored.reference: system for system, stored in trained.items()}}
    evaluations = {name: result.evaluation for name, result in evaluated.systems.items()}
    against = {name: named_comparison(evaluations, names, name, MEASURE) for name in (QUERY, BOTH)}
    print_comparison(against[QUERY])
    if not is_trial(options):
        save(NAME, against[QUERY], _about(against, trained, evaluated))


def _about(
    against: Mapping[str, Comparison], trained: Mapping[str, StoredAdapter], evaluated: EvaluationResult
) -> dict[str, Any]:
    pair = next(pair for pair in against[QUERY].comparisons if pair.b == BOTH)
    others = [comparison for comparison in against[BOTH].comparisons if comparison.b != QUERY]
    return {
        "caption": "MSRD: all-MiniLM-L6-v2 on movie queries; mean and 95% interval over query families",
        "test_queries": len(evaluated.records),
        "documents": len(evaluated.dataset.documents() or ()),
        "more_comparisons": [vars(comparison) for comparison in others],
        "recipes": {system: stored.manifest.recipe for system, stored in trained.items()},
        "training": {system: stored.manifest.training for system, stored in trained.items()},
        "bytes": {system: stored.weight_bytes for system, stored in trained.items()},
        "goal": {
            "query_minus_both": {"difference": pair.difference, "low": pair.low, "high": pair.high},
            "wanted": GOAL,
            "met": bool(pair.difference >= GOAL["difference"] and pair.low >= GOAL["low"]),
        },
    }


if __name__ == "__main__":
    main()
