"""Differences between two promotion policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from pydantic import ValidationError

from searchlora.eval.policy.policy import SLICE_KEYS, Policy, in_new_keys

#: The keys that lead to a value of a policy, for example `("slices", "kind", "max_fall")`.
_Path: TypeAlias = tuple[str, ...]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each key whose value differs between two policies.

    The order of keys and of lists of names, and the case of the names of baselines, mean nothing.

    Args:
        before, after: Policies as `Policy.model_dump(mode="json")` returns them. A key that is missing, as in a policy
            that was stored before the key existed, has its default.

    Examples:
        >>> changes({"min_rows": 100}, {"min_rows": 50})
        ('min_rows was 100, is 50',)
    """
    old, new = dict(_leaves(_complete(before))), dict(_leaves(_complete(after)))
    return tuple(
        f"{'.'.join(path)} was {_shown(old.get(path))}, is {_shown(new.get(path))}"
        for path in dict.fromkeys([*old, *new])
        if old.get(path) != new.get(path)
    )


def _complete(policy: Mapping[str, Any]) -> Mapping[str, Any]:
    """The policy with the defaults of missing keys; as it is if this release does not accept it.

    A policy that an earlier release stored in a history is no reason to warn of its keys.
    """
    slices = policy.get("slices") or {}
    rules = {name: {SLICE_KEYS.get(key, key): value for key, value in rule.items()} for name, rule in slices.items()}
    try:
        return Policy.model_validate({**in_new_keys(policy), "slices": rules}).model_dump(mode="json")
    except ValidationError:
        return policy


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
