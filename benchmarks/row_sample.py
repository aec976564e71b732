"""Which rows to label: accuracy on BANKING77 after random and diverse samples, by number of labels.

    python -m benchmarks.row_sample

The classifier is logistic regression over the vectors of all-MiniLM-L6-v2, as in `evaluate`. Samples are drawn from the
training rows, five times each; the test rows are those of BANKING77.
"""

from __future__ import annotations

import csv
import random
import statistics
from typing import Any

import numpy as np

from benchmarks.common import parser, real_data, save_figures
from searchlora.eval.formatting import markdown_table
from searchlora.experiments.options import DEFAULT_ENCODER
from searchlora.experiments.row_sample import diverse_rows
from searchlora.systems.encoder_baseline import FrozenEncoder
from searchlora.tasks.intent.baselines import LogisticRegressionBaseline

NAME = "row_sample"
SIZES, DRAWS = (200, 400, 800, 1600), 5


def main() -> None:
    parser(NAME).parse_args()
    rows, test = _read("train.csv"), _read("test.csv")
    settings = {"kind": "label", "labels": sorted({row["label"] for row in rows}), "out_of_scope": None}
    encoder = FrozenEncoder(DEFAULT_ENCODER)
    texts = [row["query"] for row in rows]
    vectors = encoder.encode_once(texts)
    figures: list[dict[str, Any]] = []
    for size in SIZES:
        for kind in ("random", "diverse"):
            found = []
            for seed in range(DRAWS):
                if kind == "random":
                    chosen = sorted(random.Random(seed).sample(range(len(rows)), size))
                else:
                    chosen = diverse_rows(vectors, size, seed)
                model = LogisticRegressionBaseline(settings)
                model.fit([rows[row] for row in chosen], [], encoder.encode_once)
                predicted = model.predict(test, encoder.encode_once)
                right = [label.value == row["label"] for label, row in zip(predicted, test, strict=True)]
                labels = len({rows[row]["label"] for row in chosen})
                found.append((float(np.mean(right)), len(chosen), labels))
            values, counts, labels = zip(*found, strict=True)
            row = {"sample": kind, "size": size, "rows": min(counts), "labels": min(labels), "n": len(test)}
            figures.append({**row, "accuracy": statistics.median(values), "min": min(values), "max": max(values)})
            print(figures[-1], flush=True)
    lines = [
        [
            row["sample"],
            f"{row['size']:,}",
            f"{row['labels']}",
            f"{row['accuracy']:.3f}",
            f"{row['min']:.3f}-{row['max']:.3f}",
        ]
        for row in figures
    ]
    table = markdown_table(["sample", "rows", "labels seen", "accuracy", "min-max"], lines)
    save_figures(NAME, figures, [], {"table": table, "draws": DRAWS})


def _read(name: str) -> list[dict[str, str]]:
    with (real_data() / "banking77" / name).open(encoding="utf-8") as lines:
        return [{"query": row["text"], "label": row["category"]} for row in csv.DictReader(lines)]


if __name__ == "__main__":
    main()
