"""Decisions of a promotion policy: a better candidate passes, and every broken rule states by how much."""

from __future__ import annotations

import json

import numpy as np
import pytest

from searchlora.errors import UsageError
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.grade_measures import grade_measures
from searchlora.eval.policy import SAME_POLICY, Facts, Policy, RuleResult, decide
from searchlora.eval.policy.decide import _at_most
from searchlora.eval.preference import preference

ROLES = {"base": "base", "incumbent": "old@1"}
ROWS = [str(row) for row in range(200)]


def evaluation(values: np.ndarray, **more: object) -> Evaluation:
    rows = dict(zip(ROWS, map(float, values), strict=True))
    kinds = {row: "odd" if int(row) % 2 else "even" for row in ROWS}
    return Evaluation("nDCG@10", {"nDCG@10": rows}, {}, slices={"kind": kinds}, **more)


def compared(gain: float, odd: float = 0.0, invalid: int = 0, ms: float = 100, circular: str = "") -> Comparison:
    """The candidate is better than the old one by `gain` on average, on odd rows by `odd` more."""
    rng = np.random.default_rng(1)
    old = rng.uniform(0.2, 0.6, len(ROWS))
    new = old + rng.normal(0, 0.1, len(ROWS))
    new += gain - (new - old).mean() + odd * np.array([int(row) % 2 for row in ROWS])
    return compare(
        {
            "base": evaluation(old - 0.1, costs={"ms per query": 80}),
            "old@1": evaluation(old, costs={"ms per query": 100}),
            "new@2": evaluation(
                new, invalid=dict.fromkeys(ROWS[:invalid], "empty"), costs={"ms per query": ms}, circular=circular
            ),
        },
        candidate="new@2",
        resamples=2000,
    )


def broken(policy: Policy, comparison: Comparison, **facts: object) -> dict[str, float | None]:
    results = decide(policy, comparison, "new@2", Facts(**{"roles": ROLES, "data": "ab" * 32, **facts}))
    return {result.rule: result.short_by for result in results if not result.passed}


def test_a_better_candidate_passes():
    policy = Policy(
        slices={"kind": {"max_fall": 0.0}},
        max_invalid_rate=0.01,
        max_latency_ms=150,
        max_latency_ratio=1.5,
        min_rows=200,
        data="abab" * 4,
    )
    assert broken(policy, compared(0.05, invalid=2)) == {}


def test_a_worse_candidate_is_refused_with_the_difference():
    found = broken(Policy(), compared(-0.03))
    assert found.keys() == {"beat incumbent"}
    assert found["beat incumbent"] == pytest.approx(0.03 + 1.96 * 0.1 / 200**0.5, abs=0.003)


def test_rows_and_groups_are_those_of_the_measure_of_the_policy():
    clusters = {str(row): f"g{row // 5}" for row in range(100)}
    values = {"rare": {str(row): row / 10 for row in range(10)}, "common": {str(row): row / 100 for row in range(100)}}
    kappa = grade_measures((0, 1), 1)["kappa"].aggregate(
        {str(row): row % 2 for row in range(20)}, {str(row): 1 for row in range(20)}
    )
    systems = {
        name: Evaluation("common", values, clusters, aggregates={"kappa": kappa}) for name in ("base", "old@1", "new@2")
    }
    comparison = compare(systems, candidate="new@2", resamples=100)
    for measure, found in (("rare", "10 rows in 2"), ("common", "100 rows in 20"), ("kappa", "20 rows in 4")):
        policy = Policy(measure=measure, beat={}, min_rows=10, min_groups=20)
        data = next(each for each in decide(policy, comparison, "new@2", Facts(ROLES)) if each.rule == "enough data")
        assert data.finding == f"{found} groups; required: 10 in 20"
        assert data.passed == (measure == "common")


@pytest.mark.parametrize(("rows", "wins"), [(43, 2), (43, 4), (200, 3), (2, 2), (3, 3)])
def test_few_differing_rows_are_not_significant(rows, wins):
    """The interval is above 0 in each of these cases; chance gives such differences in one case of eight and more."""
    old = dict.fromkeys(ROWS[:rows], 0.5)
    new = {**old, **dict.fromkeys(ROWS[:wins], 0.6)}
    systems = {"base": old, "new@2": new}
    comparison = compare(
        {name: Evaluation("nDCG@10", {"nDCG@10": values}, {}) for name, values in systems.items()}, candidate="new@2"
    )
    pair = comparison.pair("new@2", "base", "nDCG@10")
    assert pair.low > 0
    found = broken(Policy(beat={"base": {}}, decisions=1), comparison, roles={"base": "base"})
    assert found.keys() == {"beat base"}
    assert pair.p > 0.1


