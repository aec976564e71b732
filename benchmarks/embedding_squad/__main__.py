"""Encoder adapters against full fine-tuning and zero-shot: all-MiniLM-L6-v2 on SQuAD and BANKING77.

    python -m benchmarks.embedding_squad
    python -m benchmarks.embedding_squad --limit 50 --set optim.max_steps=4     trial; no results are written

Questions of SQuAD find paragraphs; utterances of BANKING77 are classified by nearest centroid and by a linear head. All
systems of a collection are trained and measured on the same rows. Models and hits in `benchmarks/work/embedding` are
reused. The published training data of all-MiniLM-L6-v2 contains SQuAD, so "zero-shot" is not zero-shot there; MSRD
(`benchmarks.embedding_msrd`) was not in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, dataset, is_trial, named_comparison, real_data, save, trial_parser
from benchmarks.encoders import trained_encoder
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.data.dataset import Dataset
from searchlora.eval.comparison import Comparison
from searchlora.eval.evaluation import Evaluation
from searchlora.experiments.evaluate import evaluate
from searchlora.progress import Steps
from searchlora.retrieval.classifying import classify
from searchlora.retrieval.encoder import Encoder
from searchlora.systems.system import BASE
from searchlora.task import EvaluationInput, load_encoder_task

NAME = "embedding_squad"
HERE = Path(__file__).parent
ZERO, LORA, FULL, COMMONEST = "zero-shot", "LoRA", "full fine-tuning", "commonest intent"

#: Non-inferiority margin: lower bound for the interval of LoRA − full fine-tuning.
MARGIN = -0.01

#: Articles are the clusters of SQuAD, and there are 48 only: most of them are for the test.
SQUAD_SHARES, BANKING77_SHARES = (0.4, 0.05, 0.55), (0.96, 0.03, 0.01)


def main() -> None:
    options = trial_parser(NAME).parse_args()
    work = WORK / ("embedding_trial" if is_trial(options) else "embedding")
    source = real_data() / "squad" / "squaddev_v1.1.json.gz"
    squad = dataset(work / "squad", "embedding", source, format="squad", shares=SQUAD_SHARES)
    banking77 = dataset(
        work / "banking77", "embedding", real_data() / "banking77", format="banking77", shares=BANKING77_SHARES
    )
    with progress_bars() as steps:
        _finish(NAME, squad, _retrieval(squad, work, options, steps), options)
        for head, comparison in _classification(banking77, work, options, steps).items():
            _finish(f"embedding_banking77_{head}", banking77, comparison, options)


def _models(data: Dataset, work: Path, options: argparse.Namespace) -> dict[str, StoredAdapter]:
    name, store, recipe = data.folder.name, Store(work / "store"), HERE / f"{data.folder.name}.yaml"
    return {
        FULL: trained_encoder(f"{name}-full", data.folder, store, recipe, [*options.set, "method=full"]),
        LORA: trained_encoder(name, data.folder, store, recipe, options.set),
    }


def _retrieval(data: Dataset, work: Path, options: argparse.Namespace, steps: Steps) -> Comparison:
    models = _models(data, work, options)
    evaluated = evaluate(
        models[LORA].reference,
        data.folder,
        compare_with=[models[FULL].reference],
        limit=options.limit,
        cache_dir=work / "outputs",
        store=Store(work / "store"),
        steps=steps,
    )
    names = {BASE: ZERO, **{stored.reference: system for system, stored in models.items()}}
    evaluations = {name: result.evaluation for name, result in evaluated.systems.items()}
    return named_comparison(evaluations, names, LORA, "nDCG@10")


def _classification(data: Dataset, work: Path, options: argparse.Namespace, steps: Steps) -> Mapping[str, Comparison]:
    """Head -> comparison. Each encoder encodes the training and test texts once."""
    task, models = load_encoder_task("embedding"), _models(data, work, options)
    records, known = data.records("test")[: options.limit], data.records("train")
    commonest = next(iter(task.baselines(records, data.folder).values()))
    baseline = task.evaluate(EvaluationInput(records, commonest))
    evaluations: dict[str, dict[str, Evaluation]] = {head: {COMMONEST: baseline} for head in ("centroid", "linear")}
    labels = [str(task.label(record)) for record in known]
    for system in (ZERO, FULL, LORA):
        encoder = Encoder.load(models[LORA].manifest.base.name, adapter=models.get(system))
        fitted, vectors = (
            encoder.encode(
                [task.query(record) for record in rows], batch_size=64, progress=steps(f"Encoding: {system}")
            )
            for rows in (known, records)
        )
        for head, of_head in evaluations.items():
            classes = classify(fitted, labels, vectors, head)  # type: ignore[arg-type]
            of_head[system] = task.evaluate(EvaluationInput(records, classes))
    return {head: named_comparison(of_head, {}, LORA, "macro-F1") for head, of_head in evaluations.items()}


def _finish(name: str, data: Dataset, comparison: Comparison, options: argparse.Namespace) -> None:
    print_comparison(comparison)
    if is_trial(options):
        return
    against_full = next(pair for pair in comparison.comparisons if pair.b == FULL)
    goal = {"lora_minus_full_above": MARGIN, "low": against_full.low, "met": bool(against_full.low > MARGIN)}
    more: dict[str, Any] = {
        "caption": f"{data.folder.name}; mean and 95% interval",
        "test_rows": data.card.rows["test"],
        "test_groups": comparison.groups,
        "goal": goal,
    }
    save(name, comparison, more, module=NAME)


if __name__ == "__main__":
    main()
