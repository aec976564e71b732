"""Differences between two promotion policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

#: The keys that lead to a value of a policy, for example `("slices", "kind", "max_fall")`.
_Path: TypeAlias = tuple[str, ...]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each key whose value differs between two policies.

    The order of keys and of lists of names, and the case of the names of baselines, mean nothing.

    Args:
        before, after: Policies as `Policy.model_dump(mode="json")` returns them.

    Examples:
        >>> changes({"min_rows": 100}, {"min_rows": 50})
        ('min_rows was 100, is 50',)
    """
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return tuple(
        f"{'.'.join(path)} was {_shown(old.get(path))}, is {_shown(new.get(path))}"
        for path in dict.fromkeys([*old, *new])
        if old.get(path) != new.get(path)
    )


def _leaves(part: Mapping[str, Any], path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    for key, value in part.items():
        here = (*path, key)
        if isinstance(value, Mapping):
            yield from _leaves(value, here)
        elif isinstance(value, list | tuple):
            names = map(str, value)
            yield here, frozenset(map(str.casefold, names) if path == ("baselines",) else names)
        elif value is not None:
            yield here, value


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    return f"[{', '.join(sorted(value))}]" if isinstance(value, frozenset) else str(value)
