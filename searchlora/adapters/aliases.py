"""`aliases.json`: every move of every alias of a name; where an alias points now is its last move."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from searchlora.adapters.files import replace_text
from searchlora.errors import NotInStore, StoreError


class AliasMove(BaseModel):
    """One move. `from` and `to` are versions; None where the alias did not exist before, or was taken away."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    alias: str
    time: str
    source: int | None = Field(alias="from")
    target: int | None = Field(alias="to")
    reason: str | None = None
    rollback: bool = False

    def __str__(self) -> str:
        where = "nowhere" if self.target is None else f"version {self.target}"
        before = "" if self.source is None else f" (before: {self.source})"
        kind = ", a rollback" if self.rollback else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.time} {self.alias} -> {where}{before}{kind}{reason}"


_MOVES = TypeAdapter(list[AliasMove])


class Aliases:
    """The aliases of one name. Whoever moves one holds the name's lock."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "aliases.json"

    def history(self) -> list[AliasMove]:
        """All moves, oldest first. Raises `StoreError` when the file is damaged."""
        if not self.file.is_file():
            return []
        try:
            return _MOVES.validate_json(self.file.read_bytes())
        except ValidationError as error:
            raise StoreError(
                f"is not a list of alias moves ({error.errors()[0]['msg']})",
                where=str(self.file),
                fix="Restore it from a copy, or remove it and set the aliases again.",
            ) from None

    def current(self) -> dict[str, int]:
        """Alias -> version."""
        last = {move.alias: move.target for move in self.history()}
        return {alias: target for alias, target in last.items() if target is not None}

    def previous(self, alias: str, versions: Collection[int]) -> int:
        """The last version that the alias pointed to before, other than the one now, that is still there.

        After a rollback it goes on from where that one went. Raises `NotInStore` where there is none.

        Args:
            versions: Those that are there.
        """
        past: list[int] = []
        now = None
        for move in self.history():
            if move.alias != alias:
                continue
            now = move.target
            if move.rollback:
                while past and past[-1] != now:
                    past.pop()
            elif now is not None:
                past.append(now)
        for version in reversed(past):
            if version != now and version in versions:
                return version
        raise NotInStore(
            f"there is nothing to roll the alias '{alias}' back to",
            where=str(self.file.parent),
            fix="See its history with `searchlora adapters show`.",
        )

    def move(self, alias: str, version: int | None, reason: str | None, *, rollback: bool = False) -> AliasMove:
        """Add a move to the file."""
        move = AliasMove(
            alias=alias,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            source=self.current().get(alias),
            target=version,
            reason=reason,
            rollback=rollback,
        )
        moves = [*self.history(), move]
        replace_text(self.file, _MOVES.dump_json(moves, indent=2, by_alias=True).decode() + "\n")
        return move
