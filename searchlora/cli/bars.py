"""Progress bars: what a step does, how far it is, how long it will take."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from searchlora.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


@contextmanager
def bars() -> Iterator[Steps]:
    """Bars on stderr while the block runs; a line at the start and end of each step where that is no terminal."""
    if not sys.stderr.isatty():
        yield Steps(None)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    ) as shown:
        yield Steps(shown)


class Steps:
    """Gives each step its bar; called with what the step does."""

    def __init__(self, shown: Bars | None) -> None:
        self.shown = shown

    def __call__(self, step: str) -> Progress:
        return _lines(step) if self.shown is None else self._bar(step, self.shown)

    def _bar(self, step: str, shown: Bars) -> Progress:
        bar = shown.add_task(step, total=None, note="")

        def progress(done: int, total: int | None, note: str = "") -> None:
            shown.update(bar, completed=done, total=total, note=note)

        return progress


def _lines(step: str) -> Progress:
    """Without a terminal: a line about every tenth of the way, with the time left."""
    import time

    started = time.monotonic()
    told = -1

    def progress(done: int, total: int | None, note: str = "") -> None:
        nonlocal told
        tenth = 10 * done // total if total else done // 100_000
        if tenth == told:
            return
        told = tenth
        seconds = time.monotonic() - started
        left = f", {seconds * (total - done) / done:.0f} s left" if total and done else ""
        print(f"{step}: {done}{f'/{total}' if total else ''} after {seconds:.0f} s{left}  {note}", file=sys.stderr)

    return progress
