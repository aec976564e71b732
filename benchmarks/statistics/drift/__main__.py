"""Drift of queries: false alarms on splits of one day, and how often injected drifts are found.

    python -m benchmarks.statistics.drift

README.md in this folder describes the figures. Half an hour on two cores.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.common import RESULTS, parser, real_data, save_figures
from searchlora.eval.drift import DriftTest, alarms, has_other_letters, queries_test, values_test, words_test
from searchlora.eval.formatting import markdown_table
from searchlora.eval.intervals import proportion
from searchlora.eval.text_identity import words
from searchlora.experiments.monitor import MIN_EFFECTS
from searchlora.experiments.options import DEFAULT_ENCODER
from searchlora.systems.encoder_baseline import FrozenEncoder

NAME = "drift"

#: Sessions before and now, one query each; draws of a split without a drift, and of each drift.
BEFORE, NOW, SPLITS, DRAWS = 1000, 300, 200, 50

#: Shares of the queries of now that a drift concerns.
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5)

#: What tells the queries apart: an encoder, or n-grams of letters.
ENCODERS: Mapping[str, str | None] = {"n-grams": None, "MiniLM": DEFAULT_ENCODER}

#: Cyrillic letters for Latin ones: the same words in another script.
_SCRIPT = str.maketrans("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопкрстувwхыз")

#: The name of a day whose queries are asked again.
AGAIN = "no drift, queries asked again"

#: Exponent of the frequencies of queries that are asked again.
_ZIPF = 0.8

#: Queries of one word less, at most three.
_SHORT = 3


def main() -> None:
    arguments = parser(f"statistics.{NAME}")
    arguments.add_argument("--draws", type=int, default=DRAWS, help="draws of each drift; fewer for a trial")
    draws = arguments.parse_args().draws
    rows = []
    for row in _rows(draws):
        print(f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})  {row['system']}; {row['measure']}")
        rows.append(row)
    if draws == DRAWS:
        save_figures(NAME, rows, [], {"table": table(rows)}, module=f"statistics.{NAME}")
        plot(rows, RESULTS / f"{NAME}.svg")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each drift and a column for each share, for each way to compare the queries."""
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    systems = list(dict.fromkeys(row["system"] for row in rows))
    cells = {
        (row["system"], row["measure"]): f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})" for row in rows
    }
    lines = [[system, *(cells.get((system, measure), "–") for measure in measures)] for system in systems]
    caption = f"Shares of {SPLITS} splits without a drift, and of {DRAWS} draws of each drift, with an alarm."
    return f"{markdown_table(['', *measures], lines, words=3)}\n\n{caption}"


