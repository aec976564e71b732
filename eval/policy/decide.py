"""Decision on a promotion policy: each rule checked against a comparison. Runs no system and moves no alias."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from searchlora.errors import UsageError, some
from searchlora.eval.comparison import Comparison, PairedComparison
from searchlora.eval.formatting import interval, p_value
from searchlora.eval.judgments.sources import UNKNOWN, SourceCounts
from searchlora.eval.policy.changes import changes
from searchlora.eval.policy.policy import Margin, Policy, SliceRule
from searchlora.eval.preference import Preference
from searchlora.eval.significance import LEVEL, correct

#: What sums of floats may be off: a limit that is met exactly is met.
_ROUNDING = 1e-9

#: Name of the rule on the data of the last decision.
UNCHANGED = "unchanged data"

#: Users with a preference below which an interleaving that is not decided is no evidence.
_LEAST_WINS = 100

#: What to do about test rows that the candidate was trained on.
_BUILD_WITHOUT = (
    "build training and test rows from one source, which takes them out of training: "
    "`searchlora data build TASK SOURCE --map split=COLUMN`"
)

#: Name of the rule on how often the test rows were used.
WORN = "uses of the test rows"

#: Name of the rule on the policy of the last decision.
SAME_POLICY = "the policy of the last decision"


@dataclass(frozen=True)
class RuleResult:
    """The result of one rule, for example `beat incumbent` or `slice turn = 3`.

    Attributes:
        finding: What was found and what is required, in a sentence.
        short_by: By how much the rule was missed, in its unit; 0 if it is met, None if it has no size.
    """

    rule: str
    passed: bool
    finding: str
    short_by: float | None = 0.0

    @property
    def summary(self) -> str:
        """The finding, with the amount by which the rule was missed."""
        return f"{self.finding}; missed by {self.short_by:.3g}" if not self.passed and self.short_by else self.finding


@dataclass(frozen=True)
class Facts:
    """Facts that a policy needs in addition to the figures.

    Attributes:
        roles: `base` or `incumbent` -> name of the system in the comparison. No key `incumbent`: there is none.
        data: Fingerprint of the evaluated dataset.
        changed: Changes of the data since the last decision on this alias, in words; empty: none.
        accepted: Whether a person accepted these changes.
        source: Source of the judgments in a word (`eval.judgments.sources.SourceCounts.source`).
        graded: The numbers of grades by source; empty: `source` is all that is known.
        removed: The incumbent version that was removed from the store, in words; empty: none.
        policy: The policy of the last decision on this alias, as JSON; None: there was none.
        reason: Why the policy was changed, in the words of a person; empty: no reason was given.
        leaked: Ids of evaluated rows whose query the candidate was trained on; None: unknown.
        left_out: Which rows are left out because the candidate was trained on their queries, in words; empty: none.
        not_baselines: Systems that `beat: {baselines: all}` leaves out: other models, and those made from the expected
            outputs.
        candidates: Number of candidates that were measured on these rows or decided on them, this one included; None:
            nobody counts, as in an experiment.
        interleaved: What users prefer, with the candidate as B; None: it was not interleaved.
        too_few: Baseline that learned from too few rows -> why, in a sentence. It is not beaten, whatever the figures.
    """

    roles: Mapping[str, str]
    data: str = ""
    changed: tuple[str, ...] = ()
    accepted: bool = False
    source: str = "human"
    graded: Sequence[SourceCounts] = ()
    removed: str = ""
    policy: Mapping[str, Any] | None = None
    reason: str = ""
    leaked: tuple[str, ...] | None = field(default=())
    left_out: str = ""
    not_baselines: frozenset[str] = frozenset()
    too_few: Mapping[str, str] = field(default_factory=dict)
    candidates: int | None = None
    interleaved: Preference | None = None


def decide(policy: Policy, comparison: Comparison, candidate: str, facts: Facts) -> tuple[RuleResult, ...]:
    """Check every rule of a policy against a comparison of the candidate with the systems to beat.

    Raises:
        UsageError: when the policy names a measure, a system or a slice that does not exist in the comparison.

    Examples:
        >>> from searchlora.eval.comparison import compare
        >>> from searchlora.eval.evaluation import Evaluation
        >>> rows = {f"q{n}": n / 40 for n in range(20)}
        >>> base = Evaluation("MRR", {"MRR": rows}, clusters={})
        >>> better = Evaluation("MRR", {"MRR": {q: v + 0.2 + v / 10 for q, v in rows.items()}}, clusters={})
        >>> comparison = compare({"base": base, "new": better}, candidate="new", resamples=500)
        >>> results = decide(Policy(), comparison, "new", Facts(roles={"base": "base"}))
        >>> [result.passed for result in results if result.rule == "beat base"]
        [True]
    """
    measure = policy.measure or comparison.measures[0]
    _check_measure(comparison, candidate, measure)
    return (
        *_data(policy, comparison, candidate, measure, facts),
        *_decisions(policy, facts),
        *_beat(policy, comparison, candidate, measure, facts),
        *_slices(policy, comparison, candidate, measure, facts),
        *_bounds(policy, comparison, candidate, facts),
        *_interleaving(policy, candidate, facts),
    )


def _interleaving(policy: Policy, candidate: str, facts: Facts) -> Iterator[RuleResult]:
    if policy.interleaving is None:
        return
    found = facts.interleaved
    if found is None:
        yield _result("interleaving", False, f"no recorded search was interleaved with {candidate}")
        return
    wins = found.wins_a + found.wins_b
    not_lost = policy.interleaving == "not_lost" and found.decision == "open" and wins >= _LEAST_WINS
    least = f", {_LEAST_WINS} users or more" if policy.interleaving == "not_lost" else ""
    finding = (
        f"{found.share:.3f} {interval(found.low, found.high)} of {wins} users with a preference prefer {candidate};"
        f" required: {policy.interleaving.replace('_', ' ')}{least}"
    )
    holds = found.decision == "B" or not_lost
    yield _result("interleaving", holds, finding)


def _decisions(policy: Policy, facts: Facts) -> Iterator[RuleResult]:
    """Rule on the wear of the test rows: each candidate that is measured on them is one more chance to pass."""
    if (number := facts.candidates) is None:
        return
    # A candidate that is no better passes if p is at most the level and its difference above 0: half of the level.
    chance = 1 - (1 - LEVEL / policy.decisions / 2) ** number
    passed = number <= policy.decisions
    finding = (
        f"candidate {number} on these test rows; the policy plans for {policy.decisions}, each at p ≤ "
        f"{LEVEL / policy.decisions:.3g}; one of {number} that are no better passes in {chance:.1%}"
    )
    advice = "" if passed else "; take new test rows"
    yield _result(WORN, passed, f"{finding}{advice}", float(number - policy.decisions))


def _check_measure(comparison: Comparison, candidate: str, measure: str) -> None:
    if comparison.find(candidate, measure) is not None and measure not in comparison.zero_is_best:
        return
    costs = {name for costs in comparison.costs.values() for name in costs}
    if measure in comparison.zero_is_best:
        why = "of which 0 is best: systems are not compared by it"
    elif measure in comparison.measures:
        why = f"of which {candidate} has no value"
    elif measure in costs:
        why = "which is a cost; a policy bounds the time per query by 'max_latency_ms'"
    else:
        why = "which was not measured"
    raise UsageError(f"the policy asks for {measure}, {why}", fix=f"Measured: {', '.join(comparison.measures)}.")


def _data(policy: Policy, comparison: Comparison, candidate: str, measure: str, facts: Facts) -> Iterator[RuleResult]:
    """Rules on the data: enough rows, unchanged data, held-out queries, accepted and independent judgments."""
    rows, groups = comparison.row(candidate, measure).n, comparison.measure_groups[measure]
    lacking = max(policy.min_rows - rows, policy.min_groups - groups, 0)
    finding = f"{rows} rows in {groups} groups; required: {policy.min_rows} in {policy.min_groups}"
    yield _result("enough data", not lacking, finding, float(lacking))
    if policy.data is not None:
        holds = facts.data.startswith(policy.data)
        finding = f"the data is {facts.data[:16]}; the policy was written for {policy.data[:16]}"
        yield _result("the policy's data", holds, finding)
    finding = "; ".join(facts.changed) or "nothing was changed since the last decision"
    holds = facts.accepted or not facts.changed
    finding = f"accepted: {finding}" if facts.accepted and facts.changed else finding
    yield _result(UNCHANGED, holds, finding)
    yield from _same_policy(policy, comparison, facts)
    if facts.leaked is None:
        required = policy.held_out == "required"
        finding = "the training data of the candidate is unknown"
        finding = f"{finding}, which the policy requires" if required else f"not checked: {finding}"
        yield _result("held out", not required, finding)
    else:
        listed = f" ({some(facts.leaked)})" if facts.leaked else ""
        finding = f"{len(facts.leaked)} of {rows} queries{listed} are in the candidate's training data"
        if facts.leaked:
            finding = f"{finding}; {_BUILD_WITHOUT}"
        elif facts.left_out:
            finding = f"{finding}; {facts.left_out}"
        yield _result("held out", not facts.leaked, finding, float(len(facts.leaked)))
    yield _source(policy, facts)
    reason = comparison.circular.get(candidate, "")
    yield _result("no circular judge", not reason, reason or "no judge had a part in the systems it judged")


def _same_policy(policy: Policy, comparison: Comparison, facts: Facts) -> Iterator[RuleResult]:
    """A policy other than that of the last decision needs a reason: otherwise it would undo a refusal."""
    if facts.policy is None:
        return
    headline = comparison.measures[0]
    before, after = (
        {**stored, "measure": stored.get("measure") or headline}
        for stored in (facts.policy, policy.model_dump(mode="json"))
    )
    changed = changes(before, after)
    finding = f"changed: {'; '.join(changed)}" if changed else "the same"
    if changed and facts.reason:
        finding = f"{finding}; the reason given: {facts.reason}"
    elif changed:
        finding = f"{finding}; no reason was given. Restore the policy, or give --reason REASON"
    yield _result(SAME_POLICY, not changed or bool(facts.reason), finding)


def _source(policy: Policy, facts: Facts) -> RuleResult:
    """Rule on the source of the judgments: that of each grade is accepted, or that of all in a word."""
    outside = "; ".join(filter(None, (counts.outside(policy.judgments) for counts in facts.graded)))
    known = facts.source in policy.judgments or (bool(facts.graded) and not outside)
    finding = f"the judgments are {facts.source}; {' or '.join(policy.judgments)} are accepted"
    if known:
        return _result("source of judgments", True, finding)
    advice = (
        "say who graded with --judgments-source, of `data build` or `convert`, or by a card beside the file"
        if facts.source == UNKNOWN
        else "evaluate on grades of an accepted source"
    )
    detail = f" (not accepted: {outside})" if outside else ""
    return _result("source of judgments", False, f"{finding}{detail}; {advice}")


def _beat(policy: Policy, comparison: Comparison, candidate: str, measure: str, facts: Facts) -> Iterator[RuleResult]:
    for role, system, requirement in _to_beat(policy, comparison, candidate, facts):
        if role == "incumbent" and system not in comparison.systems:
            finding = (
                f"{facts.removed}, was removed; nothing to compare with"
                if facts.removed
                else "there is no incumbent yet"
            )
            yield _result("beat incumbent", not facts.removed, finding)
            continue
        if system in facts.too_few and system not in comparison.systems:
            yield _result(f"beat {role}", False, f"not compared with {system}: {facts.too_few[system]}")
            continue
        if system in comparison.systems and comparison.find(system, measure) is None:
            finding = (
                f"{system} has no {measure}, so it cannot be compared in it. Use another measure, or do not name the "
                "system under 'beat'"
            )
            yield _result(f"beat {role}", False, finding)
            continue
        pair = _pair(comparison, candidate, system, measure)
        level = LEVEL / policy.decisions
        low, high = pair_interval(pair, level)
        reached = comparison.gain(measure, high if measure in comparison.less_is_better else low)
        above = reached > requirement.margin
        # With few rows, or few that differ, the interval alone lets chance results pass (up to 14% of null pairs).
        passed = above and pair.p <= level
        short = pair.p - level if above else requirement.margin - reached
        less = measure in comparison.less_is_better
        end = (
            f"upper end must be below {-requirement.margin:+.3f}"
            if less
            else f"lower end must be above {requirement.margin:+.3f}"
        )
        finding = (
            f"{measure} {pair.difference:+.3f} {interval(low, high, '+')} against {system}, n = {pair.n}, "
            f"p {p_value(pair.p)}; the {end} and p at most {level:.3g}"
        )
        if above and pair.p > level:
            finding = f"{finding}; the interval alone does not decide"
        if system in facts.too_few:
            yield _result(f"beat {role}", False, f"{finding}; not decisive: {facts.too_few[system]}")
            continue
        yield _result(f"beat {role}", passed, finding, short)


def _to_beat(policy: Policy, comparison: Comparison, candidate: str, facts: Facts) -> Iterator[tuple[str, str, Margin]]:
    """Role or name, system, and margin of each system to beat, the baselines last."""
    for role, margin in policy.beat.items():
        yield role, facts.roles.get(role, role), margin
    if policy.baselines is None:
        return
    evaluated = [system for system in comparison.systems if system != candidate]
    others = list(dict.fromkeys([*evaluated, *facts.too_few]))
    if policy.baselines.systems == "all":
        left_out = {*facts.not_baselines, *(facts.roles.get(role, role) for role in policy.beat)}
        wanted = [system for system in others if system not in left_out]
    else:
        by_name = {system.casefold(): system for system in others}
        missing = [name for name in policy.baselines.systems if name.casefold() not in by_name]
        if missing:
            raise UsageError(
                f"the policy names the baseline '{missing[0]}', which was not evaluated",
                fix=f"Baselines: {', '.join(evaluated) or 'none'}.",
            )
        wanted = [by_name[name.casefold()] for name in policy.baselines.systems]
    for system in dict.fromkeys(wanted):
        if system not in policy.beat:
            yield system, system, Margin(margin=policy.baselines.margin)


def _slices(policy: Policy, comparison: Comparison, candidate: str, measure: str, facts: Facts) -> Iterator[RuleResult]:
    if not policy.slices:
        return
    if measure in comparison.aggregates:
        raise UsageError(
            f"the policy names slices, but {measure} is an aggregate without slices",
            fix=f"Remove 'slices', or use one of: {', '.join(comparison.values)}.",
        )
    other = _rival(policy, facts)
    for name, rule in policy.slices.items():
        pairs = {
            part.value: part.pair
            for part in comparison.slice_pairs
            if (part.slice, part.pair.a, part.pair.b, part.pair.measure) == (name, candidate, other, measure)
        }
        missing = [value for value in rule.values or () if value not in pairs]
        if not pairs or missing:
            known = ", ".join(dict.fromkeys(part.slice for part in comparison.slice_pairs)) or "none"
            missing_name = f"the value {missing[0]} of the slice '{name}'" if pairs else f"a slice '{name}'"
            raise UsageError(f"the policy names {missing_name}, which the data does not have", fix=f"Slices: {known}.")
        checked = {value: pair for value, pair in pairs.items() if rule.values is None or value in rule.values}
        deciding = [value for value, pair in checked.items() if pair.n >= rule.min_rows]
        corrected = dict(zip(deciding, correct([checked[value].p for value in deciding]), strict=True))
        for value, pair in checked.items():
            yield _slice(comparison, f"slice {name} = {value}", pair, rule, other, corrected.get(value))


def _rival(policy: Policy, facts: Facts) -> str:
    """The system that slices are compared with."""
    for role in ("incumbent", "base"):
        if role in facts.roles:
            return facts.roles[role]
    if not policy.beat:
        raise UsageError("the policy names slices, but no system to compare them with", fix="Name one under 'beat'.")
    return next(iter(policy.beat))


def _slice(
    comparison: Comparison, rule_name: str, pair: PairedComparison, rule: SliceRule, other: str, p: float | None
) -> RuleResult:
    """The rule on one value of a slice; `p` is corrected over the values, None for one with too few rows."""
    fall = -comparison.gain(pair.measure, pair.difference)
    limit = (
        f"above {rule.max_fall:+.3f}" if pair.measure in comparison.less_is_better else f"below {-rule.max_fall:+.3f}"
    )
    finding = (
        f"{pair.measure} {pair.difference:+.3f} {interval(pair.low, pair.high, '+')} against {other}, n = {pair.n}"
    )
    if p is None:
        return _result(rule_name, True, f"reported only, with fewer than {rule.min_rows} rows: {finding}")
    passed = fall <= rule.max_fall + _ROUNDING or p > LEVEL
    finding = f"{finding}, p {p_value(p)}; the mean must not be {limit} with p at most {LEVEL}"
    return _result(rule_name, passed, finding, fall - rule.max_fall)


def pair_interval(pair: PairedComparison, level: float) -> tuple[float, float]:
    """The interval of a difference at another level than 0.05: its 95% interval, stretched as a normal one would be.

    Examples:
        >>> pair = PairedComparison("a", "b", "MRR", 0.1, 0.0, 0.2, 0.04, 0.04, 60, 40, 0, 100, 0.04, 0.2, 0.1)
        >>> [round(end, 3) for end in pair_interval(pair, 0.005)]
        [-0.043, 0.243]
    """
    wider = NormalDist().inv_cdf(1 - level / 2) / NormalDist().inv_cdf(1 - LEVEL / 2)
    return pair.difference - (pair.difference - pair.low) * wider, pair.difference + (
        pair.high - pair.difference
    ) * wider


def _bounds(policy: Policy, comparison: Comparison, candidate: str, facts: Facts) -> Iterator[RuleResult]:
    if policy.max_invalid_rate is not None:
        rate = len(comparison.invalid[candidate]) / comparison.answered[candidate]
        yield _at_most("invalid rate", rate, policy.max_invalid_rate, "{:.3f}")
    if policy.max_latency_ms is not None:
        spent = _milliseconds(comparison, candidate)
        yield _at_most("latency", spent, policy.max_latency_ms, "{:.0f} ms a query")
    if policy.max_latency_ratio is not None:
        ratio = _milliseconds(comparison, candidate) / _milliseconds(comparison, facts.roles.get("base", "base"))
        yield _at_most("latency against base", ratio, policy.max_latency_ratio, "{:.2f} times the base")


def _at_most(rule: str, value: float, limit: float, unit: str) -> RuleResult:
    return _result(
        rule, value <= limit + _ROUNDING, f"{unit.format(value)}; at most {unit.format(limit)}", value - limit
    )


def _result(rule: str, passed: bool, finding: str, short: float = math.nan) -> RuleResult:
    """The result of a rule; nan if it cannot be said by how much it was missed."""
    return RuleResult(rule, passed, finding, 0.0 if passed else None if math.isnan(short) else short)


def _milliseconds(comparison: Comparison, system: str) -> float:
    try:
        return comparison.costs[system]["ms per query"]
    except KeyError:
        raise UsageError(
            f"the policy bounds the latency, but {system} was not timed",
            fix="Evaluate it again without stored outputs, or remove the rule.",
        ) from None


def _pair(comparison: Comparison, candidate: str, system: str, measure: str) -> PairedComparison:
    try:
        return comparison.pair(candidate, system, measure)
    except KeyError:
        raise UsageError(
            f"the policy compares {candidate} with '{system}' in {measure}, which was not done",
            fix=f"Systems: {', '.join(comparison.systems)}.",
        ) from None
