"""The verb `promote`: an alias moves to a version that its policy lets through, and the decision is kept either way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.aliases import AliasMove, Decision, Rule
from searchlora.adapters.references import check_alias, parse_reference
from searchlora.adapters.store import Store
from searchlora.errors import UsageError
from searchlora.eval.policy import ACCEPTED, SLICE, UNCHANGED, Facts, Policy, RuleResult, decide, read_policy
from searchlora.eval.tables import to_json
from searchlora.experiments.evaluate import Evaluated, evaluate
from searchlora.experiments.evaluation_run import BASE
from searchlora.experiments.lineage import seen_in_training
from searchlora.experiments.result_files import header
from searchlora.pipelines.config import Bm25Settings
from searchlora.progress import Steps, unwatched


@dataclass(frozen=True)
class Promoted:
    """A decision, and what it rests on.

    Attributes:
        move: The entry in the adapter's history; a refusal moves nothing.
        results: Each rule of the policy, held or broken.
    """

    move: AliasMove
    results: Sequence[RuleResult]
    evaluated: Evaluated

    @property
    def refused(self) -> bool:
        """Whether the alias stays where it was."""
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
    accept_changes: bool = False,
    store: Store | str | Path | None = None,
    retrieval: Bm25Settings | None = None,
    keep: str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = unwatched,
) -> Promoted:
    """Evaluate a version against its base and against the alias's present version, and move the alias if it may.

    Args:
        adapter: The candidate, `name@3`.
        alias: Where it shall go, for example `production`.
        policy: The rules, or a file of them.
        data: A dataset folder whose split the candidate did not train on.
        qrels: Judgments instead of the dataset's own; a card beside them says who judged.
        force: A reason for moving the alias although the policy refuses; it stands in the history for ever.
        accept_changes: Whether data other than that of the last decision on this alias is meant.
        keep: A folder where each model's outputs are kept, as for `evaluate`.

    Raises:
        UsageError: when the alias means this version already, the reason is empty, or the policy names what the data
            does not have.
        StoreError: when the alias was moved meanwhile.
        What `evaluate` raises.
    """
    check_alias(alias)
    if force is not None and not force.strip():
        raise UsageError("--force needs a reason", fix='Say why, for example --force "agreed with the search team".')
    rules = policy if isinstance(policy, Policy) else read_policy(policy)
    rules = rules if rules.held_out else rules.model_copy(update={"held_out": "required"})
    place = store if isinstance(store, Store) else Store(store)
    candidate = parse_reference(place.pin(adapter))
    version = candidate.version or 0
    incumbent = place.aliases(candidate.name).get(alias)
    if incumbent == version:
        raise UsageError(f"'{alias}' means {candidate.name}@{version} already", where=str(place.root))
    present = [f"{candidate.name}@{incumbent}"] if incumbent is not None else []
    evaluated = evaluate(
        f"{candidate.name}@{version}",
        data,
        beside=present,
        split=split,
        qrels=qrels,
        allow_circular=True,  # the policy has a rule for it, so that the refusal stands in the history
        store=place,
        retrieval=retrieval,
        keep=keep,
        tasks=tasks,
        steps=steps,
    )
    history = place.history(candidate.name)
    last = _last_decision(history, alias)
    facts = Facts(
        roles={"base": BASE, **({"incumbent": present[0]} if present else {})},
        data=evaluated.judgments.data,
        changed=_changed(history, alias, evaluated),
        accepted=accept_changes,
        source=evaluated.judgments.source,
        removed=_removed(history, alias),
        policy=last.policy if last else None,
        sliced=_sliced(last) if last else (),
        leaked=seen_in_training(place, evaluated.adapter, evaluated.task, evaluated.dataset, split, evaluated.records),
    )
    results = decide(rules, evaluated.comparison, evaluated.adapter.reference, facts)
    held = all(result.passed for result in results)
    decision = Decision(
        version=version,
        outcome="promoted" if held else "refused" if force is None else "forced",
        rules=tuple(Rule(**dataclasses.asdict(result)) for result in results),
        policy=rules.model_dump(mode="json"),
        evidence=_evidence(evaluated, present),
    )
    move = place.decide(candidate.name, alias, decision, force, incumbent=incumbent)
    return Promoted(move, results, evaluated)


def _changed(history: Sequence[AliasMove], alias: str, evaluated: Evaluated) -> tuple[str, ...]:
    """Whether the data is that of the last decision on the alias, in words.

    A decision that was refused for its data does not count, or it would let the same data through the next time.
    """
    decided = [
        move.decision
        for move in history
        if move.alias == alias
        and move.decision
        and (not move.refused or any(rule.rule == UNCHANGED and rule.passed for rule in move.decision.rules))
    ]
    if not decided:
        return ()
    then = decided[-1].evidence
    if (then["data"], then["split"]) == (evaluated.judgments.data, evaluated.split):
        return ()
    return (
        f"version {decided[-1].version} was decided on split {then['split']} of the data {then['data'][:16]}, this is "
        f"split {evaluated.split} of {evaluated.judgments.data[:16]}",
    )


def _last_decision(history: Sequence[AliasMove], alias: str) -> Decision | None:
    """The last one on the alias, a refusal as well."""
    return next((move.decision for move in reversed(history) if move.alias == alias and move.decision), None)


def _sliced(decision: Decision) -> tuple[str, ...]:
    """The rules on slices whose values a decision had, or should have had: not those whose absence was accepted."""
    rules = [rule for rule in decision.rules if rule.rule.startswith(SLICE)]
    return tuple(rule.rule for rule in rules if not rule.said.startswith(ACCEPTED))


def _removed(history: Sequence[AliasMove], alias: str) -> str:
    """The version that the alias meant until it was removed, in words; empty where that is not so."""
    moves = [move for move in history if move.alias == alias and not move.refused]
    gone = bool(moves) and moves[-1].target is None
    return f"version {moves[-1].source}, which '{alias}' meant" if gone else ""


def _evidence(evaluated: Evaluated, incumbent: Sequence[str]) -> Mapping[str, Any]:
    """What the decision came from: data, judgments, machine, and the figures of the systems concerned."""
    made = to_json(evaluated.comparison, header(evaluated.adapter.reference))
    concerned = {evaluated.adapter.reference, BASE, *incumbent}
    return {
        **{key: made[key] for key in ("command", "date", "machine", "versions")},
        "data": evaluated.judgments.data,
        "split": evaluated.split,
        "judgments": evaluated.judgments.source,
        "n": len(evaluated.records),
        "groups": evaluated.comparison.groups,
        "rows": [row for row in made["rows"] if row["system"] in concerned],
        "comparisons": [pair for pair in made["comparisons"] if {pair["a"], pair["b"]} <= concerned],
        "costs": {name: costs for name, costs in evaluated.comparison.costs.items() if name in concerned},
    }
