"""Prediction-powered intervals: whether they hold for any judge, and what a judge's labels are worth.

    python -m benchmarks.prediction_powered

README.md beside this file says what the figures can tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from benchmarks.common import RESULTS, header, real_data
from benchmarks.prediction_powered import real, simulated
from searchlora.eval.files import atomic_text

NAME = "prediction_powered"


def main() -> None:
    folder = real_data() / "llmjudge"
    _save(NAME, real.rows(folder), {"correlations": real.correlations(folder)})
    _save(f"{NAME}_simulated", simulated.rows(), {})


def _save(name: str, rows: Iterable[dict[str, Any]], more: dict[str, Any]) -> None:
    kept = []
    for row in rows:
        kept.append(row)
        print(f"{row['value']:.3f} ({row['low']:.3f}–{row['high']:.3f})  {row['measure']}; {row['system']}", flush=True)
    caption = "draws of human labels; shares and ratios with 95% interval over the draws"
    values = {**asdict(header(name, NAME)), "caption": caption, "rows": kept, "comparisons": [], **more}
    with atomic_text(RESULTS / f"{name}.json") as out:
        json.dump(values, out, indent=1, ensure_ascii=False)
        out.write("\n")


if __name__ == "__main__":
    main()
