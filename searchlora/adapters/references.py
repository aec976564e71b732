"""Grammar of adapter names, aliases and references such as `name@3`. A name is a folder name, so it is narrow."""

from __future__ import annotations

import re
from dataclasses import dataclass

from searchlora.errors import InvalidName

#: Largest version number.
MAX_VERSION = 999_999_999

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
    """A parsed reference to an adapter: `name` (the newest version), `name@3` or `name@alias`.

    Attributes:
        version: Version number after the @, or None.
        alias: Alias after the @, or None.
    """

    name: str
    version: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        target = self.alias if self.version is None else self.version
        return self.name if target is None else f"{self.name}@{target}"


@dataclass(frozen=True)
class Version:
    """An exact version, `name@3`: what a reference was resolved to."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


def is_name(text: str) -> bool:
    """True if the text is a valid adapter name.

    Examples:
        >>> is_name("shop-rewriter"), is_name("../etc"), is_name("con.1")
        (True, False, False)
    """
    reserved = text.partition(".")[0] in _RESERVED_ON_WINDOWS
    return bool(_NAME.fullmatch(text)) and not text.endswith(".") and not reserved


def is_version(text: str) -> bool:
    """True if the text is a version number: 1 to 999,999,999 in ASCII digits without leading zeros.

    Examples:
        >>> is_version("12"), is_version("007"), is_version("1000000000")
        (True, False, False)
    """
    return bool(_VERSION.fullmatch(text))


def check_name(name: str) -> str:
    """Return the name. Raises `InvalidName` with the rule for names."""
    if not is_name(name):
        raise InvalidName(f"{_shortened(name)} is not a name for an adapter", fix=_NAME_RULE)
    return name


def check_alias(alias: str) -> str:
    """Return the alias. Raises `InvalidName` with the rule for aliases."""
    if not _ALIAS.fullmatch(alias):
        raise InvalidName(f"{_shortened(alias)} is not an alias", fix=_ALIAS_RULE)
    return alias


def parse_reference(text: str) -> Reference:
    """Parse `name`, `name@3` or `name@alias`.

    Raises:
        InvalidName: with the rule that the text breaks.

    Examples:
        >>> parse_reference("shop-rewriter@3")
        Reference(name='shop-rewriter', version=3, alias=None)
        >>> str(parse_reference("shop-rewriter@production"))
        'shop-rewriter@production'
    """
    name, at, target = text.partition("@")
    check_name(name)
    if not at:
        return Reference(name)
    if is_version(target):
        return Reference(name, version=int(target))
    if not _ALIAS.fullmatch(target):
        raise InvalidName(
            f"{_shortened(text)} is not a reference to an adapter",
            fix=f"Write name, name@3 or name@alias. {_ALIAS_RULE}",
        )
    return Reference(name, alias=target)


def _shortened(text: str) -> str:
    """The text quoted for an error message, at most 100 characters of it."""
    return repr(text) if len(text) <= 100 else f"{text[:100]!r}..."
