"""Coverage of prediction-powered intervals, and the value of a judge's labels in human labels.

    python -m benchmarks.statistics.prediction_powered

README.md in this folder describes the figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.common import real_data, save_figures
from benchmarks.statistics.prediction_powered import real, simulated

NAME = "prediction_powered"


def main() -> None:
    folder = real_data() / "llmjudge"
    _save(NAME, real.rows(folder), {"correlations": real.correlations(folder)})
    _save(f"{NAME}_simulated", simulated.rows(), {})


def _save(name: str, rows: Iterable[dict[str, Any]], more: dict[str, Any]) -> None:
    kept_rows = []
    for row in rows:
        kept_rows.append(row)
        print(f"{row['value']:.3f} ({row['low']:.3f}–{row['high']:.3f})  {row['measure']}; {row['system']}", flush=True)
    caption = "draws of human labels; shares and ratios with 95% interval over the draws"
    save_figures(name, kept_rows, [], {"caption": caption, **more}, module=f"statistics.{NAME}")


if __name__ == "__main__":
    main()
