"""Names of adapters and references to their versions. A name is also a folder's name, so its grammar is narrow."""

from __future__ import annotations

import re
from dataclasses import dataclass

from searchlora.errors import InvalidName

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,31}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_RESERVED_ON_WINDOWS = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}

_NAME_RULE = (
    "A name has 1 to 64 of a-z, 0-9, '.', '_' and '-', begins with a letter or digit, does not end with '.', "
    "and is not a device name of Windows (con, nul, com1, ...)."
)
_ALIAS_RULE = "An alias has 1 to 32 of a-z, 0-9, '.', '_' and '-', and begins with a letter."


@dataclass(frozen=True)
class Reference:
    """What a user calls an adapter: `name` (the newest version), `name@3`, or `name@alias`.

    Attributes:
        version: The number behind the @, or None.
        alias: The alias behind the @, or None.
    """

    name: str
    version: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        target = self.alias if self.version is None else self.version
        return self.name if target is None else f"{self.name}@{target}"


def is_name(text: str) -> bool:
    """Whether an adapter may be called so."""
    reserved = text.partition(".")[0] in _RESERVED_ON_WINDOWS
    return bool(_NAME.fullmatch(text)) and not text.endswith(".") and not reserved


def check_name(name: str) -> str:
    """The name itself. Raises `InvalidName` saying what is allowed."""
    if not is_name(name):
        raise InvalidName(f"{name!r} is not a name for an adapter", fix=_NAME_RULE)
    return name


def check_alias(alias: str) -> str:
    """The alias itself. Raises `InvalidName` saying what is allowed."""
    if not _ALIAS.fullmatch(alias):
        raise InvalidName(f"{alias!r} is not an alias", fix=_ALIAS_RULE)
    return alias


def parse_reference(text: str) -> Reference:
    """Read `name`, `name@3` or `name@alias`. Raises `InvalidName` saying what is allowed."""
    name, at, target = text.partition("@")
    check_name(name)
    if not at:
        return Reference(name)
    if _VERSION.fullmatch(target):
        return Reference(name, version=int(target))
    if not _ALIAS.fullmatch(target):
        raise InvalidName(
            f"{text!r} is not a reference to an adapter", fix=f"Write name, name@3 or name@alias. {_ALIAS_RULE}"
        )
    return Reference(name, alias=target)
