"""Installed plugins of an entry-point group: one broken or clashing distribution blocks no other plugin."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points

from searchlora.errors import UsageError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plugin:
    """A plugin that is not imported yet.

    Attributes:
        where: Its entry point and distribution, or its folder, for messages.
        load: Imports it and returns its object. May raise anything.
    """

    where: str
    load: Callable[[], object]


def installed_plugins(group: str, built_in: str) -> dict[str, Plugin]:
    """The plugins of an entry-point group by name.

    A built-in plugin keeps its name: datasets and adapters are stored under it, so what they mean must not depend on
    what else is installed. A warning names the distributions with a further plugin of that name. Two others of one name
    are an error when that name is loaded, and only then.

    Args:
        group: Name of the group.
        built_in: Package of the built-in plugins.
    """
    points: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=group):
        points.setdefault(point.name, {}).setdefault(point.value, point)
    return {name: _chosen(name, list(same.values()), built_in) for name, same in points.items()}


def _chosen(name: str, points: list[EntryPoint], built_in: str) -> Plugin:
    own = next((point for point in points if point.value.startswith(f"{built_in}.")), None)
    first = own or points[0]
    where = f"entry point {name} = {first.value} of {_distribution(first)}"
    others = [_distribution(point) for point in points if point is not first]
    if others and own is None:
        return Plugin(where, partial(_refuse, name, tuple(map(_distribution, points))))
    if others:
        _warn(
            f"{', '.join(others)} has another plugin '{name}'; that of {_distribution(first)} is used; "
            "uninstall or rename the other"
        )
    return Plugin(where, first.load)


def _refuse(name: str, names: tuple[str, ...]) -> object:
    raise UsageError(f"{' and '.join(names)} have a plugin '{name}' each", fix="Uninstall one of them.")


def _distribution(point: EntryPoint) -> str:
    """The distribution of an entry point with its version."""
    distribution = point.dist
    return f"{distribution.name} {distribution.version}" if distribution is not None else f"'{point.value}'"


@cache
def _warn(message: str) -> None:
    """Log a warning once in a process."""
    _LOG.warning("%s", message)
