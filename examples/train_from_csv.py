"""Train an adapter from a CSV with the columns query and rewrite, and look at what was stored."""

from __future__ import annotations

import csv
from pathlib import Path

import searchlora

with Path("log.csv").open("w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file)
    rows.writerow(["query", "rewrite"])
    for size in range(20, 60):
        rows.writerow([f"{size} inch telly", f"television {size} inch"])

searchlora.data.build("rewriting", "log.csv", format="pairs", out="log-data")
stored = searchlora.train(
    "rewriting",
    "log-data",
    "telly-rewriter",
    # Remove the second setting to train on every row.
    searchlora.TrainingOptions(["lora.r=8", "optim.max_steps=20"]),
    store="store",
)
print(f"{stored.reference} in {stored.path}")
print(f"{stored.manifest.training['parameters_trained']:,} parameters trained")
for measure, value in stored.manifest.metrics.items():
    print(f"  {measure}: {value}")
