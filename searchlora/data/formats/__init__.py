"""Source formats: those of a task, and those of other packages, by the entry-point group `searchlora.formats`.

An entry point of the group is a function from the name of a task to its further formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import cast

from searchlora.errors import UsageError
from searchlora.plugins import installed_plugins
from searchlora.records import Format
from searchlora.task import Task

GROUP = "searchlora.formats"


def formats_of(task: Task) -> Mapping[str, Format]:
    """The formats that a task reads, by name; its own take precedence. Raises `UsageError` for a broken plugin."""
    found = dict(task.formats)
    for name, plugin in installed_plugins(GROUP, "searchlora").items():
        try:
            formats = cast(Callable[[str], Iterable[Format]], plugin.load())(task.name)
        except ModuleNotFoundError as error:
            if error.name == "benchmarks":  # the readers of this repository, which a wheel lacks
                continue
            raise UsageError(f"the formats '{name}' cannot be imported: {error}", where=plugin.where) from error
        for format in formats:
            found.setdefault(format.name, format)
    return found
