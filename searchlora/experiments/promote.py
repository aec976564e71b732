"""The command `promote`: move an alias to a version if a policy permits it, and record the decision."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.aliases import AliasMove, Decision, Rule
from searchlora.adapters.store import Store
from searchlora.errors import UsageError
from searchlora.eval.policy import (
    ACCEPTED,
    SAME_POLICY,
    SLICE,
    UNCHANGED,
    Facts,
    Policy,
    RuleResult,
    decide,
    read_policy,
)
from searchlora.eval.tables import to_json
from searchlora.experiments.evaluate import EvaluationResult, evaluate
from searchlora.experiments.learned_baselines import FIX
from searchlora.experiments.result_files import header
from searchlora.inference.settings import EngineSettings
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.progress import Steps, no_progress
from searchlora.systems.lineage import seen_in_training
from searchlora.systems.system import BASE

#: Key of the evidence of a decision: fingerprint of the dataset that baselines learned from, if it is another one.
BASELINE_DATA = "baseline data"


@dataclass(frozen=True)
class PromotionResult:
    """The result of `promote`.

    Attributes:
        move: The entry in the adapter's history; a refusal moves no alias.
        results: The result of each rule of the policy.
        evaluated: The evaluation that the decision is based on.
    """

    move: AliasMove
    results: Sequence[RuleResult]
    evaluated: EvaluationResult

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
    split: str = "test",
    qrels: str | Path | None = None,
    force: str | None = None,
    reason: str | None = None,
    accept_changes: bool = False,
    baseline_data: str | Path | None = None,
    store: Store | str | Path | None = None,
    retrieval: Bm25Settings | None = None,
    cache_dir: str | Path | None = None,
    engine: EngineSettings | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> PromotionResult:
    """Evaluate a version against its base and the alias's current version, and move the alias if the policy permits.

    Args:
        adapter: The candidate, `name@3`.
        alias: The alias to move, for example `production`.
        policy: The rules, or a file with rules.
        data: A dataset folder; the candidate was not trained on the split.
        split: The split of the dataset.
        qrels: Judgments that replace the dataset's own; a card beside the file names their source.
        force: A reason for moving the alias against the policy; the history records it.
        reason: A reason for a policy other than that of the last decision on this alias; the history records it.
            Without one, such a policy refuses.
        accept_changes: Accept data other than that of the last decision on this alias.
        baseline_data: Another dataset folder, from which baselines learn, as for `evaluate`.
        cache_dir: Folder of cached outputs, as for `evaluate`.
        engine: Where the models are computed, as for `evaluate`; the evidence of the decision names it.

    Raises:
        UsageError: if the alias points to this version already, a reason is empty, or the policy refers to something
            that the data does not have.
        StoreError: if the alias was moved concurrently.
        DataError, NotInStore, LoadCheckFailed: as `evaluate`.
    """
    for option, text in (("--force", force), ("--reason", reason)):
        if text is not None and not text.strip():
            raise UsageError(
                f"{option} needs a reason", fix=f'Say why, for example {option} "agreed with the search team".'
            )
    rules = policy if isinstance(policy, Policy) else read_policy(policy)
    rules = rules if rules.held_out else rules.model_copy(update={"held_out": "required"})
    store = Store.of(store)
    candidate = store.resolve(adapter)
    incumbent = store.target(candidate.name, alias)
    if incumbent == candidate.number:
        raise UsageError(f"'{alias}' already points to {candidate}", where=str(store.root))
    current = [f"{candidate.name}@{incumbent}"] if incumbent is not None else []
    evaluated = evaluate(
        str(candidate),
        data,
        compare_with=current,
        split=split,
        qrels=qrels,
        allow_circular=True,  # a rule of the policy refuses it, so that the history records the refusal
        baseline_data=baseline_data,
        also_tested=(rules.measure,) if rules.measure else (),
        store=store,
        retrieval=retrieval,
        cache_dir=cache_dir,
        engine=engine,
        tasks=tasks,
        steps=steps,
    )
    moves = [move for move in store.history(candidate.name) if move.alias == alias]
    decisions = [move.decision for move in moves if move.decision]
    facts = Facts(
        roles={"base": BASE, **({"incumbent": current[0]} if current else {})},
        data=evaluated.judgments.data,
        changed=_changed(decisions, evaluated),
        accepted=accept_changes,
        source=evaluated.judgments.source,
        graded=evaluated.judgments.graded,
        removed=_removed(moves, alias),
        policy=_accepted_policy(decisions),
        reason=" ".join((reason or force or "").split()),
        sliced=_sliced(decisions[-1]) if decisions else (),
        not_baselines=evaluated.task.upper_bounds | {BASE, *current},
        too_few={name: f"{why}. {FIX}" for name, why in evaluated.learned.too_few.items()},
        leaked=seen_in_training(store, evaluated.adapter, evaluated.task, evaluated.dataset, split, evaluated.records),
    )
    results = decide(rules, evaluated.comparison, evaluated.adapter.reference, facts)
    passed = all(result.passed for result in results)
    decision = Decision(
        version=candidate.number,
        outcome="promoted" if passed else "refused" if force is None else "forced",
        rules=tuple(Rule(**dataclasses.asdict(result)) for result in results),
        policy=rules.model_dump(mode="json"),
        evidence=_evidence(evaluated, current),
    )
    move = store.decide(candidate.name, alias, decision, force or reason, incumbent=incumbent)
    return PromotionResult(move, results, evaluated)


def _changed(decisions: Sequence[Decision], evaluated: EvaluationResult) -> tuple[str, ...]:
    """A description of how the data differs from that of the last decision on the alias; empty if it is the same.

    A decision that was refused because of its data does not count: otherwise the same data would pass the next time.
    """
    counting = [
        decision
        for decision in decisions
        if decision.outcome != "refused" or any(rule.rule == UNCHANGED and rule.passed for rule in decision.rules)
    ]
    if not counting:
        return ()
    last, differences = counting[-1], []
    then, version = last.evidence, last.version
    if (then["data"], then["split"]) != (evaluated.judgments.data, evaluated.split):
        differences.append(
            f"version {version} was decided on split {then['split']} of the data {then['data'][:16]}, this is "
            f"split {evaluated.split} of {evaluated.judgments.data[:16]}"
        )
    before, now = then.get(BASELINE_DATA), _baseline_data(evaluated)
    if before != now:
        names = [fingerprint[:16] if fingerprint else "the evaluated data" for fingerprint in (before, now)]
        differences.append(f"for version {version} baselines learned from {names[0]}, this time from {names[1]}")
    return tuple(differences)


def _baseline_data(evaluated: EvaluationResult) -> str | None:
    """The fingerprint of the dataset that baselines learned from; None for the evaluated dataset."""
    other = evaluated.learned.other
    return other.fingerprint if other is not None else None


def _accepted_policy(decisions: Sequence[Decision]) -> Mapping[str, Any] | None:
    """The policy of the last decision on the alias; None if there was none.

    A decision that was refused because of its policy does not count: otherwise it would be accepted the next time.
    """
    for decision in reversed(decisions):
        unexplained = any(rule.rule == SAME_POLICY and not rule.passed for rule in decision.rules)
        if decision.outcome != "refused" or not unexplained:
            return decision.policy
    return None


def _sliced(decision: Decision) -> tuple[str, ...]:
    """The slice rules of a decision, except those whose missing values were accepted."""
    rules = [rule for rule in decision.rules if rule.rule.startswith(SLICE)]
    return tuple(rule.rule for rule in rules if not rule.finding.startswith(ACCEPTED))


def _removed(moves: Sequence[AliasMove], alias: str) -> str:
    """A description of the removed version that the alias pointed to; empty if it points to a stored one."""
    done = [move for move in moves if not move.refused]
    deleted = bool(done) and done[-1].target is None
    return f"version {done[-1].source}, which '{alias}' pointed to" if deleted else ""


def _evidence(evaluated: EvaluationResult, incumbent: Sequence[str]) -> Mapping[str, Any]:
    """The evidence of the decision: data, judgments, machine, and the figures of the systems involved."""
    figures = to_json(evaluated.comparison, header(evaluated.adapter.reference))
    involved = {evaluated.adapter.reference, BASE, *incumbent, *evaluated.baselines}
    return {
        **{key: figures[key] for key in ("command", "date", "machine", "versions")},
        "data": evaluated.judgments.data,
        "split": evaluated.split,
        "judgments": evaluated.judgments.source,
        "judgments by source": evaluated.judgments.counts,
        **({BASELINE_DATA: data} if (data := _baseline_data(evaluated)) else {}),
        **({"baselines too few rows": dict(too_few)} if (too_few := evaluated.learned.too_few) else {}),
        "engines": list(evaluated.engines),
        "n": len(evaluated.records),
        "groups": evaluated.comparison.groups,
        "losses": list(evaluated.losses),
        "rows": [row for row in figures["rows"] if row["system"] in involved],
        "comparisons": [pair for pair in figures["comparisons"] if {pair["a"], pair["b"]} <= involved],
        "costs": {name: costs for name, costs in evaluated.comparison.costs.items() if name in involved},
    }
