"""Candidates of a training row, and the choice of the one to train on."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from searchlora.eval.text_identity import words
from searchlora.recipe import Improve
from searchlora.task import UNCHANGED

#: Rewards that differ by less are equal.
_EQUAL = 1e-9

#: Rows from which on a part of a name has an effect of its own.
MANY = 30

#: Ridge of the effects, in candidates: small beside `MANY`, so that only what has few of them is drawn to 0.
_RIDGE = 1.0


@dataclass(frozen=True)
class Candidate:
    """One candidate completion of a training row."""

    name: str
    text: str
    reward: float | None  # the task's reward; None where the row cannot be rewarded
    valid: bool = True
    kept: bool = True

    @property
    def kind(self) -> str:
        """The name without the detail after its colon."""
        return self.name.partition(": ")[0]

    @property
    def parts(self) -> list[str]:
        """`without: a` and `without: b` of `without: a, b`; nothing of the unchanged input."""
        kind, _, detail = self.name.partition(": ")
        if self.name == UNCHANGED:
            return []
        return [f"{kind}: {part}" for part in detail.split(", ")] if detail else [kind]


@dataclass(frozen=True)
class Row:
    """A training row with its candidates."""

    id: str
    candidates: tuple[Candidate, ...]
    sampled: int = 0
    valid_samples: int = 0

    @property
    def is_rewarded(self) -> bool:
        """Whether a candidate has a reward: no query without a judgment has one."""
        return any(candidate.reward is not None for candidate in self.candidates)

    def named(self, name: str) -> Candidate | None:
        """The candidate of a name."""
        return next((candidate for candidate in self.candidates if candidate.name == name), None)


def choose(rows: Sequence[Row], settings: Improve) -> list[Candidate | None]:
    """The candidate of each row to train on; None if none has a reward above `min_reward`.

    The highest reward wins, but a further change must gain more than `min_gain`: of the candidates that are within it
    of the highest, the one with the fewest parts in its name wins, and the unchanged input has none. Of equal
    candidates the shortest wins. Candidates that do not parse or lose a protected word never win.

    A row's reward is noisy, often the rank of one document. With `kind_weight` w, w times the effect of what the
    candidate changes, over all rows, is added to its reward. The effects of the parts of a name add up: that of
    `without: new, movie` is that of `without: new` plus that of `without: movie`. Parts that fewer than `MANY` rows
    have share one effect of their kind. A candidate with a lower reward than the unchanged input still never wins.

    Examples:
        >>> row = Row("1", (Candidate("unchanged", "red tent", 1.0), Candidate("sample: 1", "tent", 1.0)))
        >>> [winner.text for winner in choose([row], Improve())]
        ['red tent']
        >>> better = Row("2", (Candidate("rule", "a red tent", 2.0), *row.candidates))
        >>> [winner.text for winner in choose([better, row], Improve())]
        ['a red tent', 'red tent']
    """
    effects = _effects(rows) if settings.kind_weight else {}
    return [_best(row, settings, effects) for row in rows]


def _best(row: Row, settings: Improve, effects: Mapping[str, float]) -> Candidate | None:
    eligible = [
        candidate
        for candidate in row.candidates
        if candidate.valid and candidate.reward is not None and (candidate.kept or candidate.name == UNCHANGED)
    ]
    if not eligible or max(candidate.reward or 0.0 for candidate in eligible) <= settings.min_reward + _EQUAL:
        return None

    def score(candidate: Candidate) -> float:
        return (candidate.reward or 0.0) + settings.kind_weight * effects.get(candidate.name, 0.0)

    unchanged = next((candidate for candidate in eligible if candidate.name == UNCHANGED), None)
    if unchanged is not None:  # what its kind gains elsewhere is no reason to lose here
        least = (unchanged.reward or 0.0) - _EQUAL
        eligible = [candidate for candidate in eligible if candidate.reward is not None and candidate.reward >= least]
    least = max(map(score, eligible)) - settings.min_gain - _EQUAL
    near = [candidate for candidate in eligible if score(candidate) >= least]
    fewest = min(len(candidate.parts) for candidate in near)
    near = [candidate for candidate in near if len(candidate.parts) == fewest]
    highest = max(map(score, near))
    return min((each for each in near if score(each) >= highest - _EQUAL), key=lambda candidate: len(candidate.text))


def _effects(rows: Sequence[Row]) -> dict[str, float]:
    """Name of a candidate -> effect of what it changes on the reward, over that of the unchanged input.

    Candidates are compared within rows, since some are there for easy rows only: a reward is the effect of its row plus
    those of what its name says, fitted by ridge regression (a two-way additive model).
    """
    rewarded = [[candidate for candidate in row.candidates if candidate.reward is not None] for row in rows]
    row_counts = Counter(part for of_row in rewarded for part in {part for each in of_row for part in each.parts})
    columns: dict[str, int] = {}
    columns_of: dict[str, list[int]] = {}
    for candidate in itertools.chain.from_iterable(rewarded):
        features = (part if row_counts[part] >= MANY else candidate.kind for part in candidate.parts)
        columns_of[candidate.name] = [columns.setdefault(feature, len(columns)) for feature in features]
    squares, products = _RIDGE * np.eye(len(columns)), np.zeros(len(columns))
    for of_row in rewarded:
        used = sorted({column for candidate in of_row for column in columns_of[candidate.name]})
        if not used:
            continue
        design = np.array(
            [[columns_of[candidate.name].count(column) for column in used] for candidate in of_row], float
        )
        design -= design.mean(axis=0)  # without the effect of the row
        squares[np.ix_(used, used)] += design.T @ design
        products[used] += design.T @ np.array([candidate.reward for candidate in of_row])
    effects = np.linalg.solve(squares, products)
    return {name: float(effects[of_name].sum()) for name, of_name in columns_of.items()}


def oddness(text: str, known: Iterable[str]) -> float:
    """Share of the words of a text that are repeated or in none of the known texts, from 0 to 1.

    Examples:
        >>> oddness("red tent tent zzz", ["a red tent"])
        0.5
    """
    own = words(text)
    expected = {word for other in known for word in words(other)}
    odd = sum(word not in expected or word in own[:place] for place, word in enumerate(own))
    return odd / max(1, len(own))


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of no values."""
    return sum(values) / len(values) if values else None
