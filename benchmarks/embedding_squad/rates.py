"""Learning rates of LoRA and of full fine-tuning: three each, compared on SQuAD's validation articles.

    python -m benchmarks.embedding_squad.rates

Each trains for half an epoch on the training articles. Questions of the validation articles retrieve their paragraph
among the paragraphs of the same articles. No test article is read. The recipes use the best rate of each.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.common import WORK, real_data, save_figures
from benchmarks.embedding_squad import collections as collected
from benchmarks.embedding_squad.measuring import FULL
from benchmarks.encoders import trained_encoder
from searchlora.adapters.store import Store

NAME = "embedding_rates"
HERE = Path(__file__).parent
LORA_RATES = ("5.0e-4", "1.0e-3", "2.0e-3")
FULL_RATES = ("5.0e-5", "1.0e-4", "2.0e-4")
MEASURE = "nDCG@10"
ROWS = 500

#: Half an epoch, with validation at its end.
SETTINGS = ("optim.max_steps=64", "validation.every_steps=100000", f"validation.rows={ROWS}")


def main() -> None:
    store = Store(WORK / "embedding_rates" / "store")
    squad = collected.squad(real_data(), WORK / "embedding")
    (dataset,), recipe = squad.folds, HERE / squad.recipe
    rows = []
    for system, key, rates in (("LoRA", "learning_rate", LORA_RATES), (FULL, "full_learning_rate", FULL_RATES)):
        for rate in rates:
            name = f"{system.split()[0].lower()}-{rate.replace('.', '-').replace('e-', '-e')}"
            overrides = [*SETTINGS, f"optim.{key}={rate}", *(["method=full"] if system == FULL else [])]
            metrics = trained_encoder(name, dataset.folder, store, recipe, overrides).manifest.metrics
            rows.append(
                {"system": f"{system} at {rate}", "measure": MEASURE, "value": metrics[f"validation {MEASURE}"]}
            )
    count = min(ROWS, dataset.card.rows["validation"])
    save_figures(NAME, [{**row, "n": count} for row in rows], [], {}, module="embedding_squad.rates")
    print("\n".join(f"{row['system']:32} {row['value']:.4f}" for row in rows))


if __name__ == "__main__":
    main()
