"""Assignment of query-passage pairs to raters: overlap, seats and progress, independent of HTTP."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from searchlora.errors import UsageError
from searchlora.eval.judgments.ratings import Rating, check_rater
from searchlora.experiments.judge.pairs import QueryPassage
from searchlora.server.grading.guideline import RatingGuideline
from searchlora.server.grading.ratings_log import RatingsLog

#: Seconds for which a pair on a rater's screen is reserved.
RESERVATION_SECONDS = 15 * 60

#: New names that one client address may use, unless the raters are listed. Without a limit one client could reserve or
#: rate all pairs under invented names.
NAMES_PER_ADDRESS = 5

#: Names that all addresses together may use, unless the raters are listed.
MAX_RATERS = 1000


def blind_id(pair: QueryPassage) -> str:
    """What identifies a pair in the browser: ids or pool positions could reveal which system retrieved the passage."""
    return hashlib.sha256(f"{pair.topic} {pair.document.id}".encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Progress:
    """Pairs that a rater has rated (`done`) out of those that are or may become this rater's (`total`).

    Pairs on other raters' screens are counted in `total`: they are assigned to this rater if the others leave.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Assignment:
    """A pair to show to a rater, with the rater's own earlier rating of it."""

    id: str
    pair: QueryPassage
    earlier: Rating | None


