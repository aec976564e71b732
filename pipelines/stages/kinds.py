"""The kinds of stages: built-in ones, and those of other packages, by the entry-point group `searchlora.stages`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from searchlora.errors import PipelineError, UsageError
from searchlora.pipelines.stages.stage import StageSettings
from searchlora.plugins import Plugin, installed_plugins

GROUP = "searchlora.stages"


@cache
def _plugins() -> dict[str, Plugin]:
    return dict(sorted(installed_plugins(GROUP, "searchlora.pipelines.stages").items()))


@cache
def _loaded(kind: str) -> type[StageSettings]:
    plugin = _plugins()[kind]
    try:
        loaded = plugin.load()
    except Exception as error:  # a plugin may raise anything when it is imported
        raise UsageError(f"the stage '{kind}' cannot be imported: {error}", where=plugin.where) from error
    if not (isinstance(loaded, type) and issubclass(loaded, StageSettings)):
        raise UsageError(f"the stage '{kind}' is not a class of settings", where=plugin.where)
    if getattr(loaded, "kind", None) != kind:
        raise UsageError(f"the stage '{kind}' calls itself '{getattr(loaded, 'kind', '')}'", where=plugin.where)
    return loaded


def stage_names() -> list[str]:
    """The names of all kinds, sorted; none is imported."""
    return list(_plugins())


def stage_class(kind: str, where: str = "") -> type[StageSettings]:
    """The settings of a kind of stage; no other kind is imported."""
    if kind not in _plugins():
        known = ", ".join(_plugins()) or "none; install searchlora again"
        raise PipelineError(f"there is no stage '{kind}'", where=where or None, fix=f"Kinds: {known}.")
    return _loaded(kind)


def stage_classes(skipped: Callable[[UsageError], None] | None = None) -> dict[str, type[StageSettings]]:
    """The settings of all kinds by name."""
    classes = {}
    for kind in _plugins():
        try:
            classes[kind] = _loaded(kind)
        except UsageError as error:
            if skipped is None:
                raise
            skipped(error)
    return classes
