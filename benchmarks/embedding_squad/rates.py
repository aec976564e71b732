"""Learning rates of LoRA and of full fine-tuning: three each, compared on SQuAD's validation articles.

    python -m benchmarks.embedding_squad.rates

Each trains for half an epoch on the training articles. Questions of the validation articles retrieve their paragraph
among the paragraphs of the same articles. No test article is read. The recipes use the best rate of each.
"""

from __future__ import annotations

from typing import Any

from benchmarks.common import WORK, real_data, save_figures
from benchmarks.embedding_squad import collections as collected
from benchmarks.embedding_squad import training
from searchlora.adapters.store import Store

NAME = "embedding_rates"
LORA_RATES = ("5.0e-4", "1.0e-3", "2.0e-3")
FULL_RATES = ("5.0e-5", "1.0e-4", "2.0e-4")
MEASURE = "nDCG@10"
ROWS = 500

#: Half an epoch, with validation at its end.
SETTINGS = ("optim.max_steps=64", "validation.every_steps=100000", f"validation.rows={ROWS}")


def main() -> None:
    work = WORK / "embedding_rates"
    found = collected.squad(real_data(), WORK / "embedding")
    dataset, store = found.folds[0], Store(work / "store")
    rows = []
    for rate in LORA_RATES:
        adapter = training.lora(
            _name("lora", rate), dataset, store, found.recipe, [*SETTINGS, f"optim.learning_rate={rate}"]
        )
        rows.append(_row(f"LoRA at {rate}", adapter.manifest.metrics))
    for rate in FULL_RATES:
        model = training.full(
            _name("full", rate), dataset, store, found.recipe, [*SETTINGS, f"optim.full_learning_rate={rate}"]
        )
        rows.append(_row(f"full fine-tuning at {rate}", model.manifest.metrics))
    count = min(ROWS, dataset.card.rows["validation"])
    save_figures(NAME, [{**row, "n": count} for row in rows], [], {}, module="embedding_squad.rates")
    print("\n".join(f"{row['system']:32} {row['value']:.4f}" for row in rows))


def _name(kind: str, rate: str) -> str:
    return f"{kind}-{rate.replace('.', '-').replace('e-', '-e')}"


def _row(system: str, metrics: Any) -> dict[str, Any]:
    return {"system": system, "measure": MEASURE, "value": metrics[f"validation {MEASURE}"]}


if __name__ == "__main__":
    main()
