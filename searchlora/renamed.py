"""Old names of keys and options, which are accepted for one release with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from searchlora.errors import UsageError


class RenamedWarning(FutureWarning):
    """A key or an option has a new name; the next release does not accept the old one."""


def warn_renamed(old: str, new: str, where: str = "") -> None:
    """Warn that a name was used which the next release does not accept.

    Args:
        old, new: Names as the user writes them, for example `--beside` and `--compare-with`.
        where: The file or command in which the old name stands.
    """
    place = f"{where}: " if where else ""
    warnings.warn(f"{place}'{old}' is now '{new}'; the next release will not accept '{old}'.", RenamedWarning, 3)


def with_new_keys(values: Any, names: Mapping[str, str], where: str = "") -> Any:
    """A mapping with new keys in place of the old ones, and a warning for each; other values are returned unchanged.

    Use it in a validator of a pydantic model with `mode="before"`.

    Args:
        names: Old key -> new key.

    Raises:
        UsageError: if the mapping has the old and the new key.

    Examples:
        >>> with_new_keys({"k": 10, "rrf_k": 60}, {"constant": "rrf_k"})
        {'k': 10, 'rrf_k': 60}
    """
    if not isinstance(values, Mapping) or names.keys().isdisjoint(values):
        return values
    renamed = dict(values)
    for old, new in names.items():
        if old not in renamed:
            continue
        if new in renamed:
            raise UsageError(f"'{old}' is the old name of '{new}', and both are given", where=where, fix="Keep one.")
        warn_renamed(old, new, where)
        renamed[new] = renamed.pop(old)
    return renamed
