"""Recording: a server hands its searches over without waiting, and a thread masks and writes them.

Searches are written twice a second, feedback at once. A full queue drops searches and counts them; feedback is
acknowledged only when it is on disk.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from searchlora.data.personal_data import mask
from searchlora.errors import EngineBusy
from searchlora.events.log import EventLog, Feedback

_LOG = logging.getLogger(__name__)

#: Searches that wait to be written at most.
_CAPACITY = 10_000

#: Feedback that waits at most; a client that sends more is told to wait.
_FEEDBACK_CAPACITY = 10_000

#: Seconds between two writes of searches.
_INTERVAL_S = 0.5

#: Seconds between two attempts to write to a database that fails, and between two removals of old searches.
_RETRY_S, _REMOVAL_S = 1.0, 60.0

#: Characters of a text in an event; the rest is cut before it is masked, which takes quadratic time.
MAX_TEXT = 1_000

#: Bytes of an event at most; a larger one is recorded without fields and outputs.
_MAX_BYTES = 1 << 16

#: Seconds after a search within which its feedback counts.
WINDOW_S = 86_400.0

#: Feedback, and the future that gets whether each is new.
_Waiting: TypeAlias = tuple[Sequence[Feedback], "Future[list[bool]]"]


@dataclass(frozen=True)
class Refusal:
    """Why feedback is not taken: `forged`, its search is not of this log, or `late`, the search is too old."""

    reason: Literal["forged", "late"]

    def __str__(self) -> str:
        if self.reason == "forged":
            return "The search is not one of this server."
        return "The search was too long ago."


class EventRecorder:
    """Writes the events of a server to a log. Thread-safe."""

    def __init__(
        self,
        log: EventLog,
        *,
        sample: float = 1.0,
        window_s: float = WINDOW_S,
        dropped: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.log, self._sample, self._window_s = log, sample, window_s
        self._tell_dropped = dropped
        self._searches: queue.Queue[Mapping[str, Any]] = queue.Queue(_CAPACITY)
        self._feedback: queue.Queue[_Waiting] = queue.Queue(_FEEDBACK_CAPACITY)
        self._counts = Counter[str]()
        self._lock = threading.Lock()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="searchlora-events", daemon=True)
        self._thread.start()

    def search(self, event: Mapping[str, Any], session: str | None = None, user: str | None = None) -> str | None:
        """Record a search without waiting.

        Returns the id of the search, for feedback; None if it was dropped.
        """
        now = time.time()
        id_ = self.log.new_id(now)
        names = {"session": session, "user": user}
        pseudonyms = {key: self.log.pseudonym(name) for key, name in names.items() if name}
        try:
            self._searches.put_nowait({"id": id_, "time": int(1000 * now), **pseudonyms, **event})
        except queue.Full:
            self._count("dropped searches")
            self._tell_dropped(1)
            return None
        return id_

    def shadow(self, search: str, candidates: Mapping[str, str], event: Mapping[str, Any]) -> None:
        """Record what candidates made of a recorded search, without waiting.

        `candidates`: Slot -> version.
        """
        try:
            self._searches.put_nowait({"shadow": search, "candidates": dict(candidates), **event})
        except queue.Full:
            self._count("dropped shadow searches")

    def feedback(self, rows: Sequence[Feedback]) -> tuple[Future[list[bool]], list[Refusal | None]]:
        """Record feedback.

        Returns a future that gets whether each accepted row is new once all are on disk, or raises what the log raises;
        and for each row why it is refused, or None.
        """
        refusals = [self._refusal(row.search) for row in rows]
        for refusal in refusals:
            if refusal is not None:
                self._count(f"{refusal.reason} feedback")
        accepted = [
            replace(row, rater=self.log.pseudonym(row.rater) if row.rater else "")
            for row, refusal in zip(rows, refusals, strict=True)
            if refusal is None
        ]
        future: Future[list[bool]] = Future()
        if not accepted:
            future.set_result([])
            return future, refusals
        try:
            self._feedback.put_nowait((accepted, future))
        except queue.Full:
            raise EngineBusy("too many events wait to be written", fix="Send them again later.") from None
        self._wake.set()
        return future, refusals

    def close(self, seconds: float = 5.0) -> None:
        """Write what waits, for at most this many seconds, and close the log."""
        self._closing.set()
        self._wake.set()
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self.log.close()

    def samples(self, user: str | None) -> bool:
        """Whether a search of this user, or else session, is in the sample: draws for one of nobody."""
        if self._sample >= 1:
            return True
        if user:  # all of a user's searches or none, since figures and made datasets look at users as a whole
            return int(self.log.pseudonym(f"sample {user}"), 16) < self._sample * 2**64
        return random.random() < self._sample

    def _refusal(self, search: str) -> Refusal | None:
        issued = self.log.issued(search)
        if issued is None:
            return Refusal("forged")
        return Refusal("late") if time.time() - issued > self._window_s else None

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    # The thread that writes

    def _run(self) -> None:
        unwritten: list[Mapping[str, Any]] = []
        removal = time.monotonic()
        while True:
            self._wake.wait(_RETRY_S if unwritten else _INTERVAL_S)
            self._wake.clear()
            closing = self._closing.is_set()
            # A client that has gone is not told, and what it sent is not written.
            waiting = [each for each in _taken(self._feedback) if each[1].set_running_or_notify_cancel()]
            if not unwritten:
                unwritten = [event for taken in _taken(self._searches) if (event := self._prepared(taken)) is not None]
            failed = not self._write(unwritten, waiting)
            if not failed:
                unwritten = []
            if closing and (failed or (self._searches.empty() and self._feedback.empty())):
                return
            if not failed and time.monotonic() >= removal:
                removal = time.monotonic() + _REMOVAL_S
                self._remove_old()

    def _write(self, searches: Sequence[Mapping[str, Any]], waiting: Sequence[_Waiting]) -> bool:
        """Whether everything was written. If not, clients are told, and searches are written later."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        rows = [row for accepted, _ in waiting for row in accepted]
        if not (searches or rows or counts):
            return True
        try:
            new = iter(self.log.write(searches, rows, counts))
        except Exception as error:  # the thread must outlive whatever a database raises
            _LOG.error("events cannot be written, and are kept for now: %s", error)
            with self._lock:
                self._counts += counts
            for _, future in waiting:
                future.set_exception(error)
            return False
        for accepted, future in waiting:
            future.set_result([next(new) for _ in accepted])
        return True

    def _remove_old(self) -> None:
        try:
            self.log.remove_old()
        except Exception as error:
            _LOG.error("old events cannot be removed: %s", error)

    def _prepared(self, event: Mapping[str, Any]) -> dict[str, Any] | None:
        """The event as it is written: masked, and of `_MAX_BYTES` at most; None: it is dropped."""
        try:
            # Masking takes long for long texts. NaN, which no JSON has, would stop the whole batch in the log.
            if len(json.dumps(event, allow_nan=False)) > _MAX_BYTES:
                stages = [{**stage, "output": {}} for stage in event["stages"]]
                event = {**event, "fields": {}, "stages": stages, "left_out": "fields and outputs"}
            return masked(event)
        except Exception as error:  # for example a value that is nested too deeply
            _LOG.error("a search cannot be recorded: %s", error)
            self._count("dropped searches")
            return None


def masked(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event with personal data masked in what users and models have written; ids, names and versions stay."""
    stages = [
        {**stage, "output": _masked(stage["output"]), "flags": _masked(stage["flags"])} for stage in event["stages"]
    ]
    texts = {key: _masked(event[key]) for key in ("query", "fields") if key in event}
    return {**event, **texts, "stages": stages}


def _masked(value: Any) -> Any:
    """A JSON value with personal data masked in its texts."""
    if isinstance(value, str):
        return mask(value[:MAX_TEXT])
    if isinstance(value, Mapping):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return value


def _taken(waiting: queue.Queue[Any]) -> list[Any]:
    taken = []
    while True:
        try:
            taken.append(waiting.get_nowait())
        except queue.Empty:
            return taken
