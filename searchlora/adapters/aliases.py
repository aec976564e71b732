"""`aliases.json`: every move of every alias of a name, and every decision about one, refusals included.

Where an alias points now is its last entry; a refusal is an entry that moves nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from searchlora.adapters.files import replace_text
from searchlora.errors import NotInStore, StoreError


class Rule(BaseModel):
    """A rule of a promotion policy as it was found (`searchlora.eval.policy.decide.RuleResult`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str
    passed: bool
    said: str
    short_by: float | None = 0.0


class Decision(BaseModel):
    """Why an alias was moved to a version by a policy, or why not.

    Attributes:
        version: The candidate.
        outcome: `forced`: the policy refused it and somebody put it through, with the reason of the move.
        rules: Each rule of the policy, held or broken.
        policy: The policy as it was.
        evidence: What the figures came from (fingerprint of the data, judgments, command) and the figures themselves.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    outcome: Literal["promoted", "refused", "forced"]
    rules: tuple[Rule, ...]
    policy: dict[str, Any]
    evidence: dict[str, Any]


class AliasMove(BaseModel):
    """One move. `from` and `to` are versions; None where the alias did not exist before, or was taken away."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    alias: str
    time: str
    source: int | None = Field(alias="from")
    target: int | None = Field(alias="to")
    reason: str | None = None
    rollback: bool = False
    decision: Decision | None = None

    @property
    def refused(self) -> bool:
        """Whether this is a refusal, after which the alias points where it did before."""
        return self.decision is not None and self.decision.outcome == "refused"

    @property
    def forced(self) -> bool:
        """Whether the alias was moved against its policy."""
        return self.decision is not None and self.decision.outcome == "forced"

    def __str__(self) -> str:
        if self.decision is not None and self.refused:
            broken = "; ".join(f"{rule.rule} ({rule.said})" for rule in self.decision.rules if not rule.passed)
            return f"{self.time} {self.alias} refused to version {self.decision.version}: {broken}"
        where = "nowhere" if self.target is None else f"version {self.target}"
        before = "" if self.source is None else f" (before: {self.source})"
        kind = ", a rollback" if self.rollback else ""
        if self.decision is not None:
            broken = ", ".join(rule.rule for rule in self.decision.rules if not rule.passed)
            kind = f", BY FORCE against: {broken}" if self.forced else ", by its policy"
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

    def forced(self) -> frozenset[str]:
        """The aliases that point to a version that was forced, however they came back to it since.

        A move by hand or a rollback decides nothing, so only a policy's later yes to that version ends it.
        """
        now = self.current()
        last: dict[str, AliasMove] = {}
        for move in self.history():
            if move.decision is not None and not move.refused and move.decision.version == now.get(move.alias):
                last[move.alias] = move
        return frozenset(alias for alias, move in last.items() if move.forced)

    def by_hand(self) -> frozenset[str]:
        """The aliases that were moved by hand after there had been a decision about them, a refusal as well.

        A rollback to a version that was let through, or forced, is none: there it was decided on.
        """
        decided: set[str] = set()
        through: set[tuple[str, int]] = set()
        found: dict[str, bool] = {}
        for move in self.history():
            if move.decision is not None:
                decided.add(move.alias)
            if move.refused or move.target is None:
                continue
            if move.decision is not None:
                through.add((move.alias, move.target))
            back = move.rollback and (move.alias, move.target) in through
            found[move.alias] = move.decision is None and move.alias in decided and not back
        return frozenset(alias for alias, hand in found.items() if hand).intersection(self.current())

    def previous(self, alias: str, versions: Collection[int]) -> int:
        """The last version that the alias pointed to before, other than the one now, that is still there.

        After a rollback it goes on from where that one went. Raises `NotInStore` where there is none.

        Args:
            versions: Those that are there.
        """
        past: list[int] = []
        now = None
        for move in self.history():
            if move.alias != alias or move.refused:
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

    def move(
        self,
        alias: str,
        version: int | None,
        reason: str | None,
        *,
        rollback: bool = False,
        decision: Decision | None = None,
    ) -> AliasMove:
        """Add a move to the file; with a decision that refuses, `version` is where the alias stays."""
        move = AliasMove(
            alias=alias,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            source=self.current().get(alias),
            target=version,
            reason=reason,
            rollback=rollback,
            decision=decision,
        )
        moves = [*self.history(), move]
        replace_text(self.file, _MOVES.dump_json(moves, indent=2, by_alias=True).decode() + "\n")
        return move
