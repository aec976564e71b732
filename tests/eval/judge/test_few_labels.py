"""Decisions from few labels: the estimate is right on average, the interval holds while it is watched."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.errors import DataError, UsageError
from searchlora.eval.judge.few_labels import MINIMUM_LABELS, FewLabels, LabelWatch
from searchlora.eval.judge.label_plan import GainMeasure, LabelPlan
from searchlora.eval.measures import retrieval_values

SDCG = "SDCG(max_rel=3)@5"


def synthetic(topics=40, documents=8, gain=0.0, seed=0):
    """Two runs, human grades and grades of a judge; the candidate prefers documents by their grade as far as `gain`."""
    rng = np.random.default_rng(seed)
    runs, human, judged = ({}, {}), {}, {}
    for topic in (f"q{n}" for n in range(topics)):
        grades = rng.integers(0, 4, documents)
        human[topic] = {f"d{n}": int(grade) for n, grade in enumerate(grades)}
        judged[topic] = {f"d{n}": int(np.clip(grade + rng.integers(-1, 3), 0, 3)) for n, grade in enumerate(grades)}
        for run, skill in zip(runs, (gain, 0.0), strict=True):
            run[topic] = {f"d{n}": skill * grade + rng.random() for n, grade in enumerate(grades.tolist())}
    return runs, human, judged


def planned(runs, human, judged=None, measure=SDCG, **options):
    """The plan, and the gains of its pairs in its order."""
    plan = LabelPlan.of(*runs, measure, judged, **options)
    gains = GainMeasure.parse(measure)
    return plan, np.array([gains.gain(human[pair.topic][pair.document]) for pair in plan.pairs])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), measure=st.sampled_from(["P@3", "P(rel=2)@5", "P@7"]))
def test_with_all_labels_the_difference_is_that_of_trec_eval(seed, measure):
    runs, human, judged = synthetic(topics=12, gain=1.0, seed=seed)
    plan, gains = planned(runs, human, judged, measure)
    candidate, baseline = (retrieval_values(run, human, [measure])[measure] for run in runs)
    expected = np.mean([candidate[topic] - baseline[topic] for topic in human])
    assert LabelWatch(plan).estimate(gains).difference == pytest.approx(expected)


def test_scaled_dcg_is_ndcg_where_a_topic_has_enough_documents_of_the_highest_grade():
    runs, human, _ = synthetic(topics=20, documents=6, gain=1.0)
    for row in human.values():
        row.update({f"further{n}": 3 for n in range(5)})
    plan, gains = planned(runs, human)
    candidate, baseline = (retrieval_values(run, human, ["nDCG@5"])["nDCG@5"] for run in runs)
    expected = np.mean([candidate[topic] - baseline[topic] for topic in human])
    assert LabelWatch(plan).estimate(gains).difference == pytest.approx(expected)


@pytest.mark.parametrize("lie", [False, True])
def test_after_thirty_labels_the_estimate_is_right_on_average_whatever_the_judge_says(lie):
    runs, human, judged = synthetic(gain=0.5)
    if lie:
        judged = {topic: {document: 3 - grade for document, grade in row.items()} for topic, row in judged.items()}
    truth = LabelWatch(planned(runs, human)[0]).estimate(planned(runs, human)[1]).difference
    found = []
    for seed in range(400):
        plan, gains = planned(runs, human, judged, seed=seed)
        found.append(LabelWatch(plan).estimate(gains[:30]).difference)
    assert abs(np.mean(found) - truth) < 4 * np.std(found) / 20
    assert abs(truth) > 4 * np.std(found) / 20  # an estimate of 0 would not pass


def test_a_good_judge_shortens_the_interval():
    def width(judged):
        widths = []
        for seed in range(20):
            plan, gains = planned(runs, human, judged, seed=seed)
            known = LabelWatch(plan).estimate(gains[:60])
            widths.append(known.high - known.low)
        return np.mean(widths)

    runs, human, _ = synthetic(gain=0.5)
    assert width(human) < 0.8 * width(None)


@pytest.mark.slow
@pytest.mark.parametrize("gain", [0.0, 0.4])
def test_the_interval_holds_at_all_looks_together(gain):
    truth = population_difference(gain) if gain else 0.0
    held = promoted = 0
    draws = 150
    for seed in range(draws):
        runs, human, judged = synthetic(gain=gain, seed=seed)
        plan, gains = planned(runs, human, judged, seed=seed)
        looks = [LabelWatch(plan).estimate(gains[:labels]) for labels in range(MINIMUM_LABELS, len(gains) + 1, 4)]
        held += all(look.low <= truth <= look.high for look in looks)
        promoted += any(look.decision == "candidate" for look in looks)
    assert held >= 0.95 * draws - 6
    assert promoted <= 0.05 * draws if gain == 0 else promoted > 0.5 * draws


def population_difference(gain):
    """What a skill of the candidate brings over all topics that could be drawn; 0 without one, by symmetry."""
    runs, human, _ = synthetic(topics=4000, gain=gain, seed=10**6)
    plan, gains = planned(runs, human)
    return LabelWatch(plan).estimate(gains).difference


def test_a_decision_falls_before_all_is_labelled_and_the_outlook_says_how_far_it_is():
    runs, human, judged = synthetic(topics=80, gain=1.0)
    plan, gains = planned(runs, human, judged)
    watch = LabelWatch(plan)
    looks = [watch.estimate(gains[:labels]) for labels in range(len(gains) + 1)]
    decided = next(look for look in looks if look.decision != "open")
    assert decided.decision == "candidate"
    assert decided.labels < len(gains) / 3
    assert decided.outlook == "Decided: the candidate is better."
    assert looks[3].outlook == f"The first estimate takes about {MINIMUM_LABELS - 3} more pairs."
    before = looks[MINIMUM_LABELS]
    assert before.outlook == f"About {before.more} more pair{'s' * (before.more > 1)} until a decision."
    assert before.more < 5 * decided.labels


def test_topics_on_which_both_are_alike_say_that_more_topics_are_needed():
    runs, human, judged = synthetic(topics=15)
    plan, gains = planned(runs, human, judged)
    watch = LabelWatch(plan)
    assert "more topics are needed" in watch.estimate(gains).outlook
    assert watch.estimate(gains[:-1]).more is None


def test_topics_that_happen_not_to_differ_do_not_decide():
    runs = [{f"q{q}": {"a": 2.0 - order, "b": 1.0} for q in range(10)} for order in (0, 2)]
    looks = [LabelWatch(LabelPlan.of(*runs, "P@1", margin=-0.05)).estimate(np.zeros(labels)) for labels in (19, 20)]
    assert [look.decision for look in looks] == ["open", "open"]
    assert looks[-1].low < -0.05


@pytest.mark.slow
def test_rare_losses_are_rarely_taken_for_none():
    runs = [{f"q{q}": {"a": 2.0 - order, "b": 1.0} for q in range(20)} for order in (0, 2)]
    watch, rng = LabelWatch(LabelPlan.of(*runs, "P@1", margin=-0.05)), np.random.default_rng(2)
    wrong = 0
    for _ in range(100):
        loses = {f"q{q}": rng.random() < 0.05 for q in range(20)}
        gains = [float(loses[pair.topic] and pair.document == "b") for pair in watch.plan.pairs]
        wrong += any(watch.estimate(np.array(gains[:n])).decision == "candidate" for n in range(20, len(gains) + 1))
    assert wrong <= 5


@pytest.mark.parametrize(
    ("margin", "decision", "sentence"),
    [
        (0.0, "candidate", "better"),
        (0.0, "baseline", "worse"),
        (0.05, "candidate", "better by more than 0.05"),
        (0.05, "baseline", "not better by more than 0.05"),
        (-0.1, "candidate", "not worse by more than 0.1"),
        (-0.1, "baseline", "worse by more than 0.1"),
    ],
)
def test_a_decision_says_no_more_than_its_margin(margin, decision, sentence):
    known = FewLabels(0.0, 90, 700, 43, margin, -0.1, 0.1, decision, 0)
    assert known.outlook == f"Decided: the candidate is {sentence}."


def test_runs_that_differ_on_few_topics_say_so_from_the_start():
    runs, human, judged = synthetic(topics=200)
    for topic in list(human)[9:]:
        runs[0][topic] = runs[1][topic]
    plan, gains = planned(runs, human, judged)
    known = LabelWatch(plan).estimate(gains[:20])
    assert (known.low, known.high, known.decision, known.more) == (-1, 1, "open", None)
    assert known.outlook == "All pairs would probably not decide: more topics are needed."


def test_tiny_plans_decide_nothing():
    runs = ({"q1": {"a": 1.0}, "q2": {"a": 1.0}}, {"q1": {"b": 1.0}, "q2": {"b": 1.0}})
    known = LabelWatch(LabelPlan.of(*runs, "P@1")).estimate(np.array([1.0, 1.0, 0.0, 0.0]))
    assert (known.decision, known.low, known.high) == ("open", -1, 1)


def test_the_outlook_early_on_is_not_too_hopeful():
    """Of systems that all labels do not tell apart, most early looks say that more topics are needed."""
    without = looked = 0
    for seed in range(30):
        runs, human, judged = synthetic(topics=60, seed=seed)
        plan, gains = planned(runs, human, judged, seed=seed)
        if LabelWatch(plan).estimate(gains).decision == "open":
            looked += 1
            without += LabelWatch(plan).estimate(gains[:40]).more is None
    assert looked > 20
    assert without > 0.5 * looked


def test_a_margin_moves_the_decision():
    runs, human, judged = synthetic(topics=80, gain=1.0)
    difference = LabelWatch(planned(runs, human)[0]).estimate(planned(runs, human)[1]).difference
    plan, gains = planned(runs, human, judged, margin=difference + 0.3)
    assert LabelWatch(plan).estimate(gains).decision == "baseline"


def test_labels_count_up_to_the_first_gap_and_cannot_tell_is_no_gain():
    runs, human, _ = synthetic()
    plan, gains = planned(runs, human)
    watch = LabelWatch(plan)
    grades = {(pair.topic, pair.document): human[pair.topic][pair.document] for pair in plan.pairs}
    names = list(grades)
    with_gap = {name: grades[name] for name in names[:70] if name != names[50]}
    assert watch.after(with_gap) == watch.estimate(gains[:50])
    gains[50] = 0
    assert watch.after(with_gap | {names[50]: None}) == watch.estimate(gains[:70])


def test_a_document_at_the_same_rank_in_both_runs_needs_no_label():
    runs = ({"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, {"q": {"a": 3.0, "c": 2.0, "b": 1.0}})
    assert {pair.document for pair in LabelPlan.of(*runs, SDCG).pairs} == {"b", "c"}


def test_pairs_that_can_change_more_come_earlier():
    runs, human, _ = synthetic(topics=200)
    weights = [abs(pair.weight) for pair in planned(runs, human)[0].pairs]
    assert np.mean(weights[:100]) > 1.5 * np.mean(weights[-100:])


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan, _ = planned(*synthetic())
    plan.write(tmp_path / "plan.json")
    assert LabelPlan.read(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"kind": "run"}, "kind"),
        ({"margin": 2}, "margin"),
        ({"pairs": [{"topic": "q0"}]}, "pairs.0.document"),
        ({"more": 1}, "more"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path, change, fault):
    path = tmp_path / "plan.json"
    planned(*synthetic())[0].write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=rf"is not a label plan \({fault}"):
        LabelPlan.read(path)


def test_a_plan_that_was_edited_is_refused_with_its_pair(tmp_path):
    path = tmp_path / "plan.json"
    planned(*synthetic())[0].write(path)
    content = json.loads(path.read_text())
    pairs, topics = content["pairs"], content["topics"]
    first = f"the pair of topic {pairs[0]['topic']} and document {pairs[0]['document']}"
    for change, fault in (
        ({"pairs": pairs[::-1]}, "is not in its place"),
        ({"pairs": [{**pairs[0], "topic": "zz"}, *pairs[1:]]}, "the pair of topic zz .* is of no topic"),
        ({"pairs": [pairs[0], *pairs]}, f"{first} is repeated"),
        ({"pairs": [{**pairs[0], "weight": 0.0}, *pairs[1:]]}, f"{first} has no possible weight"),
        ({"pairs": [{**pairs[0], "weight": 50.0}, *pairs[1:]]}, f"{first} has no possible weight"),
        ({"pairs": []}, "there is no pair"),
        ({"topics": topics * 2}, "a topic is repeated"),
    ):
        path.write_text(json.dumps(content | change))
        with pytest.raises(DataError, match=fault):
            LabelPlan.read(path)


def test_people_grade_on_the_scale_of_the_plan():
    runs, _, _ = synthetic()
    plan = LabelPlan.of(*runs, SDCG)
    plan.check_scale((0, 1, 2, 3))
    for scale in ((0, 1), (0, 1, 2, 3, 4)):
        with pytest.raises(UsageError, match="has 3 as the highest grade"):
            plan.check_scale(scale)
    LabelPlan.of(*runs, "P(rel=2)@5").check_scale((0, 1, 2, 3, 4))
    with pytest.raises(UsageError, match="has 1 as the highest grade"):
        LabelPlan.of(*runs, "SDCG(max_rel=1)@5").check_scale((0, 1, 2, 3))


def test_a_label_above_the_highest_grade_is_refused():
    runs, _, _ = synthetic()
    watch = LabelWatch(LabelPlan.of(*runs, SDCG))
    first = watch.plan.pairs[0]
    with pytest.raises(UsageError, match="has the grade 4, and the plan is for SDCG"):
        watch.after({(first.topic, first.document): 4})


@pytest.mark.parametrize(
    "measure",
    ["nDCG@10", "MRR@10", "P", "AP", "SDCG(max_rel=3,min_rel=1)@5", "P(judged_only=True)@5", "SDCG(max_rel=0)@5"],
)
def test_a_measure_that_is_not_a_sum_over_documents_is_refused(measure):
    with pytest.raises(UsageError):
        LabelPlan.of({"q": {"a": 1.0}}, {"q": {"b": 1.0}}, measure)


def test_runs_that_do_not_differ_and_a_margin_beyond_the_measure_are_refused():
    with pytest.raises(UsageError, match="the same SDCG"):
        LabelPlan.of({"q": {"a": 1.0}}, {"q": {"a": 2.0}}, SDCG)
    with pytest.raises(UsageError, match="margin"):
        LabelPlan.of({"q": {"a": 1.0}}, {"q": {"b": 2.0}}, SDCG, margin=1.0)
