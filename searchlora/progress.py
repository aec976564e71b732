"""Progress callbacks of long operations; the command line passes progress bars, other callers nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias


class Progress(Protocol):
    """A callback that a long operation calls from time to time."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Report progress.

        Args:
            done: Number of units done.
            total: Number of units in total; None if unknown.
            note: A few words to show beside the bar.
        """


def silent(done: int, total: int | None, note: str = "") -> None:
    """A progress callback that reports nothing."""
    del done, total, note


#: Returns the progress callback of one step of an operation, given the description of the step.
Steps: TypeAlias = Callable[[str], Progress]


def no_progress(step: str) -> Progress:
    """Steps that report nothing."""
    del step
    return silent


def no_log(text: str) -> None:
    """Receive a sentence for the user, and show it nowhere."""
    del text
