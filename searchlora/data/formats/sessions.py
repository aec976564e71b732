"""What one search session teaches: which failed query became which successful one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: Words that two queries may share without having anything to do with each other.
COMMON_WORDS = frozenset({"and", "for", "from", "how", "the", "what", "with", "without"})
SHORTEST_WORD = 3


@dataclass(frozen=True)
class Rules:
    """The thresholds of mining.

    Attributes:
        window: Seconds between a failed query and the success that it is paired with, at most.
        min_clicks: Clicks that make a query a success.
        similarity: Share of common letter triples from which two queries without a common word count as related.
        min_users: Users (sessions, where the log names no users) who must have issued a query.
        max_session: Queries in a session, above which it is taken for a robot's.
    """

    window: float = 600
    min_clicks: int = 1
    similarity: float = 0.3
    min_users: int = 3
    max_session: int = 200

    def told(self) -> tuple[str, ...]:
        """The rules in words, for the dataset card."""
        return (
            "Personal data is masked before anything else: mail, card, order and phone numbers.",
            "Queries that differ only in case, punctuation or spacing are one query, written in its commonest way.",
            "The same query again and again in a session is one query, with all of its clicks.",
            f"A query with at least {self.min_clicks} click(s) succeeded, any other failed.",
            f"A success is paired with every failed query before it, back to the success before and at most "
            f"{self.window:g} seconds, that shares with it a word of {SHORTEST_WORD} letters or more, or "
            f"{self.similarity:g} of their letter triples.",
            "A success without such a failed query succeeded at once: a pass-through row.",
            f"Sessions of more than {self.max_session} queries are left out.",
            f"Queries of fewer than {self.min_users} users are left out, on either side.",
            "Of several rewrites of one query, itself included, the one seen in most sessions is kept.",
        )


@dataclass(frozen=True, slots=True)
class Event:
    """A query of a session: `time` in seconds, the normalised `query`, the number of `clicks` it got."""

    time: float
    query: str
    clicks: int


def mine(events: Sequence[Event], rules: Rules) -> Iterator[tuple[str, str]]:
    """Pairs of a query and its rewrite out of one session in order of time; a pass-through is its own rewrite."""
    failed: list[Event] = []
    for event in _merged(events):
        if event.clicks < rules.min_clicks:
            failed.append(event)
            continue
        before = [
            earlier.query
            for earlier in failed
            if event.time - earlier.time <= rules.window and related(earlier.query, event.query, rules.similarity)
        ]
        yield from ((query, event.query) for query in dict.fromkeys(before or [event.query]))
        failed.clear()


def related(one: str, other: str, similarity: float) -> bool:
    """Whether two normalised queries share a word, or that share of their letter triples (Jaccard)."""
    if any(len(word) >= SHORTEST_WORD and word not in COMMON_WORDS for word in {*one.split()} & {*other.split()}):
        return True
    mine, its = _triples(one), _triples(other)
    return len(mine & its) >= similarity * len(mine | its)


def _triples(text: str) -> set[str]:
    padded = f"  {text} "
    return {padded[start : start + 3] for start in range(len(padded) - 2)}


def _merged(events: Sequence[Event]) -> Iterator[Event]:
    held: Event | None = None
    for event in events:
        if held is not None and held.query == event.query:
            held = Event(held.time, held.query, held.clicks + event.clicks)
            continue
        if held is not None:
            yield held
        held = event
    if held is not None:
        yield held