def plot(rows: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Shares of draws with an alarm by the share of queries that a drift concerns, a panel for each drift."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    drifts = [name for name in dict.fromkeys(row["system"].partition(", ")[0] for row in rows) if name != "no drift"]
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    for panel, drift in zip(figure.subplots(1, len(drifts), sharey=True), drifts, strict=True):
        for encoder in ENCODERS:
            found = [row for row in rows if row["system"] == f"{drift}, {encoder}"]
            panel.plot([row["measure"] for row in found], [row["value"] for row in found], marker="o", label=encoder)
        panel.set(title=drift, ylim=(-0.03, 1.03))
    figure.axes[0].set_ylabel("draws with an alarm")
    figure.axes[0].legend(frameon=False)
    FigureCanvasSVG(figure).print_svg(str(target), metadata={"Date": None})


def _rows(draws: int) -> Iterator[dict[str, Any]]:
    splits = SPLITS if draws == DRAWS else draws
    cells: list[tuple[str, str, float, int]] = []
    for encoder in ENCODERS:
        cells += [(encoder, drift, 0.0, splits) for drift in ("no drift", AGAIN)]
        cells += [(encoder, drift, share, draws) for drift in CHANGES for share in SHARES]
    with ProcessPoolExecutor(initializer=_one_thread) as pool:
        yield from pool.map(_cell, cells)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _cell(cell: tuple[str, str, float, int]) -> dict[str, Any]:
    """The row of one drift, for one way to compare the queries and one share of the queries."""
    encoder, drift, share, draws = cell
    encode, (known, change) = _encode(encoder), _changed(drift)
    raised = [_raised(known, change, share, seed, encode, drift == AGAIN) for seed in range(draws)]
    return _row(f"{drift}, {encoder}", f"{share:.0%}", raised)


@cache
def _encode(name: str) -> Callable[[Sequence[str]], Any] | None:
    model = ENCODERS[name]
    return None if model is None else FrozenEncoder(model).encode_once


Change: TypeAlias = Callable[[list[str], random.Random], list[str]]


def _changed(drift: str) -> tuple[list[str], Change]:
    """The queries of a day, and what a drift makes of some of them."""
    labels = dict(_texts("banking77", "train.csv"))
    new = _of_new_intents(labels)
    known = [query for query in sorted(labels) if query not in set(new)]
    return known, partial(CHANGES[drift], new) if drift in CHANGES else lambda part, _: part


#: Drift -> what it makes of queries; the first argument are the queries of intents that the day does not have.
CHANGES: Mapping[str, Callable[[list[str], list[str], random.Random], list[str]]] = {
    "other domain": lambda _, part, rng: rng.choices(_shop(), k=len(part)),
    "new intents": lambda new, part, rng: rng.sample(new, len(part)),
    "short queries": lambda _, part, __: [" ".join(query.split()[:_SHORT]) for query in part],
    "typos": lambda _, part, rng: [_with_typo(query, rng) for query in part],
    "other script": lambda _, part, __: [query.lower().translate(_SCRIPT) for query in part],
}


@cache
def _shop() -> list[str]:
    return sorted({row["query"] for row in _csv("chorus", "rated.csv")})


def _raised(
    queries: Sequence[str],
    change: Change,
    share: float,
    seed: int,
    encode: Callable[[Sequence[str]], Any] | None,
    repeats: bool = False,
) -> bool:
    """Whether the tests of queries raise an alarm for one draw; with `repeats`, queries are drawn by Zipf's law."""
    rng = random.Random(seed)
    often = [rank**-_ZIPF for rank in range(1, len(queries) + 1)]
    shuffled = rng.sample(queries, len(queries))
    drawn = rng.choices(shuffled, often, k=BEFORE + NOW) if repeats else shuffled[: BEFORE + NOW]
    before, now = drawn[:BEFORE], drawn[BEFORE:]
    concerned = round(share * NOW)
    now = [*change(now[:concerned], rng), *now[concerned:]]
    # All users of now are among those of before, which is the hardest case for new words.
    one, other = ({f"session {n}": [query] for n, query in enumerate(of)} for of in (before, now))
    tests: list[DriftTest | None] = [queries_test(before, now, encode, seed), words_test(one, other)]
    for test, of in (("words", _length), ("other letters", has_other_letters)):
        values = [
            {session: [float(of(query)) for query in asked] for session, asked in each.items()} for each in (one, other)
        ]
        tests.append(values_test(test, values[0], values[1], test))
    return any(alarm.raised for alarm in alarms([test for test in tests if test is not None], MIN_EFFECTS))


def _length(query: str) -> int:
    return len(words(query))


def _of_new_intents(labels: Mapping[str, str]) -> list[str]:
    """The queries of every seventh intent, which no query of before has."""
    new = set(sorted(set(labels.values()))[::7])
    return sorted(query for query, label in labels.items() if label in new)


def _with_typo(query: str, rng: random.Random) -> str:
    """The query with two neighbouring letters exchanged in one of its longer words."""
    asked = query.split()
    places = [place for place, word in enumerate(asked) if len(word) > 4]
    if places:
        place = rng.choice(places)
        word = asked[place]
        at = rng.randrange(1, len(word) - 2)
        asked[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(asked)


def _texts(folder: str, file: str) -> list[tuple[str, str]]:
    return [(" ".join(row["text"].split()), row["category"]) for row in _csv(folder, file)]


def _csv(folder: str, file: str) -> list[dict[str, str]]:
    with (real_data() / folder / file).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _row(system: str, measure: str, raised: Sequence[bool]) -> dict[str, Any]:
    value, low, high = proportion(np.array(raised, float), np.ones(len(raised)))
    return {"system": system, "measure": measure, "value": value, "low": low, "high": high, "n": len(raised)}


if __name__ == "__main__":
    main()
