"""The lines of `searchlora adapters list`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from searchlora.adapters.aliases import Aliases
from searchlora.adapters.manifest import Manifest, read_manifest
from searchlora.errors import ManifestError


@dataclass(frozen=True)
class Entry:
    """A version as `list` shows it; `manifest` is None where it cannot be read, and `problem` then says why.

    Attributes:
        forced: Those of its aliases that were moved to it against their policy.
        by_hand: Those that no decision moved to it, although there had been decisions about them.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    manifest: Manifest | None
    problem: str | None = None
    forced: frozenset[str] = frozenset()
    by_hand: frozenset[str] = frozenset()


def read_entry(folder: Path, name: str, number: int) -> Entry:
    """A version in the folder of its name; a broken one with its problem. Raises `StoreError` for damaged aliases."""
    moves = Aliases(folder)
    aliases = tuple(sorted(alias for alias, target in moves.current().items() if target == number))
    manifest, problem = None, None
    try:
        manifest = read_manifest(folder / str(number))
    except ManifestError as error:
        problem = str(error)
    forced, by_hand = (found.intersection(aliases) for found in (moves.forced(), moves.by_hand()))
    return Entry(name, number, aliases, manifest, problem, forced, by_hand)
