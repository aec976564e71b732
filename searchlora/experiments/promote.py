"""The verb `promote`: move an alias to a version if a policy permits it, and record the decision."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from searchlora.adapters.aliases import AliasMove, Decision, Rule, joined_reasons
from searchlora.adapters.store import Store
from searchlora.errors import UsageError
from searchlora.eval.policy import (
    Facts,
    Policy,
    RuleResult,
    decide,
    read_policy,
)
from searchlora.eval.preference import Preference
from searchlora.events.interleaving import preference_for
from searchlora.events.log import EventLog
from searchlora.experiments.alias_history import (
    accepted_policy,
    candidates_on,
    changed_data,
    evidence,
    removed_version,
)
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.evaluation_result import EvaluationResult
from searchlora.experiments.learned_baselines import FIX
from searchlora.experiments.options import DecisionOptions, EvaluationOptions
from searchlora.inference.settings import EngineSettings
from searchlora.progress import Steps, no_progress
from searchlora.systems.system import BASE


@dataclass(frozen=True)
class PromotionResult:
    """The result of `promote`."""

    move: AliasMove
    results: Sequence[RuleResult]
    evaluated: EvaluationResult
    incumbent: str = BASE

    @property
    def refused(self) -> bool:
        """Whether the policy refused the promotion, so that the alias did not move."""
        return self.move.refused


def promote(
    adapter: str,
    alias: str,
    policy: Policy | str | Path,
    data: str | Path,
    *,
    decision: DecisionOptions = DecisionOptions(),
    evaluation: EvaluationOptions = EvaluationOptions(),
    engine: EngineSettings | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> PromotionResult:
    """Evaluate a version against its base and the alias's current version, and move the alias if the policy permits.

    Args:
        adapter: The candidate, `name@3`.
        alias: The alias to move, for example `production`.
        policy: The rules, or a file with rules.
        data: A dataset folder; the candidate was not trained on the split.
        decision: What is accepted against the policy or the last decision, and why.
        evaluation: The rows, as for `evaluate`. A circular judge is always measured: a rule refuses it.
        engine: Where the models are computed, as for `evaluate`; the evidence of the decision names it.
        store: The adapter store; None: the default store.
        tasks: A folder of task plugins.

    Raises:
        UsageError: if the alias points to this version already, or the policy refers to something that the data does
            not have.
        StoreError: if the alias was moved concurrently.
        DataError, NotInStore, LoadCheckFailed: as `evaluate`.
    """
    rules = policy if isinstance(policy, Policy) else read_policy(policy)
    rules = rules if rules.held_out else rules.model_copy(update={"held_out": "required"})
    if rules.interleaving is not None and decision.events is None:
        raise UsageError("the policy asks what users prefer", where="interleaving", fix="Give --events PLACE.")
    store = Store.of(store)
    candidate = store.resolve(adapter)
    incumbent = store.target(candidate.name, alias)
    if incumbent == candidate.number:
        raise UsageError(f"'{alias}' already points to {candidate}", where=store.place)
    current = [f"{candidate.name}@{incumbent}"] if incumbent is not None else []
    interleaved = _preference(decision.events, str(candidate), current[0] if current else None)
    tested = (*evaluation.also_tested, *([rules.measure] if rules.measure else []))
    evaluated = evaluate(
        str(candidate),
        data,
        # The history records the refusal of a circular judge.
        dataclasses.replace(evaluation, allow_circular=True, also_tested=tested),
        compare_with=current,
        engine=engine,
        store=store,
        tasks=tasks,
        steps=steps,
    )
    moves = [move for move in store.history(candidate.name) if move.alias == alias]
    decisions = [move.decision for move in moves if move.decision]
    facts = Facts(
        roles={"base": BASE, **({"incumbent": current[0]} if current else {})},
        data=evaluated.judgments.data,
        changed=changed_data(decisions, evaluated),
        accepted=decision.accept_changes,
        source=evaluated.judgments.source,
        graded=evaluated.judgments.graded,
        removed=removed_version(moves, alias),
        policy=accepted_policy(decisions),
        reason=" ".join((decision.reason or decision.force or "").split()),
        not_baselines=evaluated.task.upper_bounds | {BASE, *current},
        too_few={name: f"{why}. {FIX}" for name, why in {**evaluated.learned.too_few, **evaluated.left_out}.items()},
        leaked=evaluated.seen_in_training(store),
        left_out=evaluated.left_out_rows,
        candidates=candidates_on(store, alias, incumbent, evaluated),
        interleaved=interleaved,
    )
    results = decide(rules, evaluated.comparison, evaluated.adapter.reference, facts)
    passed = all(result.passed for result in results)
    recorded = Decision(
        version=candidate.number,
        outcome="promoted" if passed else "refused" if decision.force is None else "forced",
        rules=tuple(Rule(**dataclasses.asdict(result)) for result in results),
        policy=rules.model_dump(mode="json"),
        evidence=evidence(evaluated, current),
    )
    reasons = joined_reasons(decision.force, decision.reason)
    move = store.decide(candidate.name, alias, recorded, reasons, incumbent=incumbent)
    return PromotionResult(move, results, evaluated, current[0] if current else BASE)


def _preference(events: str | None, candidate: str, incumbent: str | None) -> Preference | None:
    if events is None:
        return None
    with closing(EventLog(events, create=False)) as log:
        return preference_for(log.searches(), candidate, incumbent)
