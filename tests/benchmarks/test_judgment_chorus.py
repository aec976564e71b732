"""The Chorus benchmark without a model: folds by query, soft labels, and the agreement of people."""

from __future__ import annotations

import pytest

from benchmarks.judges import ADAPTER, labels
from benchmarks.judgment_chorus import __main__ as benchmark
from benchmarks.judgment_chorus.folds import RATERS, VALIDATING, Chorus
from searchlora.outputs import Grade, to_json


@pytest.fixture(scope="module")
def chorus(real_data, tmp_path_factory) -> Chorus:
    return Chorus.read(real_data, tmp_path_factory.mktemp("chorus") / "all")


@pytest.mark.slow
def test_every_pair_has_three_raters_and_people_agree_as_published(chorus):
    assert len(chorus.records) == 3188
    assert {sum(record["votes"].values()) for record in chorus.records} == {3}
    kappas = [figure["value"] for figure in benchmark.of_people(chorus).values()]
    assert min(kappas) == pytest.approx(0.74, abs=0.005) and max(kappas) == pytest.approx(0.80, abs=0.005)


@pytest.mark.slow
def test_every_query_is_tested_once_by_an_adapter_not_trained_on_it(chorus, tmp_path):
    folds = chorus.folds()
    assert sorted(group for fold in folds for group in fold) == sorted({each["group"] for each in chorus.records})
    dataset = chorus.dataset(1, tmp_path / "fold")
    groups = {split: {each["group"] for each in dataset.records(split)} for split in ("train", "validation", "test")}
    assert groups["test"] == set(folds[1])
    assert len(groups["validation"]) == VALIDATING
    assert not groups["train"] & groups["test"] and not groups["validation"] & (groups["train"] | groups["test"])
    assert all("votes" in record for record in dataset.records("train"))


@pytest.mark.slow
def test_a_judge_that_repeats_the_majority_has_kappa_1_and_agrees_with_people_better_than_they_do(chorus):
    right = {
        record["id"]: to_json(Grade(record["grade"], tuple(float(g == record["grade"]) for g in range(4))))
        for record in chorus.records
    }
    answers = {"adapter": right, "base": right, "tuned": [{}] * 3, "training": {}}
    systems = benchmark.judges(chorus, answers)
    assert {len(grades) for grades in systems.values()} == {3188}
    judged = labels(systems[ADAPTER])
    with_people = benchmark.with_people(chorus, judged)
    assert set(with_people) == set(RATERS)
    of_people = [figure["value"] for figure in benchmark.of_people(chorus).values()]
    assert min(each["value"] for each in with_people.values()) > max(of_people)
