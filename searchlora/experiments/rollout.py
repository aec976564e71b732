"""A rollout: a candidate gets a growing share of an alias's requests, and loses them when a guardrail is broken.

Its steps are moves of the alias, in the same history as promotions. Nothing else is stored, so any process that can
read the store and the log of events may look, and of two that act at once the second fails.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from searchlora.adapters.aliases import AliasMove, RolloutStep, Rule, joined_reasons
from searchlora.adapters.references import Version
from searchlora.adapters.store import Store
from searchlora.errors import DataError, NotInStore, StoreError, UsageError
from searchlora.eval.rank_overlap import rank_biased_overlap
from searchlora.eval.sequential import Sum, mean_bounds
from searchlora.events.export import user_of
from searchlora.events.guardrails import GUARDRAILS, Compared, compared, slow_from
from searchlora.events.log import EventLog

#: Seconds of searches before a rollout that say what is slow.
_BEFORE_S = 86_400.0

#: What a look decides.
Outcome = Literal["advanced", "completed", "rolled back", "waiting"]


class RolloutPolicy(BaseModel):
    """When a rollout goes on.

    Attributes:
        steps: Shares of the requests; after the last, 1, the alias points to the candidate.
        min_users: Users of the candidate that a step needs; of a search without a user, its session counts, or itself.
        advance: `no_harm`: a step is over when no guardrail is broken after `min_users`. `safe`: when the interval
            of each guardrail says that it is not broken, which takes far more users.
        guardrails: Guardrail -> harm that is accepted, as a difference of shares of searches.
        min_overlap: Mean rank-biased overlap of its shadow searches below which no candidate is rolled out.
        confidence: Probability that no interval of the rollout ever misses.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    min_users: int = Field(100, ge=1)
    advance: Literal["no_harm", "safe"] = "no_harm"
    guardrails: dict[str, float] = Field(default_factory=lambda: dict.fromkeys(GUARDRAILS, 0.02))
    min_overlap: float | None = Field(None, ge=0, le=1)
    confidence: float = Field(0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.steps or self.steps[-1] != 1 or list(self.steps) != sorted({*self.steps}) or self.steps[0] <= 0:
            raise ValueError("'steps' are ascending shares above 0, and the last is 1")
        if not self.guardrails:
            raise ValueError(f"a rollout needs a guardrail: {', '.join(GUARDRAILS)}")
        for name, margin in self.guardrails.items():
            if name not in GUARDRAILS:
                raise ValueError(f"there is no guardrail '{name}'. Guardrails: {', '.join(GUARDRAILS)}")
            if not 0 <= margin < 1:
                raise ValueError(f"the accepted harm of '{name}' is a difference of shares, from 0 to below 1")
        return self

    def decide(self, guardrails: Sequence[Compared]) -> Literal["back", "on", "wait"]:
        """What the figures of a step say."""
        if any(each.is_harmed for each in guardrails):
            return "back"
        enough = guardrails[0].candidate.n >= self.min_users
        ready = enough and (self.advance == "no_harm" or all(each.is_safe for each in guardrails))
        return "on" if ready else "wait"

    @property
    def alpha(self) -> float:
        """The error of one step: the steps share that of the rollout."""
        return (1 - self.confidence) / len(self.steps)


@dataclass(frozen=True)
class RolloutLook:
    """What a look has found, and done.

    Attributes:
        outcome: What was done with the rollout.
        share: The candidate's share of the requests now.
        guardrails: The figures of this step.
        move: The step that was written; None while the rollout waits.
    """

    candidate: str
    incumbent: str
    outcome: Outcome
    share: float
    guardrails: tuple[Compared, ...]
    move: AliasMove | None


def start_rollout(
    store: Store,
    candidate: str,
    alias: str,
    log: EventLog,
    policy: RolloutPolicy,
    *,
    reason: str | None = None,
    force: str | None = None,
) -> AliasMove:
    """Give a version the first share of an alias.

    Args:
        candidate: The exact version.
        force: Why an alias about which a promotion policy has decided is moved without it.

    Raises:
        NotInStore: for an unknown version, and an alias that points nowhere.
        StoreError: if a rollout is under way, or a promotion policy decides about the alias.
        DataError: if the incumbent has answered no recorded search, or the candidate's shadow searches differ too much.
    """
    version = store.resolve(candidate)
    history = store.alias_history(version.name)
    incumbent = history.current.get(alias)
    if incumbent is None:
        fix = f"Point it to a version first: searchlora adapters alias {version} {alias}."
        raise NotInStore(f"there is no alias '{alias}'", where=version.name, fix=fix)
    if history.weights(alias) is not None:
        raise StoreError(
            f"several versions share '{alias}' already", where=version.name, fix="Stop it: `searchlora rollout stop`."
        )
    if version.number == incumbent:
        raise UsageError(f"'{alias}' points to {version} already")
    if force is None and any(move.alias == alias and move.decision is not None for move in history.moves):
        raise StoreError(
            f"a policy decides about the alias '{alias}'",
            where=version.name,
            fix="Use `searchlora promote` with the policy, or --force REASON.",
        )
    evidence = {"slow_ms": slow_from(log.searches(time.time() - _BEFORE_S), f"{version.name}@{incumbent}")}
    rules = _overlap_rules(policy, str(version), log)
    if broken := [rule for rule in rules if not rule.passed]:
        raise DataError(f"{version} is not rolled out: {broken[0].finding}", fix="See `searchlora events shadow`.")
    step = RolloutStep(
        candidate=version.number,
        step=0,
        outcome="started",
        rules=rules,
        policy=policy.model_dump(mode="json"),
        evidence=evidence,
        forced=force is not None,
    )
    weights = _weights(incumbent, version.number, policy.steps[0])
    main = version.number if policy.steps[0] == 1 else incumbent
    if main != incumbent:
        step = step.model_copy(update={"outcome": "completed"})
    last = history.last[alias]
    return store.split(version.name, alias, weights, joined_reasons(force, reason), main=main, rollout=step, after=last)


def look(store: Store, name: str, alias: str, log: EventLog) -> RolloutLook:
    """Look at the guardrails of the present step, and advance, roll back or wait.

    Raises:
        NotInStore: if no rollout is under way.
        StoreError: if the alias was moved meanwhile; nothing is written then.
    """
    move = _running(store, name, alias)
    assert move.rollout is not None and move.target is not None
    step, policy = move.rollout, RolloutPolicy.model_validate(move.rollout.policy)
    candidate, incumbent = Version(name, step.candidate), Version(name, move.target)
    guardrails = step_guardrails(name, move, log)
    decision = policy.decide(guardrails)
    share = policy.steps[step.step]
    outcome: Outcome = "waiting"
    written = None
    if decision == "back":
        outcome, share = "rolled back", 0.0
        written = _moved(store, name, move, guardrails, outcome, step.step, {incumbent.number: 1.0}, incumbent.number)
    elif decision == "on":
        number = step.step + 1
        share = policy.steps[number]
        outcome = "completed" if share == 1 else "advanced"
        main = candidate.number if share == 1 else incumbent.number
        weights = _weights(incumbent.number, candidate.number, share)
        written = _moved(store, name, move, guardrails, outcome, number, weights, main)
    return RolloutLook(str(candidate), str(incumbent), outcome, share, tuple(guardrails), written)


def step_guardrails(name: str, move: AliasMove, log: EventLog) -> list[Compared]:
    """The figures of a step since it was taken.

    Args:
        name: Of the adapter.
        move: The step, of a rollout that is under way.
    """
    assert move.rollout is not None
    step, policy = move.rollout, RolloutPolicy.model_validate(move.rollout.policy)
    since = datetime.fromisoformat(move.time).timestamp() + 1  # the history has whole seconds
    versions = f"{name}@{step.candidate}", f"{name}@{move.target}"
    slow_ms = float(step.evidence["slow_ms"])
    return compared(log.searches(since), *versions, policy.guardrails, slow_ms, policy.alpha)


def stop_rollout(store: Store, name: str, alias: str, reason: str | None = None) -> AliasMove:
    """Take the candidate's share back, by hand. Raises `NotInStore` if no rollout is under way."""
    move = _running(store, name, alias)
    assert move.rollout is not None and move.target is not None
    step = move.rollout.model_copy(update={"outcome": "stopped", "rules": (), "evidence": {}})
    return store.split(name, alias, {move.target: 1.0}, reason, main=move.target, rollout=step, after=move)


def _running(store: Store, name: str, alias: str) -> AliasMove:
    move = store.alias_history(name).rollout(alias)
    if move is None:
        raise NotInStore(
            f"no rollout of '{alias}' is under way", where=name, fix="Start one: `searchlora rollout start`."
        )
    return move


def _moved(
    store: Store,
    name: str,
    move: AliasMove,
    guardrails: list[Compared],
    outcome: Literal["advanced", "completed", "rolled back"],
    number: int,
    weights: Mapping[int, float],
    main: int,
) -> AliasMove:
    assert move.rollout is not None
    rules = tuple(Rule(rule=each.name, passed=not each.is_harmed, finding=str(each)) for each in guardrails)
    step = move.rollout.model_copy(update={"outcome": outcome, "step": number, "rules": rules})
    return store.split(name, move.alias, weights, None, main=main, rollout=step, after=move)


def _weights(incumbent: int, candidate: int, share: float) -> dict[int, float]:
    return {candidate: 1.0} if share == 1 else {incumbent: 1 - share, candidate: share}


def _overlap_rules(policy: RolloutPolicy, candidate: str, log: EventLog) -> tuple[Rule, ...]:
    if policy.min_overlap is None:
        return ()
    users: dict[str, list[float]] = {}
    for live, versions, shadow in log.shadows():
        if candidate in versions.split(", "):
            users.setdefault(user_of(live), []).append(rank_biased_overlap(live["hits"], shadow["hits"]))
    if not users:
        return (Rule(rule="overlap", passed=False, finding=f"{candidate} has no shadow search"),)
    total = sum(sum(overlaps) / len(overlaps) for overlaps in users.values())
    low, high = mean_bounds(Sum(total, len(users)))
    finding = f"overlap with the live hits {total / len(users):.3f} ({low:.3f} to {high:.3f}), n = {len(users)}"
    return (
        Rule(rule="overlap", passed=low >= policy.min_overlap, finding=f"{finding}, at least {policy.min_overlap}"),
    )
