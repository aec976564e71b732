"""Interleaving: two systems answer one search together, and the clicks of users say which is better.

Both methods give each shown hit a credit from -1 (system A) to 1 (system B); the outcome of a user is the sign of
the sum over the clicked hits of the first search in which it is not 0. Later searches do not change it: an outcome
that may still change would allow one to wait until it is the wished one.

* Team-draft (Radlinski, Kurup and Joachims, How Does Clickthrough Data Reflect Retrieval Quality?, CIKM 2008): in each
  round a coin decides which system picks first, and each picks its best hit that is left. A hit has credit only if
  both systems could pick in its round: at the end of the shorter list, the other one would win by blind clicks.
* Probabilistic (Hofmann, Whiteson and de Rijke, A Probabilistic Method for Inferring Preferences from Clicks, CIKM
  2011): at each rank a coin decides which system draws a hit, with a probability that falls with the cube of its rank.
  The credit is the expectation over all coins that would have shown the same hits, so a hit that both rank alike has
  none. Nor have the hits that are left when one list is shown completely.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from searchlora.eval.preference import Preference, preference
from searchlora.events.export import Search, chosen, user_of
from searchlora.events.log import Feedback

Method = Literal["team_draft", "probabilistic"]
METHODS: tuple[str, ...] = get_args(Method)

#: Exponent of the rank in probabilistic interleaving, as in its paper.
_EXPONENT = 3

#: Key of an event whose hits are interleaved: `other`, the second system, `method`, `credits` of the hits, and
#: `adapters`, the versions in either system.
INTERLEAVED = "interleaved"


class Interleaved(NamedTuple):
    """Hits of two systems in one ranking."""

    documents: list[str]
    credits: list[float]


def interleave(
    a: Sequence[str], b: Sequence[str], k: int, method: Method = "team_draft", rng: random.Random | None = None
) -> Interleaved:
    """Interleave two rankings of one query.

    The hits with which both begin have no credit: a click on them says nothing, and would only add noise.

    Examples:
        >>> found = interleave(["x", "y", "z"], ["z", "y", "w"], 3, rng=random.Random(1))
        >>> found.documents, found.credits
        (['z', 'x', 'y'], [1.0, -1.0, -1.0])
        >>> interleave(["x", "y"], ["x", "y"], 2).credits
        [0.0, 0.0]
    """
    same = next((rank for rank, pair in enumerate(zip(a, b, strict=False)) if len({*pair}) > 1), min(len(a), len(b)))
    found = _METHODS[method](a[same:], b[same:], max(0, k - same), rng or random.SystemRandom())
    return Interleaved([*a[:same], *found.documents][:k], [*[0.0] * same, *found.credits][:k])


def _team_draft(a: Sequence[str], b: Sequence[str], k: int, rng: random.Random) -> Interleaved:
    documents: list[str] = []
    credits: list[float] = []
    seen = set[str]()
    queues = iter(a), iter(b)
    while len(documents) < k:
        first = rng.random() < 0.5
        picked: list[float] = []
        for team in (int(first), int(not first)):
            document = next((each for each in queues[team] if each not in seen), None)
            if document is not None:
                seen.add(document)
                documents.append(document)
                picked.append(1.0 if team else -1.0)
        if not picked:
            break
        credits += picked if len(picked) == 2 else [0.0]
    return Interleaved(documents[:k], credits[:k])


def _probabilistic(a: Sequence[str], b: Sequence[str], k: int, rng: random.Random) -> Interleaved:
    weights = [{document: 1 / rank**_EXPONENT for rank, document in enumerate(ranking, 1)} for ranking in (a, b)]
    documents: list[str] = []
    credits: list[float] = []
    while len(documents) < k and any(weights):
        left = [part for part in weights if part]
        drawn = rng.choice(left)
        document = rng.choices([*drawn], [*drawn.values()])[0]
        shares = [part.get(document, 0.0) / sum(part.values()) if part else 0.0 for part in weights]
        documents.append(document)
        credits.append((shares[1] - shares[0]) / (shares[0] + shares[1]) if all(weights) else 0.0)
        for part in weights:
            part.pop(document, None)
    return Interleaved(documents, credits)


_METHODS: Mapping[str, Callable[[Sequence[str], Sequence[str], int, random.Random], Interleaved]] = {
    "team_draft": _team_draft,
    "probabilistic": _probabilistic,
}


def preferences(searches: Iterable[Search], alpha: float = 0.05) -> dict[tuple[str, str], Preference]:
    """The preference between each two pipelines that were interleaved, by their names A and B."""
    tallies: dict[tuple[str, str], _Tally] = {}
    for event, feedback in searches:
        if INTERLEAVED in event:
            tally = tallies.setdefault((event["pipeline"], event[INTERLEAVED]["other"]), _Tally())
            tally.add(event, feedback, 1.0)
    return {systems: tally.preference(alpha) for systems, tally in tallies.items()}


def preference_for(
    searches: Iterable[Search], candidate: str, incumbent: str | None, alpha: float = 0.05
) -> Preference | None:
    """The preference for the pipelines with a candidate, as B, over those with the incumbent.

    Returns None without such searches.
    """
    tally = _Tally()
    for event, feedback in searches:
        sides = event.get(INTERLEAVED, {}).get("adapters", ((), ()))
        for own, other, sign in ((sides[1], sides[0], 1.0), (sides[0], sides[1], -1.0)):
            if candidate in own and candidate not in other and (incumbent is None or incumbent in other):
                tally.add(event, feedback, sign)
    return tally.preference(alpha) if tally.searches else None


@dataclass
class _Tally:
    """Of each user with a click, the credits of the first search in which they are not 0."""

    searches: int = 0
    credits: dict[str, float] = field(default_factory=dict)

    def add(self, event: Mapping[str, Any], feedback: Sequence[Feedback], sign: float) -> None:
        """Add a search; `sign` is 1 if B is the second system."""
        self.searches += 1
        if clicked := {*chosen(event, feedback)}:
            of_hits = zip(event["hits"], event[INTERLEAVED]["credits"], strict=True)
            credit = round(sign * sum(credit for document, credit in of_hits if document in clicked), 9)
            user = user_of(event)
            self.credits[user] = self.credits.get(user) or credit

    def preference(self, alpha: float) -> Preference:
        """The preference so far."""
        return preference(self.credits.values(), self.searches, alpha)
