"""Candidates of a training row, and the choice of the one to train on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from searchlora.eval.text_identity import words
from searchlora.recipe import Improve
from searchlora.task import UNCHANGED

#: Rewards that differ by less are equal.
_EQUAL = 1e-9

#: Rows from which on a name counts as a kind of its own.
MANY = 30

#: Iterations of the fit of kinds.
_ITERATIONS = 30


@dataclass(frozen=True)
class Candidate:
    """One candidate completion of a training row.

    Attributes:
        name: Where it comes from: `unchanged`, `reference`, `sample: 3`, the name of a rule.
        text: The completion.
        reward: The task's reward; None where the row cannot be rewarded.
        valid: Whether the task can parse it.
        kept: Whether it keeps the protected words.
    """

    name: str
    text: str
    reward: float | None
    valid: bool = True
    kept: bool = True

    @property
    def kind(self) -> str:
        """The name without the detail after its colon."""
        return self.name.partition(": ")[0]


@dataclass(frozen=True)
class Row:
    """A training row with its candidates.

    Attributes:
        id: Id of the record.
        candidates: All candidates, each text once.
        sampled, valid_samples: Numbers of samples, before equal ones became one, and of those that parse.
    """

    id: str
    candidates: tuple[Candidate, ...]
    sampled: int = 0
    valid_samples: int = 0

    def named(self, name: str) -> Candidate | None:
        """The candidate of a name."""
        return next((candidate for candidate in self.candidates if candidate.name == name), None)


def choose(rows: Sequence[Row], settings: Improve) -> list[Candidate | None]:
    """The candidate of each row to train on; None if none has a reward above `min_reward`.

    The highest reward wins; the unchanged input wins unless another candidate gains more than `min_gain`; of equal
    candidates the shortest wins. Candidates that do not parse or lose a protected word never win.

    A row's reward is noisy, often the rank of one document. With `kind_weight` w, w times the effect of a candidate's
    kind over all rows is added to its reward: of its name, if at least `MANY` rows have it, else of the part before the
    colon. A candidate with a lower reward than the unchanged input still never wins.

    Examples:
        >>> row = Row("1", (Candidate("unchanged", "red tent", 1.0), Candidate("sample: 1", "tent", 1.0)))
        >>> [winner.text for winner in choose([row], Improve())]
        ['red tent']
        >>> better = Row("2", (Candidate("rule", "a red tent", 2.0), *row.candidates))
        >>> [winner.text for winner in choose([better, row], Improve())]
        ['a red tent', 'red tent']
    """
    gains = _kind_effects(rows) if settings.kind_weight else {}
    return [_best(row, settings, gains) for row in rows]


def _best(row: Row, settings: Improve, gains: Mapping[str, float]) -> Candidate | None:
    eligible = [
        candidate
        for candidate in row.candidates
        if candidate.valid and candidate.reward is not None and (candidate.kept or candidate.name == UNCHANGED)
    ]
    if not eligible or max(candidate.reward or 0.0 for candidate in eligible) <= settings.min_reward + _EQUAL:
        return None

    def score(candidate: Candidate) -> float:
        return (candidate.reward or 0.0) + settings.kind_weight * gains.get(
            candidate.name, gains.get(candidate.kind, 0.0)
        )

    unchanged = next((candidate for candidate in eligible if candidate.name == UNCHANGED), None)
    if unchanged is not None:  # what its kind gains elsewhere is no reason to lose here
        least = (unchanged.reward or 0.0) - _EQUAL
        eligible = [candidate for candidate in eligible if candidate.reward is not None and candidate.reward >= least]
    highest = max(map(score, eligible))
    if unchanged is not None and highest - score(unchanged) <= settings.min_gain + _EQUAL:
        return unchanged
    return min(
        (candidate for candidate in eligible if score(candidate) >= highest - _EQUAL),
        key=lambda candidate: len(candidate.text),
    )


def _kind_effects(rows: Sequence[Row]) -> dict[str, float]:
    """Effect of each kind of candidate on the reward, over that of the unchanged input.

    Kinds are compared within rows, since some are there for easy rows only: a reward is the effect of its row plus that
    of its kind, fitted by alternating least squares (a two-way additive model).
    """
    numbers = Counter(candidate.name for row in rows for candidate in row.candidates if candidate.reward is not None)
    observed: list[list[tuple[str, float]]] = [
        [
            (candidate.name if numbers[candidate.name] >= MANY else candidate.kind, candidate.reward)
            for candidate in row.candidates
            if candidate.reward is not None
        ]
        for row in rows
    ]
    effects: dict[str, float] = defaultdict(float)
    for _ in range(_ITERATIONS):
        residuals: dict[str, list[float]] = defaultdict(list)
        for of_row in observed:
            if of_row:
                row_effect = sum(reward - effects[kind] for kind, reward in of_row) / len(of_row)
                for kind, reward in of_row:
                    residuals[kind].append(reward - row_effect)
        effects.update({kind: sum(values) / len(values) for kind, values in residuals.items()})
    base = effects.get(UNCHANGED, 0.0)
    return {kind: effect - base for kind, effect in effects.items()}


def worst(row: Row) -> Candidate | None:
    """The candidate with the lowest reward that parses, the longest of equal ones."""
    rated = [candidate for candidate in row.candidates if candidate.valid and candidate.reward is not None]
    return min(rated, key=lambda candidate: (candidate.reward, -len(candidate.text)), default=None)


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