class Session:
    """State of a grading session: all ratings, and the pair on each rater's screen. Thread-safe.

    A pair is assigned to `overlap` raters. Each rater has a random order of the topics and of the pairs within a
    topic, derived from the seed and the rater's name. All state but the reservations is read from the ratings log, so a
    restarted server continues where each rater stopped.

    Without a list of raters, a client address may use `NAMES_PER_ADDRESS` names besides those that have ratings.

    `clock`: Monotonic time in seconds.
    """

    def __init__(
        self,
        pairs: Iterable[QueryPassage],
        guideline: RatingGuideline,
        log: RatingsLog,
        *,
        overlap: int,
        seed: int,
        raters: Collection[str] | None = None,
        as_listed: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if overlap < 1:
            raise UsageError(f"{overlap} raters per pair are too few", where="--overlap", fix="Give 1 or more.")
        self.guideline = guideline
        self._allowed = None if raters is None else frozenset(map(check_rater, raters))
        self._names: dict[str, set[str]] = {}  # client address -> new names
        self._pairs = {blind_id(pair): pair for pair in pairs}
        self._ids = {(pair.topic, pair.document.id): id_ for id_, pair in self._pairs.items()}
        self._log = log
        self._overlap = overlap
        self._seed = seed
        self._as_listed = as_listed
        self._clock = clock
        self._lock = threading.RLock()
        self._orders: dict[str, list[str]] = {}
        self._ratings: dict[str, dict[str, Rating]] = {}
        self._raters: dict[str, set[str]] = {id_: set() for id_ in self._pairs}
        self._reserved: dict[str, tuple[str, float]] = {}
        for rating in log.ratings:
            self._check_grade(rating.grade)
            self._add(rating)

    def progress(self, rater: str) -> Progress:
        """A rater's progress. Raises `UsageError` for an invalid name."""
        with self._lock:
            done = len(self._ratings.get(self._check_rater(rater), {}))
            return Progress(done, done + sum(1 for pair in self._pairs if self._has_seat(pair, rater)))

    def next(self, rater: str, address: str = "") -> Assignment | None:
        """The pair to rate now, the same one until it is rated; None when no pair is available to this rater."""
        with self._lock:
            self._admit(rater, address)
            pair, _ = self._reserved.get(rater, ("", 0.0))
            if not (pair and self._is_available(pair, rater)):
                pair = next((candidate for candidate in self._order(rater) if self._is_available(candidate, rater)), "")
            if not pair:
                self._reserved.pop(rater, None)
                return None
            self._reserved[rater] = pair, self._clock()
            return Assignment(pair, self._pairs[pair], None)

    def before(self, rater: str, pair: str) -> Assignment | None:
        """The pair that this rater rated before `pair`, or last if `pair` is not rated yet; None if there is none."""
        with self._lock:
            ratings = self._ratings.get(self._check_rater(rater), {})
            rated = list(ratings)
            position = rated.index(pair) if pair in ratings else len(rated)
            if position == 0:
                return None
            earlier = rated[position - 1]
            return Assignment(earlier, self._pairs[earlier], ratings[earlier])

    def rate(self, rater: str, pair: str, grade: int | None, *, seconds: float, note: str, address: str = "") -> None:
        """Append a rating, or a correction of one, to the log; on return it is on disk."""
        with self._lock:
            self._admit(rater, address)
            self._check_grade(grade)
            if pair not in self._pairs:
                raise UsageError("there is no such pair", fix="Load the page again.")
            shown = self._pairs[pair]
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            rating = Rating(shown.topic, shown.document.id, grade, rater, now, seconds, note)
            self._log.append(rating)
            self._add(rating)

    def _check_rater(self, rater: str) -> str:
        if self._allowed is not None and check_rater(rater) not in self._allowed:
            raise UsageError(
                f"'{rater}' is not among the raters", fix="Use the name that you were given, or ask for your name."
            )
        return check_rater(rater)

    def _admit(self, rater: str, address: str) -> None:
        """Let a rater take part, or raise `UsageError`."""
        self._check_rater(rater)
        if self._allowed is not None or rater in self._ratings or any(rater in names for names in self._names.values()):
            return
        names = self._names.setdefault(address, set())
        listing = "list the raters with --rater when starting the server."
        if len(names) >= NAMES_PER_ADDRESS:
            raise UsageError(
                f"too many names from this address (at most {NAMES_PER_ADDRESS})", fix=f"Use one of them; or {listing}"
            )
        if sum(map(len, self._names.values())) >= MAX_RATERS:
            raise UsageError(
                f"too many names in this session (at most {MAX_RATERS})", fix=f"Use one that has grades; or {listing}"
            )
        names.add(rater)

    def _check_grade(self, grade: int | None) -> None:
        if grade is not None and grade not in self.guideline.scale:
            scale = ", ".join(map(str, self.guideline.scale))
            raise UsageError(
                f"the grade {grade} is not on the scale {scale}",
                where=str(self._log.path),
                fix="A file holds ratings on one scale: name another folder for another scale.",
            )

    def _add(self, rating: Rating) -> None:
        pair = self._ids.get(rating.pair)
        if pair is not None:  # ratings of pairs outside this session stay in the file and are not counted
            self._ratings.setdefault(rating.rater, {})[pair] = rating
            self._raters[pair].add(rating.rater)

    def _has_seat(self, pair: str, rater: str) -> bool:
        """Whether the pair needs more ratings and has none of this rater."""
        return rater not in self._raters[pair] and len(self._raters[pair]) < self._overlap

    def _is_available(self, pair: str, rater: str) -> bool:
        """Whether the pair has a seat that no other rater has reserved."""
        reserved = sum(
            1
            for other, (on_screen, since) in self._reserved.items()
            if on_screen == pair
            and other not in (rater, *self._raters[pair])
            and self._clock() - since < RESERVATION_SECONDS
        )
        return self._has_seat(pair, rater) and len(self._raters[pair]) + reserved < self._overlap

    def _order(self, rater: str) -> list[str]:
        if self._as_listed:
            return list(self._pairs)
        if rater not in self._orders:
            topics: dict[str, list[str]] = {}
            for id_, pair in self._pairs.items():
                topics.setdefault(pair.topic, []).append(id_)
            rng = random.Random(f"{self._seed} {rater}")
            shuffled = sorted(topics)
            rng.shuffle(shuffled)
            for topic in shuffled:
                topics[topic].sort()  # removes the pool order before shuffling
                rng.shuffle(topics[topic])
            self._orders[rater] = [pair for topic in shuffled for pair in topics[topic]]
        return self._orders[rater]