def test_the_lower_end_of_the_interval_must_exceed_the_margin():
    pair = (comparison := compared(0.05)).pair("new@2", "old@1", "nDCG@10")
    found = broken(Policy(beat={"incumbent": {"margin": 0.045}}, decisions=1), comparison)
    assert found == {"beat incumbent": pytest.approx(0.045 - pair.low)}
    assert pair.difference > 0.045


def test_a_fall_in_a_slice_is_refused_although_the_mean_rose():
    comparison = compared(0.1, odd=-0.14)
    assert broken(Policy(), comparison) == {}
    found = broken(Policy(slices={"kind": {"max_fall": 0.01}}), comparison)
    assert found.keys() == {"slice kind = odd"}
    assert found["slice kind = odd"] == pytest.approx(0.03, abs=0.02)
    assert broken(Policy(slices={"kind": {"max_fall": 0.05}}), comparison) == {}
    assert broken(Policy(slices={"kind": {"values": ["even"]}}), comparison) == {}


def test_a_small_slice_is_reported_and_does_not_decide():
    comparison = compared(0.1, odd=-0.14)
    rule = {"max_fall": 0.01, "min_rows": 100}
    assert broken(Policy(slices={"kind": rule}), comparison).keys() == {"slice kind = odd"}
    policy = Policy(slices={"kind": {**rule, "min_rows": 101}})
    assert broken(policy, comparison) == {}
    findings = {result.rule: result.finding for result in decide(policy, comparison, "new@2", Facts(ROLES, "ab" * 32))}
    assert findings["slice kind = odd"].startswith("reported only, with fewer than 101 rows: nDCG@10 -0.0")


def test_where_less_is_better_a_rise_is_a_fall():
    """The mirror image of a comparison is decided as the comparison is."""
    plain = compared(0.1, odd=-0.14)
    turned = compare(
        {
            name: Evaluation(
                "error",
                {"error": {row: 1 - value for row, value in of_row["nDCG@10"].items()}},
                {},
                slices={"kind": {row: "odd" if int(row) % 2 else "even" for row in ROWS}},
                less_is_better=("error",),
            )
            for name, of_row in {
                name: {m: values[name] for m, values in plain.values.items()} for name in plain.systems
            }.items()
        },
        candidate="new@2",
        resamples=2000,
    )
    for beat in ({"base": {"margin": 0.05}, "incumbent": {}}, {"incumbent": {"margin": 0.2}}):
        policy = Policy(beat=beat, slices={"kind": {"max_fall": 0.01}})
        found = broken(policy, turned)
        assert found == pytest.approx(broken(policy, plain))
        assert "slice kind = odd" in found
    pair, mirrored = plain.pair("new@2", "old@1", "nDCG@10"), turned.pair("new@2", "old@1", "error")
    assert (mirrored.wins, mirrored.losses) == (pair.wins, pair.losses)
    findings = {rule.rule: rule.finding for rule in decide(policy, turned, "new@2", Facts(ROLES, "ab" * 32))}
    assert "the upper end must be below -0.200" in findings["beat incumbent"]
    assert "the mean must not be above +0.010" in findings["slice kind = odd"]


def graded(skill: float, seed: int) -> Evaluation:
    rng = np.random.default_rng(seed)
    gold = {row: int(row) % 3 for row in ROWS}
    given = {row: grade if rng.random() < skill else int(rng.integers(3)) for row, grade in gold.items()}
    right = {row: float(given[row] == grade) for row, grade in gold.items()}
    kinds = {row: "odd" if int(row) % 2 else "even" for row in ROWS}
    figures = {"kappa": grade_measures((0, 1, 2), 1)["kappa"].aggregate(gold, given)}
    return Evaluation("kappa", {"accuracy": right}, {}, slices={"kind": kinds}, aggregates=figures)


def test_an_aggregate_measure_can_be_the_policy_measure_without_slices():
    systems = {"base": graded(0.3, 1), "old@1": graded(0.6, 2), "new@2": graded(0.9, 3)}
    comparison = compare(systems, candidate="new@2", resamples=1000)
    assert broken(Policy(min_rows=200), comparison) == {}
    pair = comparison.pair("new@2", "old@1", "kappa")
    found = broken(Policy(beat={"incumbent": {"margin": 0.4}}, decisions=1), comparison)
    assert found == {"beat incumbent": pytest.approx(0.4 - pair.low)}
    with pytest.raises(UsageError, match=r"kappa is an aggregate without slices.*one of: accuracy"):
        broken(Policy(slices={"kind": {}}), comparison)
    assert broken(Policy(measure="accuracy", slices={"kind": {"max_fall": 0.1}}), comparison) == {}


