"""Intent classification on BANKING77 (77 intents, official test set) with an adapter of SmolLM2-135M.

    python -m benchmarks.intent_banking77

Trains on the official training set without the rows that also occur in the test set (the builder lists them) and
without 280 validation rows, on which the temperature of the probabilities is fitted. An existing adapter and existing
outputs are reused. Sample answers are written to `benchmarks/work/intent_banking77/answers.md`.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.common import WORK, header, real_data, save
from benchmarks.intent_banking77.systems import (
    ADAPTER,
    FREE,
    calibrated,
    compared,
    confused,
    per_label,
    run_all,
    sample_answers,
)
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.eval.tables import to_json
from searchlora.experiments.train import train_or_reuse
from searchlora.files import atomic_text
from searchlora.inference.local import LocalEngine
from searchlora.task import load_prompted_task

NAME = "banking77-intent"
SHARES = (0.96, 0.03, 0.01)
HERE = Path(__file__).parent
OUT = WORK / "intent_banking77"


def main() -> None:
    with progress_bars() as steps:
        dataset = _dataset()
        store = Store(WORK / "store")
        recipe = HERE / "recipe.yaml"
        stored = train_or_reuse("intent", dataset.folder, NAME, recipe=recipe, store=store, steps=steps)
        task = load_prompted_task("intent").bound(stored.manifest.settings)
        engine = LocalEngine(stored.manifest.base.resolve(), store)
        systems, tuned = run_all(task, dataset, stored, engine, OUT / "outputs", steps)
    comparison, calibration = compared(systems), calibrated(systems)
    records, outputs = dataset.records("test"), systems[ADAPTER].outputs
    calibration_rows = to_json(calibration, header("intent_banking77", "intent_banking77"))
    rows = to_json(comparison, header("intent_banking77", "intent_banking77"))
    save(
        "intent_banking77",
        comparison,
        {
            "rows": [*rows["rows"], *calibration_rows["rows"]],
            "comparisons": [*rows["comparisons"], *calibration_rows["comparisons"]],
            **_about(dataset, stored),
            "tuned": dict(tuned),
            "labels": per_label(records, outputs),
            "confused": confused(records, outputs),
        },
    )
    with atomic_text(OUT / "answers.md") as file:
        file.write(sample_answers(records, outputs, systems[FREE].outputs))
    print_comparison(comparison)
    print_comparison(calibration)


def _dataset() -> Dataset:
    folder = WORK / "banking77"
    if not folder.is_dir():
        build("intent", real_data() / "banking77", format="banking77", out=folder, shares=SHARES)
    return load_dataset(folder)


def _about(dataset: Dataset, stored: StoredAdapter) -> dict[str, object]:
    manifest, card = stored.manifest, dataset.card
    weights = sum(file.stat().st_size for file in stored.path.glob("*.safetensors"))
    return {
        "adapter": manifest.reference,
        "adapter_bytes": weights,
        "data": {"rows": card.rows, "training rows taken out since they stand in the test": card.leaks["found"]},
        "training": {
            key: manifest.training[key] for key in ("rows", "steps", "tokens", "seconds", "parameters_trained")
        },
        "recipe": manifest.recipe,
    }


if __name__ == "__main__":
    main()
