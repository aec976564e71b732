"""Alias history of an adapter name: every move of an alias and every promotion decision, stored in `aliases.json`.

The last move of an alias says which version it points to. A refused promotion is recorded as a move that keeps the
current target.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
)

from searchlora.adapters.references import MAX_VERSION
from searchlora.adapters.staging import read_list, replace_text
from searchlora.errors import NotInStore, printable

ALIASES = "aliases.json"

_MAX_BYTES = 32 * 2**20

#: Who acts in this thread or task, if it is not the user of the process.
actor: ContextVar[str | None] = ContextVar("actor", default=None)


def who() -> str:
    """Who acts: `actor`, or the user and the machine of this process."""
    if (name := actor.get()) is not None:
        return name
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container whose user has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


class Rule(BaseModel):
    """Outcome of one rule of a promotion policy; same fields as `searchlora.eval.policy.decide.RuleResult`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str
    passed: bool
    finding: str
    short_by: float | None = 0.0


class Decision(BaseModel):
    """Decision of a promotion policy about one candidate version.

    Attributes:
        version: The candidate.
        outcome: `forced` if the policy refused the candidate and a user promoted it anyway; the move holds the reason.
        rules: Outcome of every rule.
        policy: The policy as it was applied.
        evidence: Figures and their origin: fingerprint of the data, judgments, command.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    outcome: Literal["promoted", "refused", "forced"]
    rules: tuple[Rule, ...]
    policy: dict[str, Any]
    evidence: dict[str, Any]


class AliasMove(BaseModel):
    """One move of an alias.

    Attributes:
        source: Version before the move, `from` in JSON; None if the alias did not exist.
        target: Version after the move, `to` in JSON; None if the alias was deleted.
        who: User and machine, or the name of an API key, as the process said.
        reason: Why it was moved, as the user said.
        weights: Version -> share of the requests, the target among them; None: the target has all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    alias: Annotated[str, StringConstraints(pattern=r"\A[a-z][a-z0-9._-]{0,31}\z")]
    time: Annotated[str, StringConstraints(max_length=40)]
    who: Annotated[str, StringConstraints(max_length=1000)]
    source: Annotated[int, Field(ge=1, le=MAX_VERSION)] | None = Field(alias="from")
    target: Annotated[int, Field(ge=1, le=MAX_VERSION)] | None = Field(alias="to")
    reason: str | None = None
    rollback: bool = False
    decision: Decision | None = None
    weights: dict[int, float] | None = None

    @property
    def refused(self) -> bool:
        """True if a policy refused the candidate, so the alias still points to its previous version."""
        return self.decision is not None and self.decision.outcome == "refused"

    @property
    def forced(self) -> bool:
        """True if the alias was moved against its policy."""
        return self.decision is not None and self.decision.outcome == "forced"

    @property
    def with_author(self) -> str:
        """The move and who made it, for a history."""
        return printable(f"{self} (by {self.who})")

    def __str__(self) -> str:
        return printable(f"{self.time} {self._described}")

    @property
    def _described(self) -> str:
        if self.decision is not None and self.refused:
            broken = "; ".join(f"{rule.rule} ({rule.finding})" for rule in self.decision.rules if not rule.passed)
            reason = f" (the reason given: {self.reason})" if self.reason else ""
            return f"{self.alias} refused to version {self.decision.version}: {broken}{reason}"
        target = "nowhere" if self.target is None else f"version {self.target}"
        if self.weights is not None:
            target = "versions " + ", ".join(f"{version} ({share:.0%})" for version, share in self.weights.items())
        before = "" if self.source is None else f" (before: {self.source})"
        kind = ", a rollback" if self.rollback else ""
        if self.decision is not None:
            broken = ", ".join(rule.rule for rule in self.decision.rules if not rule.passed)
            kind = f", BY FORCE against: {broken}" if self.forced else ", by its policy"
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.alias} -> {target}{before}{kind}{reason}"


_MOVES = TypeAdapter(tuple[AliasMove, ...])


@dataclass(frozen=True)
class AliasHistory:
    """All moves of the aliases of one name, oldest first: an immutable snapshot of `aliases.json`.

    Read it once per operation and hold the lock of the name while it is changed.
    """

    file: Path
    moves: tuple[AliasMove, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> AliasHistory:
        """The history of the name with this folder. Raises `StoreError` for a damaged file."""
        file, fix = folder / ALIASES, "Restore it from a copy, or remove it and set the aliases again."
        return cls(file, read_list(file, _MOVES, _MAX_BYTES, what="alias moves", fix=fix))

    @cached_property
    def current(self) -> dict[str, int]:
        """Alias -> version."""
        return {alias: move.target for alias, move in self.last.items() if move.target is not None}

    @cached_property
    def last(self) -> dict[str, AliasMove]:
        """Alias -> its last move; a refusal moves nothing."""
        return {move.alias: move for move in self.moves if not move.refused}

    def weights(self, alias: str) -> dict[int, float] | None:
        """Version -> share of the requests of an alias; None if one version has all."""
        return self.last[alias].weights if alias in self.last else None

    @cached_property
    def forced(self) -> frozenset[str]:
        """Aliases that point to a version whose latest policy decision was `forced`.

        A manual move or a rollback is not a policy decision, so neither clears the mark.
        """
        decided = {
            move.alias: move
            for move in self.moves
            if move.decision is not None and not move.refused and move.decision.version == self.current.get(move.alias)
        }
        return frozenset(alias for alias, move in decided.items() if move.forced)

    @cached_property
    def by_hand(self) -> frozenset[str]:
        """Aliases that were last moved by hand although a policy had decided about them before.

        A rollback to a version that a policy promoted, or a user forced, does not count as a manual move.
        """
        decided: set[str] = set()
        promoted: set[tuple[str, int]] = set()
        result: dict[str, bool] = {}
        for move in self.moves:
            if move.decision is not None:
                decided.add(move.alias)
            if move.refused or move.target is None:
                continue
            if move.decision is not None:
                promoted.add((move.alias, move.target))
            to_promoted = move.rollback and (move.alias, move.target) in promoted
            by_policy = move.decision is not None or to_promoted
            result[move.alias] = move.alias in decided and not by_policy
        return frozenset(alias for alias, manual in result.items() if manual).intersection(self.current)

    def previous(self, alias: str, versions: Collection[int]) -> int:
        """The version to which a rollback moves the alias: its last other target that still exists.

        Repeated rollbacks go further back.

        Args:
            versions: Versions that exist.

        Raises:
            NotInStore: if there is no such version.
        """
        past: list[int] = []
        now = None
        for move in self.moves:
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
        weights: dict[int, float] | None = None,
    ) -> tuple[AliasHistory, AliasMove]:
        """Append a move; nothing is written.

        Args:
            version: New target; None deletes the alias. For a refused decision, the current target.

        Returns:
            The history with the move, and the move.
        """
        move = AliasMove(
            alias=alias,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            who=who(),
            source=self.current.get(alias),
            target=version,
            reason=reason,
            rollback=rollback,
            decision=decision,
            weights=weights,
        )
        return AliasHistory(self.file, (*self.moves, move)), move

    def write(self) -> None:
        """Write the file. Raises `StoreError`; the old content stays."""
        replace_text(self.file, _MOVES.dump_json(self.moves, indent=2, by_alias=True).decode() + "\n")


def joined_reasons(force: str | None, reason: str | None) -> str | None:
    """What the history keeps: why a policy was overruled, and why the alias moves."""
    return "; ".join(filter(None, (force, reason))) or None
