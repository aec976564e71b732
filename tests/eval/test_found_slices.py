"""Slices that nobody named: real losses are found and confirmed, and chance is not."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from searchlora.errors import UsageError
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.found_slices import MINIMUM_CLUSTERS, found_slices
from searchlora.eval.policy import Facts, Policy, decide
from searchlora.eval.report.heat_maps import found_section
from searchlora.eval.tables import to_markdown


def synthetic(rows=400, fall=0.3, seed=0, less_is_better=False):
    """Queries of one to eight words of two kinds; the new system falls on long queries of the kind `shop`."""
    rng = np.random.default_rng(seed)
    records, new, old = [], {}, {}
    for number in range(rows):
        words, kind = int(rng.integers(1, 9)), ("shop", "help")[int(rng.integers(2))]
        name = f"r{number}"
        query = " ".join(f"w{word}x" for word in rng.integers(0, 1000, words))
        records.append({"id": name, "query": query, "kind": kind, "price": float(rng.random())})
        old[name] = float(np.clip(0.5 + 0.1 * rng.standard_normal(), 0, 1))
        worse = fall if words > 5 and kind == "shop" else 0.0
        new[name] = old[name] + (worse if less_is_better else -worse) + 0.05 * float(rng.standard_normal())
    better = frozenset({"value"}) if less_is_better else frozenset()
    of = {
        name: Evaluation("value", {"value": values}, clusters={}, less_is_better=better)
        for name, values in (("new", new), ("old", old))
    }
    return compare(of, candidate="new", resamples=500), records


@pytest.mark.parametrize("less_is_better", [False, True])
def test_a_loss_is_found_by_its_conditions_and_confirmed_on_the_other_half(less_is_better):
    comparison, records = synthetic(less_is_better=less_is_better)
    found = found_slices(comparison, records, {}, resamples=1000)
    losses = [part for part in found if part.confirmed]
    assert len(losses) == 1
    (loss,) = losses
    assert found[0] == loss
    assert sorted(re.split(" and ", re.sub("≠ help|= shop", "IS SHOP", loss.conditions))) == [
        *("kind IS SHOP", "words of query > 5.5")
    ]
    assert (loss.pair.difference > 0) == less_is_better
    assert abs(loss.pair.difference) == pytest.approx(0.3, abs=0.05)
    assert abs(loss.difference_where_found) == pytest.approx(0.3, abs=0.05)
    assert loss.pair.p_corrected <= 0.05
    assert len(loss.examples) == 3
    words = {record["id"]: len(record["query"].split()) for record in records}
    assert all(words[example] > 5 for example in loss.examples)


def test_without_a_loss_hardly_any_is_confirmed():
    confirmed = 0
    for seed in range(40):
        comparison, records = synthetic(rows=200, fall=0.0, seed=seed)
        confirmed += any(part.confirmed for part in found_slices(comparison, records, {}, resamples=400))
    assert confirmed <= 4


def test_clusters_are_in_one_half_and_few_of_them_are_not_searched():
    comparison, records = synthetic()
    together = {record["id"]: f"c{number % (MINIMUM_CLUSTERS - 1)}" for number, record in enumerate(records)}
    assert found_slices(comparison, records, together) == ()
    assert found_slices(*synthetic(rows=MINIMUM_CLUSTERS - 1), {}) == ()
    enough = {record["id"]: f"c{number % 150}" for number, record in enumerate(records)}
    found = found_slices(comparison, records, enough, resamples=200)
    assert found
    assert found == found_slices(comparison, records[::-1], enough, resamples=200)


def test_nothing_is_searched_against_an_upper_bound():
    comparison, records = synthetic()
    assert found_slices(comparison, records, {}, resamples=200)
    assert found_slices(comparison, records, {}, without=("old",), resamples=200) == ()


def test_systems_that_do_not_differ_have_no_slices():
    comparison, records = synthetic()
    same = Evaluation("value", {"value": comparison.values["value"]["old"]}, clusters={})
    assert found_slices(compare({"a": same, "b": same}, candidate="a", resamples=200), records, {}) == ()


def test_the_report_and_the_policy_name_the_loss():
    comparison, records = synthetic()
    comparison = replace(comparison, found_slices=found_slices(comparison, records, {}, resamples=1000))
    queries = {record["id"]: record["query"] for record in records}
    section = found_section(comparison, queries)
    assert section.title == "Where it fails"
    assert re.search(r" 1 of \d is confirmed:", section.lead)
    assert comparison.found_slices[0].conditions in to_markdown(comparison)
    facts = Facts(roles={"base": "old"}, data="d", changed=(), accepted=False, source="human")

    def outcome(max_fall):
        policy = Policy.model_validate({"beat": {}, "found_slices": {"max_fall": max_fall}, "held_out": "reported"})
        return next(result for result in decide(policy, comparison, "new", facts) if result.rule == "found slices")

    refused = outcome(0.1)
    assert not refused.passed
    assert comparison.found_slices[0].conditions in refused.finding
    assert refused.short_by == pytest.approx(0.2, abs=0.05)
    assert outcome(0.4).passed


def test_a_policy_is_met_where_nothing_could_be_searched():
    comparison, _ = synthetic(rows=50)
    facts = Facts(roles={"base": "old"}, data="d", changed=(), accepted=False, source="human")
    policy = Policy.model_validate({"beat": {}, "found_slices": {}, "held_out": "reported"})
    result = next(result for result in decide(policy, comparison, "new", facts) if result.rule == "found slices")
    assert result.passed
    assert result.finding == "not searched: 50 groups, 100 are needed"


def test_a_policy_on_another_measure_than_the_searched_one_is_refused():
    comparison, _ = synthetic()
    both = {
        name: Evaluation("value", {"value": of, "accuracy": of}, clusters={})
        for name, of in comparison.values["value"].items()
    }
    comparison = compare(both, candidate="new", resamples=200)
    facts = Facts(roles={"base": "old"}, data="d", changed=(), accepted=False, source="human")
    policy = Policy.model_validate({"measure": "accuracy", "beat": {}, "found_slices": {}, "held_out": "reported"})
    with pytest.raises(UsageError, match="slices are searched in value, not in the policy's accuracy"):
        decide(policy, comparison, "new", facts)


@pytest.mark.parametrize(
    "values",
    [
        [10**400] * 200 + [1] * 200,
        [1e40 * number for number in range(400)],
        [float("nan")] * 400,
        [["a"]] * 400,
        [None] * 300 + [1.0] * 100,
        ["x|y", "z|w"] * 200,
        [True, False] * 200,
        ["a very long text of a prompt, which nobody wants to read in a condition " * 5, "other"] * 200,
    ],
)
def test_any_field_is_a_feature_or_left_out(values):
    comparison, records = synthetic()
    rows = [{**record, "more": value} for record, value in zip(records, values, strict=True)]
    (loss,) = [part for part in found_slices(comparison, rows, {}, resamples=200) if part.confirmed]
    assert "words of query > 5.5" in loss.conditions
    assert len(loss.conditions) < 200


def test_a_number_that_some_rows_lack_is_a_feature():
    comparison, records = synthetic(fall=0.0)
    values = comparison.values["value"]
    worse = {record["id"]: values["new"][record["id"]] - 0.3 * (record["price"] > 0.8) for record in records}
    of = {
        name: Evaluation("value", {"value": of_system}, clusters={})
        for name, of_system in (("new", worse), ("old", values["old"]))
    }
    rows = [{**record, "price": None if number % 7 == 0 else record["price"]} for number, record in enumerate(records)]
    found = found_slices(compare(of, candidate="new", resamples=200), rows, {}, resamples=200)
    assert any(re.search(r"price > 0\.[78]", part.conditions) for part in found if part.confirmed)
