"""How a test set wears out: 20 candidates that are no better, decided one after another on the same 300 rows.

    python -m benchmarks.statistics.promotion.wear

A row has a chance to be answered correctly, drawn from a Beta distribution, and every system answers it with this
chance: half of the variance of an answer is the row's. Simulated by the test of the rule `beat`, with `decisions: 1`,
which counts no tries, and with the default 10. Then: how many rows a candidate that is really better by 0.03 needs to
pass in 80% of the cases. About 15 minutes on one core; writes `benchmarks/results/promotion_wear.json`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import save_figures
from searchlora.eval.figures import PairedComparison
from searchlora.eval.formatting import markdown_table
from searchlora.eval.intervals import proportion
from searchlora.eval.policy.decide import pair_interval
from searchlora.eval.significance import LEVEL, paired_differences

NAME = "promotion_wear"
SERIES, CANDIDATES, ROWS = 1000, 20, 300
ACCURACIES, PLANNED = (0.8, 0.9), (1, 10)
GAIN, POWER, DRAWS, RESAMPLES = 0.03, 0.8, 1000, 2000

Floats = NDArray[np.float64]


def main() -> None:
    rows: list[dict[str, Any]] = []
    for accuracy in ACCURACIES:
        moved, needed = moved_aliases(accuracy), {planned: rows_needed(accuracy, planned) for planned in PLANNED}
        for planned in PLANNED:
            name = f"accuracy {accuracy}, decisions: {planned}"
            for tries, series in moved[planned].items():
                value, low, high = proportion(series, np.ones(len(series)))
                measure = f"moved by one of {tries} equal candidates"
                rows.append({"system": name, "measure": measure, "value": value, "low": low, "high": high, "n": SERIES})
            rows.append({"system": name, "measure": f"rows for a gain of {GAIN}", "value": needed[planned], "n": DRAWS})
            print(*rows[-3:], sep="\n", flush=True)
    print(text := table(rows))
    save_figures(NAME, rows, [], {"table": text}, module="statistics.promotion.wear")


def answers(accuracy: float, rows: int, systems: int, rng: np.random.Generator) -> Floats:
    """Correct answers (1 or 0) of equal systems, `(rows, systems)`."""
    chance = rng.beta(accuracy, 1 - accuracy, rows)
    return (rng.random((rows, systems)) < chance[:, None]).astype(float)


def moved_aliases(accuracy: float) -> dict[int, dict[int, Floats]]:
    """`decisions` -> number of tries -> of each series, whether one of so many equal candidates moved the alias.

    With `decisions: 1` the candidates are not counted, as before this key existed; else the rest are refused.
    """
    moved = {planned: {tries: np.zeros(SERIES) for tries in (1, CANDIDATES)} for planned in PLANNED}
    for series in range(SERIES):
        production, *candidates = answers(accuracy, ROWS, CANDIDATES + 1, np.random.default_rng(series)).T
        for planned in PLANNED:
            passed = beats(np.stack(candidates, axis=1) - production[:, None], planned, seed=series)
            for tries, of_series in moved[planned].items():
                of_series[series] = any(passed[: tries if planned == 1 else min(tries, planned)])
    return moved


def beats(differences: Floats, planned: int, seed: int = 0) -> list[bool]:
    """Whether the rule `beat` of a policy with so many `decisions` holds, for each column of differences."""
    level, passed = LEVEL / planned, []
    for found in paired_differences(differences, resamples=RESAMPLES, seed=seed):
        pair = PairedComparison("new", "old", "accuracy", **vars(found), p_corrected=found.p, n=len(differences))
        passed.append(pair.p <= level and pair_interval(pair, level)[0] > 0)
    return passed


def rows_needed(accuracy: float, planned: int) -> int:
    """The fewest rows, in steps of 50, on which a candidate that is better by `GAIN` passes in 80% of the draws."""
    low, high = 0, 200  # in steps of 50
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if share_passed(accuracy, planned, 50 * middle) >= POWER else (middle, high)
    return 50 * high


def share_passed(accuracy: float, planned: int, rows: int) -> float:
    """Share of draws in which the better candidate passes; each column is a draw of its own rows."""
    rng, passed = np.random.default_rng(rows), 0
    for _ in range(DRAWS // 100):
        chance = rng.beta(accuracy, 1 - accuracy, (rows, 100))
        old, new = rng.random(chance.shape) < chance, rng.random(chance.shape) < chance
        new |= rng.random(chance.shape) < GAIN / (1 - accuracy)
        passed += sum(beats(np.subtract(new, old, dtype=float), planned))
    return passed / DRAWS


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each setting of the policy."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        shown = f"{row['value']:,}"
        if "low" in row:
            shown = f"{row['value']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
        lines.setdefault(row["system"], [row["system"]]).append(shown)
    head = ["", *dict.fromkeys(row["measure"] for row in rows)]
    shown = markdown_table(head, list(lines.values()))
    return f"{shown}\n\n{SERIES:,} series on {ROWS} rows; {DRAWS:,} draws for the rows."


if __name__ == "__main__":
    main()
