"""Intent classification on BANKING77 (77 intents, official test set) with an adapter of SmolLM2-135M.

    python -m benchmarks.intent_banking77

Trains on the official training set without the rows that also occur in the test set (the builder lists them) and
without 280 validation rows, on which the temperature of the probabilities is fitted. An existing adapter and existing
outputs are reused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, dataset, named_comparison, real_data, save, training_figures
from searchlora.adapters.store import Store
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.train import train
from searchlora.outputs import InvalidOutput
from searchlora.records import Record
from searchlora.systems.system import BASE

NAME = "banking77-intent"
SHARES = (0.96, 0.03, 0.01)
HERE = Path(__file__).parent

ADAPTER, FREE = "adapter", "without constraint"


def main() -> None:
    source = real_data() / "banking77"
    data = dataset(WORK / "banking77", "intent", source, format="banking77", split_ratios=SHARES)
    store = Store(WORK / "store")
    with progress_bars() as steps:
        stored = train(
            "intent",
            data.folder,
            NAME,
            TrainingOptions(recipe=HERE / "recipe.yaml", reuse=True),
            store=store,
            steps=steps,
            log=print,
        )
        evaluated = evaluate(
            stored.reference,
            data.folder,
            EvaluationOptions(unconstrained=True, cache_dir=WORK / "intent_banking77" / "outputs"),
            store=store,
            steps=steps,
        )
    names = {
        stored.reference: ADAPTER,
        f"{stored.reference}, unconstrained": f"{ADAPTER}, {FREE}",
        f"{BASE}, unconstrained": f"{BASE}, {FREE}",
    }
    evaluations = {name: replace(result.evaluation, slices={}) for name, result in evaluated.systems.items()}
    comparison = named_comparison(evaluations, names, ADAPTER, "accuracy", "macro-F1")
    outputs = evaluated.systems[stored.reference].outputs
    more = {
        "adapter": stored.reference,
        "adapter_bytes": stored.weight_bytes,
        "data": {
            "rows": data.card.rows,
            "training rows taken out since they stand in the test": data.card.leaks["found"],
        },
        "training": training_figures(stored),
        "recipe": stored.manifest.recipe,
        "tuned": dict(stored.manifest.tuned),
        "labels": per_label(evaluated.records, outputs),
        "confused": confused(evaluated.records, outputs),
    }
    save("intent_banking77", comparison, more)
    print_comparison(comparison)


def per_label(records: Sequence[Record], outputs: Sequence[Any]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each label, lowest F1 first."""
    from sklearn.metrics import precision_recall_fscore_support

    gold = [str(record["label"]) for record in records]
    labels = sorted(set(gold))
    figures = precision_recall_fscore_support(gold, _predicted(outputs), labels=labels, zero_division=0)
    rows = [
        {"label": label, "precision": float(p), "recall": float(r), "F1": float(f), "n": int(n)}
        for label, p, r, f, n in zip(labels, *figures, strict=True)
    ]
    return sorted(rows, key=lambda row: float(row["F1"]))


def confused(records: Sequence[Record], outputs: Sequence[Any], limit: int = 20) -> list[dict[str, Any]]:
    """The most frequently confused pairs of gold and predicted labels."""
    gold = [str(record["label"]) for record in records]
    pairs = Counter(zip(gold, _predicted(outputs), strict=True))
    wrong = Counter({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})
    return [{"gold": label, "predicted": other, "n": count} for (label, other), count in wrong.most_common(limit)]


def _predicted(outputs: Sequence[Any]) -> list[str]:
    return ["(invalid)" if isinstance(output, InvalidOutput) else str(output.value) for output in outputs]


if __name__ == "__main__":
    main()
