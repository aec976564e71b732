"""Decisions from few labels: coverage of the watched interval, false decisions, and labels needed.

    python -m benchmarks.statistics.few_labels

README.md in this folder describes the figures. A quarter of an hour on two cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks.common import parser, real_data, save_figures
from benchmarks.statistics.few_labels.collections import Collection, collections
from benchmarks.statistics.few_labels.simulation import POWER, Draw, Pair, watched_classically, whole_topics
from searchlora.eval.formatting import markdown_table
from searchlora.eval.intervals import proportion

NAME = "few_labels"
DRAWS = 100


def main() -> None:
    arguments = parser(f"statistics.{NAME}")
    arguments.add_argument("--draws", type=int, default=DRAWS, help="draws of each two systems; fewer for a trial")
    draws = arguments.parse_args().draws
    rows = []
    with ProcessPoolExecutor() as pool:
        for collection in collections(real_data()):
            pairs = collection.pairs()
            drawn = list(pool.map(partial(_draws, collection, draws), pairs))
            for row in _rows(collection, pairs, drawn):
                print(f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})  {row['system']}; {row['measure']}")
                rows.append(row)
    if draws == DRAWS:
        save_figures(NAME, rows, [], {"table": table(rows)}, module=f"statistics.{NAME}")


#: Columns of the two tables: of collections, and of two systems.
_OF_COLLECTIONS = (
    *("coverage, watched", "coverage, no difference", "false promotions", "wrong decisions"),
    "classical interval, watched: false",
)
_OF_SYSTEMS = (
    *("decided", "labels", "labels, without a judge"),
    *("labels, 80% of draws", "labels, whole topics", "all pairs"),
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tables of the README: of collections, and of two systems."""
    found = {(row["system"], row["measure"]): row for row in rows}
    systems = list(dict.fromkeys(row["system"] for row in rows))
    tables = []
    for measures, digits in ((_OF_COLLECTIONS, "{:.3f}"), (_OF_SYSTEMS, "{:.0f}")):
        lines = [
            [system, *(_cell(found.get((system, measure)), digits) for measure in measures)]
            for system in systems
            if (system, measures[0]) in found
        ]
        tables.append(markdown_table(["", *measures], lines, words=3))
    return "\n\n".join([*tables, f"{DRAWS} draws of each two systems."])


def _cell(row: Mapping[str, Any] | None, digits: str) -> str:
    """A value with its interval or quartiles; a dash for none, and no ends where they are the value."""
    if row is None:
        return "–"
    digits = "{:.2f}" if row["measure"] == "decided" else digits
    value, low, high = (digits.format(row[end]) for end in ("value", "low", "high"))
    return value if low == high else f"{value} ({low} to {high})"


#: Draws of two systems: with the judge, without it, and without a difference between the systems.
Drawn = tuple[float, Sequence[Draw], Sequence[Draw], Sequence[Draw]]


def _draws(collection: Collection, draws: int, systems: tuple[str, str]) -> Drawn:
    pair = Pair(collection, *systems)
    with_judge = pair.draws(draws)
    without = pair.draws(draws, judge=False) if collection.judged else with_judge
    return pair.difference, with_judge, without, pair.draws(draws, null=True)


def _rows(collection: Collection, pairs: Sequence[tuple[str, str]], drawn: Sequence[Drawn]) -> Iterator[dict[str, Any]]:
    name = collection.name
    yield _share(name, "coverage, watched", [[draw.covered for draw in one[1]] for one in drawn])
    yield _share(name, "coverage, no difference", [[draw.covered for draw in one[3]] for one in drawn])
    yield _share(name, "false promotions", [[draw.decision == "candidate" for draw in one[3]] for one in drawn])
    yield _share(name, "wrong decisions", [[_wrong(draw, one[0]) for draw in one[1]] for one in drawn])
    watched = np.array([watched_classically(one[3]) for one in drawn])
    yield {**_row(name, "classical interval, watched: false"), **_range(watched)}
    for systems, (difference, with_judge, without, _) in zip(pairs, drawn, strict=True):
        system = f"{name}: {' − '.join(systems)} = {difference:+.3f}"
        yield _share(system, "decided", [[draw.decision != "open" for draw in with_judge]])
        yield _labels(system, "labels", with_judge)
        yield _labels(system, "labels, without a judge", without)
        most = float(np.quantile([draw.labels for draw in with_judge], POWER))
        yield {**_row(system, "labels, 80% of draws"), "value": most, "low": most, "high": most}
        whole = whole_topics(with_judge)
        everything = float(np.mean([draw.pairs for draw in with_judge]))
        if whole is not None:
            yield {**_row(system, "labels, whole topics"), "value": whole, "low": whole, "high": whole}
        yield {**_row(system, "all pairs"), "value": everything, "low": everything, "high": everything}


def _wrong(draw: Draw, difference: float) -> bool:
    return draw.decision != "open" and (draw.decision == "candidate") != (difference > 0)


def _row(system: str, measure: str) -> dict[str, Any]:
    return {"system": system, "measure": measure}


def _share(system: str, measure: str, held: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """A share over all draws, with the interval over two systems as clusters."""
    hits, sizes = (np.array([float(of(one)) for one in held]) for of in (sum, len))
    value, low, high = proportion(hits, sizes) if len(held) > 1 else proportion(*_singles(held[0]))
    return {**_row(system, measure), "value": value, "low": low, "high": high, "n": int(sizes.sum())}


def _singles(held: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(held, dtype=float), np.ones(len(held))


def _labels(system: str, measure: str, draws: Sequence[Draw]) -> dict[str, Any]:
    """Median and quartiles of the labels until the decision; all pairs where none fell."""
    low, value, high = np.quantile([draw.labels for draw in draws], [0.25, 0.5, 0.75]).tolist()
    return {**_row(system, measure), "value": value, "low": low, "high": high, "n": len(draws)}


def _range(values: np.ndarray) -> dict[str, float]:
    return {"value": float(np.median(values)), "low": float(values.min()), "high": float(values.max())}


if __name__ == "__main__":
    main()
