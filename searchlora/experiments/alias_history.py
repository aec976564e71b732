"""What the history of an alias says about the next decision on it, and the evidence of that decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from searchlora.adapters.aliases import AliasMove, Decision
from searchlora.adapters.store import Store
from searchlora.eval.policy import SAME_POLICY, UNCHANGED
from searchlora.eval.tables import to_json
from searchlora.experiments.evaluation_result import EvaluationResult
from searchlora.experiments.result_files import header
from searchlora.systems.system import BASE

#: Key of the evidence of a decision: fingerprint of the dataset that baselines learned from, if it is another one.
BASELINE_DATA = "baseline data"


def changed_data(decisions: Sequence[Decision], evaluated: EvaluationResult) -> tuple[str, ...]:
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
    elif then["n"] + then["left out"] != (rows := len(evaluated.records) + len(evaluated.seen)):
        differences.append(f"version {version} was decided on {then['n'] + then['left out']} rows, this is on {rows}")
    before, now = then.get(BASELINE_DATA), baseline_data(evaluated)
    if before != now:
        names = [fingerprint[:16] if fingerprint else "the evaluated data" for fingerprint in (before, now)]
        differences.append(f"for version {version} baselines learned from {names[0]}, this time from {names[1]}")
    return tuple(differences)


def baseline_data(evaluated: EvaluationResult) -> str | None:
    """The fingerprint of the dataset that baselines learned from; None for the evaluated dataset."""
    other = evaluated.learned.other
    return other.fingerprint if other is not None else None


def accepted_policy(decisions: Sequence[Decision]) -> Mapping[str, Any] | None:
    """The policy of the last decision on the alias; None if there was none.

    A decision that was refused because of its policy does not count: otherwise it would be accepted the next time.
    """
    for decision in reversed(decisions):
        unexplained = any(rule.rule == SAME_POLICY and not rule.passed for rule in decision.rules)
        if decision.outcome != "refused" or not unexplained:
            return decision.policy
    return None


def removed_version(moves: Sequence[AliasMove], alias: str) -> str:
    """A description of the removed version that the alias pointed to; empty if it points to a stored one."""
    done = [move for move in moves if not move.refused]
    deleted = bool(done) and done[-1].target is None
    return f"version {done[-1].source}, which '{alias}' pointed to" if deleted else ""


def candidates_on(store: Store, alias: str, incumbent: int | None, evaluated: EvaluationResult) -> int:
    """Number of candidates for an alias that these rows have seen, this one included.

    Of all adapters: those that were decided for the alias, refusals too, and those that were only evaluated. `evaluate`
    records before this is asked, so two decisions at the same time count each other.
    """
    rows, manifest = (evaluated.judgments.data, evaluated.split), evaluated.adapter.manifest
    measured: set[tuple[str, int]] = set()
    decided = {(manifest.name, manifest.version)}
    for name in store.names():
        measured |= {(name, each.version) for each in store.evaluations(name) if (each.data, each.split) == rows}
        decisions = (move.decision for move in store.history(name) if move.alias == alias)
        decided |= {
            (name, decision.version)
            for decision in decisions
            if decision is not None and (decision.evidence["data"], decision.evidence["split"]) == rows
        }
    return len((measured - {(manifest.name, incumbent)}) | decided)


def evidence(evaluated: EvaluationResult, incumbent: Sequence[str]) -> Mapping[str, Any]:
    """The evidence of the decision: data, judgments, machine, and the figures of the systems involved."""
    figures = to_json(evaluated.comparison, header(evaluated.adapter.reference))
    involved = {evaluated.adapter.reference, BASE, *incumbent, *evaluated.baselines}
    return {
        **{key: figures[key] for key in ("command", "date", "machine", "versions")},
        "data": evaluated.judgments.data,
        "split": evaluated.split,
        "judgments": evaluated.judgments.source,
        "judgments by source": evaluated.judgments.counts,
        **({BASELINE_DATA: data} if (data := baseline_data(evaluated)) else {}),
        **({"baselines too few rows": dict(too_few)} if (too_few := evaluated.learned.too_few) else {}),
        "engines": list(evaluated.engines),
        "n": len(evaluated.records),
        "left out": len(evaluated.seen),
        "groups": evaluated.comparison.groups,
        "losses": list(evaluated.losses),
        "rows": [row for row in figures["rows"] if row["system"] in involved],
        "comparisons": [pair for pair in figures["comparisons"] if {pair["a"], pair["b"]} <= involved],
        "costs": {name: costs for name, costs in evaluated.comparison.costs.items() if name in involved},
    }
