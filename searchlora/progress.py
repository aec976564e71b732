"""How long steps tell how far they are. Whoever shows a bar passes a callable; everyone else passes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias


class Progress(Protocol):
    """Called now and then by a long step."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """`done` of `total` units (None where the total is unknown), and a few words to show beside the bar."""


def silent(done: int, total: int | None, note: str = "") -> None:
    """The progress of a step that nobody watches."""
    del done, total, note


#: Gives each step of a longer way its progress: called with what the step does.
Steps: TypeAlias = Callable[[str], Progress]


def unwatched(step: str) -> Progress:
    """The steps of a way that nobody watches."""
    del step
    return silent