def test_a_circular_judge_is_refused():
    assert broken(Policy(), compared(0.05, circular="the judge new@1 is the candidate's ancestor")) == {
        "no circular judge": None
    }


def test_changed_data_and_other_judgments_are_refused():
    changed = broken(Policy(data="cd" * 8), compared(0.05), changed=("the data is another",), source="llm")
    assert changed.keys() == {"the policy's data", "unchanged data", "source of judgments"}
    assert broken(Policy(judgments=("llm",)), compared(0.05), source="llm") == {}
    results = decide(Policy(), compared(0.05), "new@2", Facts(ROLES, changed=("qrels were others",), accepted=True))
    assert "accepted: qrels were others" in [result.finding for result in results if result.rule == "unchanged data"]
    assert all(result.passed for result in results)


def test_training_queries_are_refused_and_unknown_ones_reported():
    assert broken(Policy(), compared(0.05), leaked=("3", "9")) == {"held out": 2.0}
    unknown = decide(Policy(), compared(0.05), "new@2", Facts(ROLES, leaked=None))
    assert "not checked" in next(result.finding for result in unknown if result.rule == "held out")
    assert broken(Policy(held_out="required"), compared(0.05), leaked=None) == {"held out": None}
    assert broken(Policy(held_out="reported"), compared(0.05), leaked=None) == {}
    assert broken(Policy(held_out="reported"), compared(0.05), leaked=("3",)) == {"held out": 1.0}


def test_values_at_the_bounds_of_rules():
    policy = Policy(max_invalid_rate=0.02, max_latency_ms=120, max_latency_ratio=2, min_rows=300, min_groups=100)
    found = broken(policy, compared(0.05, invalid=10, ms=180))
    assert found == {
        "enough data": 100.0,
        "invalid rate": pytest.approx(0.03),
        "latency": pytest.approx(60),
        "latency against base": pytest.approx(0.25),
    }


def test_the_invalid_rate_is_of_all_rows_that_the_system_answered():
    """The base knows 20 rows only, so the comparison is over these; the candidate failed on 30 of its 200."""
    values = np.linspace(0.2, 0.8, len(ROWS))
    few = {"nDCG@10": dict.fromkeys(ROWS[:20], 0.1)}
    comparison = compare(
        {
            "base": Evaluation("nDCG@10", few, {}),
            "new@2": evaluation(values, invalid=dict.fromkeys(ROWS[:30], "empty")),
        },
        candidate="new@2",
        resamples=200,
    )
    found = broken(Policy(beat={}, max_invalid_rate=0.1), comparison)
    assert found == {"invalid rate": pytest.approx(0.05)}


def test_the_first_version_has_no_incumbent_to_beat_and_a_removed_one_is_an_error():
    results = decide(Policy(), compared(-0.03), "new@2", Facts({"base": "base"}))
    assert all(result.passed for result in results)
    assert "no incumbent" in next(result.finding for result in results if result.rule == "beat incumbent")
    gone = Facts({"base": "base"}, removed="version 3, which 'production' meant")
    (result,) = [each for each in decide(Policy(), compared(0.05), "new@2", gone) if not each.passed]
    assert (result.rule, result.short_by) == ("beat incumbent", None)
    assert "version 3, which 'production' meant, was removed" in result.finding


def of_the_policy(policy: Policy, then: Policy, **facts: object) -> RuleResult:
    """The result of the rule on the policy of the last decision, which was stored by a release with fewer keys."""
    kept = json.loads(json.dumps({key: part for key, part in then.model_dump(mode="json").items() if part}))
    results = decide(policy, compared(0.05), "new@2", Facts(ROLES, data="ab" * 32, policy=kept, **facts))
    (result,) = [each for each in results if each.rule == SAME_POLICY]
    return result


def test_a_policy_changed_since_the_last_decision_needs_a_reason():
    then = Policy(slices={"kind": {"max_fall": 0.03}}, min_rows=9)
    now = Policy(slices={"kind": {"max_fall": 0.1}}, min_rows=9, data="ab" * 32)
    listed = f"changed: slices.kind.max_fall was 0.03, is 0.1; data was not set, is {'ab' * 32}"
    same, refused = of_the_policy(then, then), of_the_policy(now, then)
    explained = of_the_policy(now, then, reason="agreed with the search team")
    assert (same.passed, same.finding) == (True, "the same")
    assert not refused.passed
    assert refused.finding == f"{listed}; no reason was given. Restore the policy, or give --reason REASON"
    assert (explained.passed, explained.finding) == (True, f"{listed}; the reason given: agreed with the search team")
    headline = compared(0.05).measures[0]
    assert of_the_policy(then.model_copy(update={"measure": headline}), then).finding == "the same"
    first = decide(now, compared(0.05), "new@2", Facts(ROLES, data="ab" * 32))
    assert SAME_POLICY not in {each.rule for each in first}


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Policy(measure="MAP"), "asks for MAP"),
        (Policy(beat={"elsewhere": {}}), "'elsewhere'"),
        (Policy(slices={"colour": {}}), "a slice 'colour'"),
        (Policy(slices={"kind": {"values": ["big"]}}), "the value big of the slice 'kind'"),
    ],
)
def test_measures_and_slices_missing_from_the_data_are_errors(policy, message):
    with pytest.raises(UsageError, match=message):
        decide(policy, compared(0.05), "new@2", Facts(ROLES))


