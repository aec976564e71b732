"""The next dataset: what users searched and did, built as any other source, with its origin in the card.

The searches are exported beside the dataset, in the form that one of the task's formats reads, so that it can be built
again after the log has removed them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.data.validation import beside
from searchlora.errors import DataError, UsageError
from searchlora.events.export import DATASET_FORMS, Search, export, is_answered
from searchlora.files.atomic import check_new_folder
from searchlora.task import Task

#: Suffix of the export beside a dataset.
EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True)
class EventSource:
    """An export for `data build`."""

    path: Path
    format: str
    options: Mapping[str, str]
    judgments_source: str | None  # who graded; None: the format says it
    origin: Mapping[str, Any]


def form_for(task: Task, format: str | None) -> str:
    """The format of a task that reads events: the named one, or the only one."""
    readable = [form for form in DATASET_FORMS if form in task.formats]
    if not readable:
        raise UsageError(
            f"the task '{task.name}' reads no events",
            where="--from-events",
            fix="Write the queries that went wrong with `events failures`, and label them with `data label`.",
        )
    if format is None and len(readable) > 1:
        raise UsageError("several formats read events", where="--from-events", fix=_named(readable))
    if format is not None and format not in readable:
        raise UsageError(f"the format '{format}' reads no events", where="--format", fix=_named(readable))
    return format or readable[0]


@contextmanager
def event_source(
    task: Task, searches: Iterable[Search], place: str, out: Path, format: str | None
) -> Iterator[EventSource]:
    """Export searches beside the folder `out`, in which the block builds a dataset of a task; an error removes them."""
    form = form_for(task, format)
    check_new_folder(out)
    path = beside(out, EVENTS_FILE)
    if path.exists():
        fix = f"Build from it again with --format {form}, or remove it: the log may not have these searches any more."
        raise DataError("searches were exported to it already", where=str(path), fix=fix)
    counted = _Counted(searches)
    try:
        if not export(counted, form, path):
            what = "no search has feedback that is a row" if counted.n else "there are no searches"
            raise DataError(what, where=place, fix="Choose another period, or wait for users; see `events stats`.")
        options, judged_by = DATASET_FORMS[form]
        yield EventSource(path, form, options, judged_by, counted.origin(place))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


class _Counted:
    """Searches on their way into a file, and what the card says of them."""

    def __init__(self, searches: Iterable[Search]) -> None:
        self._searches = searches
        self.n, self._first, self._last = 0, 0, 0
        self._versions: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Search]:
        for event, feedback in self._searches:
            if not is_answered(event):
                continue
            self._first, self._last = self._first or event["time"], event["time"]
            self.n += 1
            self._versions.update(stage["label"] for stage in event["stages"])
            yield event, feedback

    def origin(self, place: str) -> dict[str, Any]:
        period = {"first": self._first, "last": self._last}
        return {"place": place, "searches": self.n, **period, "versions": dict(self._versions.most_common())}


def _named(readable: Iterable[str]) -> str:
    return f"Give --format {' or --format '.join(readable)}."
