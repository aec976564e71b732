"""Policies that demand that rules beside the candidate are beaten, and comparisons that are lost to them."""

from __future__ import annotations

import numpy as np
import pytest

from searchlora.errors import UsageError
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.policy import Facts, Policy, decide, read_policy

ROWS = [str(row) for row in range(200)]
ROLES = {"base": "base"}


def evaluation(values: np.ndarray, less_is_better: bool = False) -> Evaluation:
    name = "error" if less_is_better else "accuracy"
    more = {"less_is_better": frozenset({name})} if less_is_better else {}
    return Evaluation(name, {name: dict(zip(ROWS, map(float, values), strict=True))}, {}, **more)


def compared(tfidf: float, less_is_better: bool = False) -> Comparison:
    """An adapter above the base and the majority class; TF-IDF is better by `tfidf`."""
    rng = np.random.default_rng(3)
    new = rng.uniform(0.5, 0.9, len(ROWS))
    noise = rng.normal(0, 0.05, len(ROWS))
    sign = -1 if less_is_better else 1
    systems = {
        "TF-IDF": new + sign * (tfidf + noise - noise.mean()),
        "majority": new - sign * 0.4,
        "base": new - sign * 0.3,
        "new@2": new,
    }
    return compare(
        {name: evaluation(values, less_is_better) for name, values in systems.items()},
        candidate="new@2",
        resamples=2000,
    )


def broken(policy: Policy, comparison: Comparison, **facts: object) -> set[str]:
    results = decide(policy, comparison, "new@2", Facts(**{"roles": ROLES, **facts}))
    return {result.rule for result in results if not result.passed}


def policy(baselines: object) -> Policy:
    return Policy.model_validate({"beat": {"base": {}, "baselines": baselines}})


def test_an_upper_bound_need_not_be_beaten_unless_it_is_named():
    facts = Facts(roles=ROLES, not_baselines=frozenset({"TF-IDF"}))
    results = decide(policy("all"), compared(0.03), "new@2", facts)
    assert {result.rule for result in results if result.rule.startswith("beat")} == {"beat base", "beat majority"}
    assert all(result.passed for result in results)
    named = decide(policy(["TF-IDF"]), compared(0.03), "new@2", facts)
    assert {result.rule for result in named if not result.passed} == {"beat TF-IDF"}


def test_all_or_named_baselines_must_be_beaten_by_the_margin():
    assert broken(policy("all"), compared(0.03)) == {"beat TF-IDF"}
    assert broken(policy("all"), compared(-0.03)) == set()
    assert broken(Policy(beat={"base": {}}), compared(0.03)) == set()
    assert broken(policy(["majority"]), compared(0.03)) == set()
    assert broken(policy(["tf-idf", "majority"]), compared(0.03)) == {"beat TF-IDF"}
    assert broken(policy({"systems": ["majority"], "margin": 0.39}), compared(0.0)) == set()
    assert broken(policy({"systems": ["majority"], "margin": 0.41}), compared(0.0)) == {"beat majority"}
    asked = {"beat": {"majority": {"margin": 0.41}, "baselines": ["majority"]}}  # its own margin goes first
    assert broken(Policy.model_validate(asked), compared(0.0)) == {"beat majority"}


def test_a_system_with_a_role_is_a_baseline_unless_it_is_another_model():
    """The baseline of an experiment is its base and incumbent; `promote` has models in these roles."""
    roles = {"base": "TF-IDF", "incumbent": "TF-IDF"}
    for baselines in ("all", ["tf-idf"]):
        alone = Policy.model_validate({"beat": {"baselines": baselines}})
        results = decide(alone, compared(0.03), "new@2", Facts(roles=roles))
        assert {result.rule for result in results if not result.passed} == {"beat TF-IDF"}
    assert broken(policy("all"), compared(-0.03), roles=roles) == set()
    facts = {"roles": roles, "not_baselines": frozenset({"TF-IDF"})}
    assert broken(Policy.model_validate({"beat": {"baselines": "all"}}), compared(0.03), **facts) == set()


def test_a_baseline_that_was_not_evaluated_is_an_error():
    with pytest.raises(UsageError, match=r"baseline 'dictionary', which was not evaluated.*TF-IDF, majority"):
        decide(policy(["dictionary"]), compared(0.0), "new@2", Facts(roles=ROLES))


@pytest.mark.parametrize("text", ["all", "[TF-IDF]", "{systems: all, margin: 0.1}"])
def test_baselines_stand_under_beat_in_the_file(tmp_path, text):
    (tmp_path / "policy.yaml").write_text(f"beat:\n  base: {{margin: 0.02}}\n  baselines: {text}\n")
    read = read_policy(tmp_path / "policy.yaml")
    assert read.beat.keys() == {"base"}
    assert read.baselines is not None
    assert Policy.model_validate(read.model_dump(mode="json")) == read


@pytest.mark.parametrize("text", ["most", "{margin: -1}", "{systems: 3}"])
def test_malformed_baselines_are_refused(tmp_path, text):
    (tmp_path / "policy.yaml").write_text(f"beat:\n  baselines: {text}\n")
    with pytest.raises(UsageError, match=r"policy\.yaml: 'baselines\."):
        read_policy(tmp_path / "policy.yaml")


@pytest.mark.parametrize("less_is_better", [False, True])
def test_losses_are_the_baselines_that_are_significantly_better(less_is_better):
    assert [pair.b for pair in compared(0.03, less_is_better).losses(["TF-IDF", "majority"])] == ["TF-IDF"]
    assert compared(0.03, less_is_better).losses(["majority"]) == ()
    assert compared(0.0001, less_is_better).losses(["TF-IDF", "majority"]) == ()
    assert compared(-0.03, less_is_better).losses(["TF-IDF", "majority"]) == ()