def test_latency_without_times_and_slices_without_a_rival_are_errors():
    comparison = compare(
        {"base": evaluation(np.full(200, 0.1)), "new@2": evaluation(np.full(200, 0.2))}, candidate="new@2"
    )
    with pytest.raises(UsageError, match="new@2 was not timed"):
        decide(Policy(beat={}, max_latency_ms=5), comparison, "new@2", Facts({"base": "base"}))
    with pytest.raises(UsageError, match="no system to compare them with"):
        decide(Policy(beat={}, slices={"kind": {}}), compared(0.05), "new@2", Facts({}))


@pytest.mark.parametrize(
    ("outcomes", "rule", "passes"),
    [
        ([1.0] * 40, "preferred", True),
        ([1.0, -1.0] * 40, "preferred", False),
        ([1.0, -1.0] * 60, "not_lost", True),
        ([1.0, -1.0] * 40, "not_lost", False),
        ([-1.0] * 40, "not_lost", False),
        (None, "not_lost", False),
    ],
)
def test_what_users_prefer_is_evidence_beside_the_figures(outcomes, rule, passes):
    found = None if outcomes is None else preference(outcomes)
    missed = broken(Policy(interleaving=rule), compared(0.05), interleaved=found)
    assert ("interleaving" not in missed) is passes
    assert "interleaving" not in broken(Policy(), compared(0.05), interleaved=found)


def test_a_limit_that_is_met_exactly_is_met():
    """0.1 + 0.2 is above 0.3 as a float."""
    assert _at_most("rate", 0.1 + 0.2, 0.3, "{:.1f}").passed
    assert not _at_most("rate", 0.301, 0.3, "{:.3f}").passed


def sliced(fall: float, seed: int, values: int = 6, rows: int = 40) -> Comparison:
    """A candidate that is equal to the old one on all values of a slice, and worse by `fall` on the first value."""
    rng = np.random.default_rng(seed)
    kind = {str(row): f"kind {row % values}" for row in range(values * rows)}
    chance = rng.beta(0.8, 0.2, len(kind))
    old, new = (rng.random(len(kind)) < chance for _ in range(2))
    new = new & ~((np.arange(len(kind)) % values == 0) & (rng.random(len(kind)) < fall))
    systems = {
        name: Evaluation(
            "accuracy", {"accuracy": dict(zip(kind, map(float, right), strict=True))}, slices={"kind": kind}
        )
        for name, right in (("old@1", old), ("new@2", new))
    }
    return compare(systems, candidate="new@2", resamples=500)


def test_slices_let_equal_candidates_pass_and_block_a_real_fall():
    policy = Policy(beat={}, slices={"kind": {}})
    blocked = [broken(policy, sliced(0.0, seed), roles={"incumbent": "old@1"}) for seed in range(200)]
    assert sum(map(bool, blocked)) <= 10
    blocked = [broken(policy, sliced(0.6, seed), roles={"incumbent": "old@1"}) for seed in range(40)]
    assert sum("slice kind = kind 0" in found for found in blocked) >= 36


def test_more_decisions_ask_for_more_evidence():
    pair = (comparison := compared(0.018)).pair("new@2", "old@1", "nDCG@10")
    assert pair.low > 0 and 0.005 < pair.p < 0.05
    assert broken(Policy(decisions=1), comparison) == {}
    assert broken(Policy(decisions=10), comparison).keys() == {"beat incumbent"}


@pytest.mark.parametrize(("number", "chance", "passed"), [(1, "0.2%", True), (10, "2.5%", True), (11, "2.7%", False)])
def test_the_decisions_on_the_same_rows_are_counted_and_end(number, chance, passed):
    results = {rule.rule: rule for rule in decide(Policy(), compared(0.05), "new@2", Facts(ROLES, candidates=number))}
    rule = results["uses of the test rows"]
    assert rule.passed == passed
    assert f"candidate {number} on these" in rule.finding and chance in rule.finding
    assert ("take new test rows" in rule.finding) != passed
    assert "uses of the test rows" not in {
        rule.rule for rule in decide(Policy(), compared(0.05), "new@2", Facts(ROLES))
    }
