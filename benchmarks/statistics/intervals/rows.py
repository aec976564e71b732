"""The rows of these benchmarks, shares of all draws, and their tables."""

from __future__ import annotations

from typing import Any

from scipy import stats

TOPICS = (43, 200)


def row(system: str, measure: str, hits: int, count: int, more: dict[str, Any]) -> dict[str, Any]:
    """A share of all draws with its exact (Clopper–Pearson) 95% interval."""
    low, high = stats.binomtest(int(hits), count).proportion_ci(method="exact")
    figures = {"value": float(hits / count), "low": float(low), "high": float(high), "n": count}
    return {"system": system, "measure": measure, **figures, **more}


def band(count: int) -> tuple[float, float]:
    """In which 95% of simulations have their share of rejections where the level is 0.05."""
    low, high = stats.binom.interval(0.95, count, 0.05)
    return float(low / count), float(high / count)


def markdown(rows: list[dict[str, Any]], kinds: list[str], what: str) -> str:
    """A line per interval or test and n, a column per kind of values."""
    cells = {(each["system"], each["measure"].partition(", ")[2]): each for each in rows}
    lines = [f"| {what} | n | {' | '.join(kinds)} |", f"| --- | --- |{' ---: |' * len(kinds)}"]
    for n in TOPICS:
        for system in dict.fromkeys(each["system"] for each in rows):
            shown = [_cell(cells[system, f"{kind}, n = {n}"]) for kind in kinds]
            lines.append(f"| {system} | {n} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _cell(found: dict[str, Any]) -> str:
    if "below" in found:
        return f"{found['value']:.3f} ({found['below']:.3f} / {found['above']:.3f})"
    return f"{found['value']:.4f}{'' if found['inside_band'] else ' (outside)'}"
