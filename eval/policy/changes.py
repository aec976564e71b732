"""Differences between two promotion policies, and which of them loosen the policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import ValidationError

from searchlora.eval.policy.policy import SLICE_KEYS, Policy, in_new_keys

#: The keys that lead to a value of a policy, for example `("slices", "kind", "max_fall")`.
_Path: TypeAlias = tuple[str, ...]

#: Lists whose order means nothing: path without the name of a slice -> whether the case of a value means nothing too.
_SETS: Mapping[_Path, bool] = {("judgments",): False, ("baselines", "systems"): True, ("slices", "values"): False}

_HIGHER = ("margin", "min_rows", "min_groups")
_LOWER = ("max_fall", "max_invalid_rate", "max_latency_ms", "max_latency_ratio")


@dataclass(frozen=True)
class Change:
    """One key whose value differs between two policies.

    Attributes:
        key: The key, its parts joined by dots.
        before, after: Its values; None: not set.
        stricter: Whether every candidate that fails the old value also fails the new one. False if it is not certain.
    """

    key: str
    before: Any
    after: Any
    stricter: bool

    def __str__(self) -> str:
        return f"{self.key} was {_shown(self.before)}, is {_shown(self.after)}"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """Each key whose value differs between two policies.

    The order of keys and of lists of names, and the case of the names of baselines, mean nothing.

    Args:
        before, after: Policies as `Policy.model_dump(mode="json")` returns them. A key that is missing, as in a policy
            that was stored before the key existed, has its default.

    Examples:
        >>> [str(change) for change in changes({"min_rows": 100}, {"min_rows": 50})]
        ['min_rows was 100, is 50']
    """
    old, new = dict(_leaves(_complete(before))), dict(_leaves(_complete(after)))
    return tuple(
        Change(".".join(path), old.get(path), new.get(path), _stricter(path, old, new))
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
            folds_case = _SETS.get(_kind(here), False)
            yield here, frozenset(str(member).casefold() if folds_case else str(member) for member in value)
        elif value is not None:
            yield here, value


def _kind(path: _Path) -> _Path:
    """The path without the name of a slice or of a system to beat."""
    return (path[0], *path[2:]) if path[0] in ("slices", "beat") else path


def _stricter(path: _Path, old: Mapping[_Path, Any], new: Mapping[_Path, Any]) -> bool:
    """Whether the change of one value cannot let a candidate pass that failed before."""
    before, after, key = old.get(path), new.get(path), path[-1]
    narrows = path[0] == "slices" and key in ("values", "min_rows")
    if path[0] == "slices" and not any(known[:2] == path[:2] for known in old):
        return True  # a rule on a new slice
    if path[0] == "beat" and before is None:
        # An entry replaces the margin of a baseline of this name.
        return bool(after >= old.get(("baselines", "margin"), 0.0))
    if after is None:
        return narrows  # every value decides
    if before is None:
        return not narrows and key != "measure"
    if narrows and key == "min_rows":
        return bool(after < before)
    if key in _HIGHER or key in _LOWER:
        return bool(after > before) if key in _HIGHER else bool(after < before)
    if _kind(path) in _SETS:
        if isinstance(before, str) or isinstance(after, str):
            return False  # `all` leaves out systems that a list may name, and the other way round
        return bool(after < before) if key == "judgments" else bool(after > before)
    if key == "data":
        return str(after).startswith(str(before))
    return (key, after) in (("by", "interval"), ("held_out", "required"))


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    return f"[{', '.join(sorted(value))}]" if isinstance(value, frozenset) else str(value)
