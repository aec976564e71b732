"""Who grades which pair next. Several people and several tabs at once; nothing here knows the web."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from searchlora.errors import UsageError
from searchlora.eval.judgments.ratings import Rating, check_rater
from searchlora.server.grading.guideline import Guideline
from searchlora.server.grading.ledger import Ledger
from searchlora.server.grading.pairs import Pair

#: How long a pair that somebody is looking at is kept from others, in seconds.
CLAIM_LASTS = 15 * 60


@dataclass(frozen=True)
class Progress:
    """How many pairs a rater has rated, of how many that are this rater's as things stand.

    What others are looking at is among them: it may yet fall to this rater.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Shown:
    """A pair as it is put before a rater, with what this rater said about it earlier."""

    pair: Pair
    earlier: Rating | None


class Session:
    """The state of a grading: what everybody has rated, and what everybody is looking at.

    A pair goes to `overlap` raters. Each rater has an order of his or her own, made of the seed and the name, in which
    the pairs of a topic stay together. All state but who is looking at what is read from the ledger, so a restart goes
    on where everyone was.

    Args:
        overlap: Raters per pair, 1 or more. One more may come to a pair that lay open for long; no grade is refused.
        clock: Seconds that only grow.

    Raises:
        UsageError: when the overlap is below 1, or the ledger holds a grade that is not on the scale.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        guideline: Guideline,
        ledger: Ledger,
        *,
        overlap: int,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if overlap < 1:
            raise UsageError(f"{overlap} raters per pair are too few", where="--overlap")
        self.guideline = guideline
        self._pairs = {pair.id: pair for pair in pairs}
        self._ids = {(pair.topic, pair.document): pair.id for pair in pairs}
        self._ledger = ledger
        self._overlap = overlap
        self._seed = seed
        self._clock = clock
        self._lock = threading.RLock()
        self._orders: dict[str, list[str]] = {}
        self._said: dict[str, dict[str, Rating]] = {}
        self._raters: dict[str, set[str]] = {pair.id: set() for pair in pairs}
        self._looking: dict[str, tuple[str, float]] = {}
        for rating in ledger.ratings:
            self._check_grade(rating.grade)
            self._note(rating)

    def progress(self, rater: str) -> Progress:
        """Raises `UsageError` for a name outside the grammar."""
        with self._lock:
            done = len(self._said.get(check_rater(rater), {}))
            return Progress(done, done + sum(1 for pair in self._pairs if self._has_seat(pair, rater)))

    def next(self, rater: str) -> Shown | None:
        """The pair to rate now, the same one until it is rated; None when nothing is left for this rater.

        Raises:
            UsageError: for a name outside the grammar.
        """
        with self._lock:
            looking, _ = self._looking.get(check_rater(rater), ("", 0.0))
            if not (looking and self._open(looking, rater)):
                looking = next((pair for pair in self._order(rater) if self._open(pair, rater)), "")
            if not looking:
                self._looking.pop(rater, None)
                return None
            self._looking[rater] = looking, self._clock()
            return Shown(self._pairs[looking], None)

    def before(self, rater: str, pair: str) -> Shown | None:
        """The pair that this rater rated before `pair`, or last, if `pair` is not rated yet; None when there is none.

        Raises:
            UsageError: for a name outside the grammar.
        """
        with self._lock:
            said = self._said.get(check_rater(rater), {})
            rated = list(said)
            place = rated.index(pair) if pair in said else len(rated)
            return Shown(self._pairs[rated[place - 1]], said[rated[place - 1]]) if place else None

    def rate(self, rater: str, pair: str, grade: int | None, *, seconds: float, note: str) -> None:
        """Keep a grade, or a correction of one; on return it is on the disk.

        Raises:
            UsageError: for a name outside the grammar, an unknown pair or a grade that is not on the scale.
            DataError: when it could not be saved.
        """
        with self._lock:
            self._check_grade(grade)
            if pair not in self._pairs:
                raise UsageError("there is no such pair", fix="Load the page again.")
            about = self._pairs[pair]
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            rating = Rating(about.topic, about.document, grade, check_rater(rater), now, seconds, note)
            self._ledger.append(rating)
            self._note(rating)

    def _check_grade(self, grade: int | None) -> None:
        if grade is not None and grade not in self.guideline.grades:
            scale = ", ".join(str(grade.grade) for grade in self.guideline.scale)
            raise UsageError(
                f"the grade {grade} is not on the scale {scale}",
                where=str(self._ledger.path),
                fix="Grades of two scales do not go into one file: name another folder.",
            )

    def _note(self, rating: Rating) -> None:
        pair = self._ids.get(rating.pair)
        if pair is not None:  # ratings of an earlier pool stay in the file and are no part of this grading
            self._said.setdefault(rating.rater, {})[pair] = rating
            self._raters[pair].add(rating.rater)

    def _has_seat(self, pair: str, rater: str) -> bool:
        """Whether this rater has not rated the pair, and fewer others than it needs have."""
        return rater not in self._raters[pair] and len(self._raters[pair]) < self._overlap

    def _open(self, pair: str, rater: str) -> bool:
        """Whether the pair may be put before this rater: it has a seat that nobody else is sitting on."""
        sitting = sum(
            1
            for other, (looking, since) in self._looking.items()
            if looking == pair and other not in (rater, *self._raters[pair]) and self._clock() - since < CLAIM_LASTS
        )
        return self._has_seat(pair, rater) and len(self._raters[pair]) + sitting < self._overlap

    def _order(self, rater: str) -> list[str]:
        if rater not in self._orders:
            topics: dict[str, list[str]] = {}
            for pair in self._pairs.values():
                topics.setdefault(pair.topic, []).append(pair.id)
            chance = random.Random(f"{self._seed} {rater}")
            shuffled = sorted(topics)
            chance.shuffle(shuffled)
            for topic in shuffled:
                # Sorted first, so that the order tells nothing about the one in the pool.
                topics[topic].sort()
                chance.shuffle(topics[topic])
            self._orders[rater] = [pair for topic in shuffled for pair in topics[topic]]
        return self._orders[rater]
