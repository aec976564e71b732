"""Prediction-powered intervals: a good judge makes them shorter, and a bad judge keeps them valid."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from searchlora.errors import DataError, UsageError
from searchlora.eval.judge.prediction_powered import prediction_powered_mean, prediction_powered_measure
from searchlora.eval.measures import retrieval_values

SIZE = 100_000


@cache
def population(judge: str) -> tuple[np.ndarray, np.ndarray]:
    """Values like nDCG@10 of a topic by people and by a judge: skewed, one topic in six 0."""
    rng = np.random.default_rng(7)
    truth = np.where(rng.random(SIZE) < 1 / 6, 0, rng.beta(1.6, 1.2, SIZE))
    other = rng.permutation(truth)
    judged = {
        "good": np.where(rng.random(SIZE) < 0.85, truth, other),
        "biased": 0.35 + 0.6 * np.where(rng.random(SIZE) < 0.75, truth, other),
        "useless": other,
    }
    return truth, judged[judge]


def numbered(values: np.ndarray) -> dict[str, float]:
    return {str(row): float(value) for row, value in enumerate(values)}


def draw(judge: str, n: int, total: int, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    truth, judged = population(judge)
    at = np.random.default_rng(seed).integers(0, SIZE, total)
    return numbered(truth[at][:n]), numbered(judged[at])


def plain(human: np.ndarray, judged: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Value and lambda of PPI++ for a mean, written out (variances of labelled and other rows each by their own)."""
    shared = np.mean((human - human.mean()) * (judged - judged.mean()))
    lam = np.clip(shared / (judged.var() + len(human) / len(others) * others.var()), 0, 1)
    return human.mean() + lam * (others.mean() - judged.mean()), lam


@pytest.mark.parametrize("judge", ["good", "biased", "useless"])
def test_value_and_lambda_follow_the_formulas_of_the_paper(judge):
    human, judged = draw(judge, 30, 300, 3)
    truth, judged_values = (np.array(list(values.values())) for values in (human, judged))
    found = prediction_powered_mean(human, judged, resamples=200)
    value, lam = plain(truth, judged_values[:30], judged_values[30:])
    assert (found.value, found.lam) == pytest.approx((value, lam))
    assert found.human_only_value == pytest.approx(truth.mean())
    whole = prediction_powered_mean(human, judged, lam=1.0, resamples=200)
    assert whole.value == pytest.approx(truth.mean() + judged_values[30:].mean() - judged_values[:30].mean())
    assert (found.n_human, found.n_judged, found.clusters_human, found.clusters_judged) == (30, 300, 30, 300)


@pytest.mark.slow
def test_normal_interval_of_the_paper_for_many_rows():
    """With 2,000 labels the studentised bootstrap and the paper's normal interval are the same."""
    human, judged = draw("good", 2_000, 5_000, 1)
    truth, judged_values = (np.array(list(values.values())) for values in (human, judged))
    found = prediction_powered_mean(human, judged, resamples=2_000)
    value, lam = plain(truth, judged_values[:2_000], judged_values[2_000:])
    error = math.sqrt(
        (truth - lam * judged_values[:2_000]).var() / 2_000 + lam**2 * judged_values[2_000:].var() / 3_000
    )
    assert (found.low, found.high) == pytest.approx(stats.norm.interval(0.95, value, error), abs=0.05 * error * 4)
    assert found.effective_n == pytest.approx(2_000 * truth.var() / 2_000 / error**2, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("judge", "shorter", "longer"), [("good", 0.5, 0.75), ("biased", 0.6, 0.92), ("useless", 0.9, 1.15)]
)
def test_coverage_holds_for_any_judge_and_a_good_judge_narrows_the_interval(judge, shorter, longer):
    truth = population(judge)[0].mean()
    found = [prediction_powered_mean(*draw(judge, 25, 125, seed), resamples=300, seed=seed) for seed in range(300)]
    low, high = stats.binom.interval(0.999, 300, 0.95)
    assert low <= sum(each.low <= truth <= each.high for each in found) <= high
    ratio = np.mean([each.high - each.low for each in found]) / np.mean(
        [each.human_only_high - each.human_only_low for each in found]
    )
    assert shorter < ratio < longer
    # What the judge's labels are worth, against the variance that the values really had.
    worth = np.var([each.human_only_value for each in found]) / np.var([each.value for each in found])
    assert np.median([each.effective_n for each in found]) / 25 == pytest.approx(worth, rel=0.35)


def topics_of_pairs(seed: int, labelled: str) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
    """Grades of pairs that share a topic's ease; people label whole topics, or pairs here and there."""
    rng = np.random.default_rng(seed)
    topics, human, judged, clusters = 60, {}, {}, {}
    for topic in range(topics):
        ease = rng.normal(0, 0.6)
        for pair in range(rng.integers(4, 12)):
            row = f"{topic}.{pair}"
            grade = 1.5 + ease + rng.normal(0, 0.7)
            judged[row] = 0.5 + 0.8 * (grade + rng.normal(0, 0.4))
            clusters[row] = str(topic)
            if topic < 20 if labelled == "topics" else rng.random() < 0.3:
                human[row] = grade
    return human, judged, clusters


@pytest.mark.slow
@pytest.mark.parametrize("labelled", ["topics", "pairs"])
def test_pairs_of_one_topic_are_dependent(labelled):
    clustered, ignoring = [], []
    for seed in range(200):
        human, judged, clusters = topics_of_pairs(seed, labelled)
        clustered.append(prediction_powered_mean(human, judged, clusters, resamples=300))
        ignoring.append(prediction_powered_mean(human, judged, resamples=100))
    covered = [sum(each.low <= 1.5 <= each.high for each in all_) / 200 for all_ in (clustered, ignoring)]
    assert covered[0] >= 0.9
    assert covered[1] < 0.8
    assert clustered[0].clusters_judged == 60


def test_more_judged_topics_narrow_the_interval_and_none_change_nothing():
    human, judged = draw("good", 25, 400, 2)
    worth = [
        prediction_powered_mean(human, dict(list(judged.items())[:total]), resamples=100).effective_n
        for total in (25, 50, 100, 400)
    ]
    assert worth[0] == pytest.approx(25)
    assert worth == sorted(worth)
    alone = prediction_powered_mean(human, {row: judged[row] for row in human}, resamples=500)
    assert (alone.low, alone.high, alone.lam) == pytest.approx((alone.human_only_low, alone.human_only_high, 0))


def test_the_seed_fixes_the_interval_and_the_unit_of_the_judge_does_not_matter():
    human, judged = draw("good", 25, 100, 5)
    assert prediction_powered_mean(human, judged, resamples=200) == prediction_powered_mean(
        human, judged, resamples=200
    )
    hundredfold = {row: 100 * value for row, value in judged.items()}
    one, other = (prediction_powered_mean(human, each, resamples=200) for each in (judged, hundredfold))
    assert other.value == pytest.approx(one.value)
    assert other.lam == pytest.approx(one.lam / 100)


@pytest.mark.parametrize("high", [True, False])
def test_the_value_and_both_ends_stay_in_the_range_of_the_labels(high):
    """The correction by a judge that is far off on the labelled rows alone would lead out of it."""
    human = {str(row): 0.9 + 0.1 * (row % 2) for row in range(20)}
    judged = {**dict.fromkeys(human, 0.5), **{str(row): 1.0 - 0.01 * (row % 2) for row in range(20, 100)}}
    if not high:
        human, judged = ({row: 1 - value for row, value in labels.items()} for labels in (human, judged))
    found = prediction_powered_mean(human, judged, lam=1, resamples=200)
    assert (found.value, found.low, found.high) == (float(high),) * 3


def test_invalid_arguments_are_errors():
    human, judged = draw("good", 12, 40, 1)
    with pytest.raises(UsageError, match="9 topics have a human label"):
        prediction_powered_mean(dict(list(human.items())[:9]), judged)
    with pytest.raises(UsageError, match="0 topics have a human label"):
        prediction_powered_mean({}, judged)
    with pytest.raises(UsageError, match="lambda is 2"):
        prediction_powered_mean(human, judged, lam=2)
    with pytest.raises(DataError, match=r"row new: has a human label and no label of the judge"):
        prediction_powered_mean({**human, "new": 0.1}, judged)
    with pytest.raises(DataError, match=r"row 3.*not finite"):
        prediction_powered_mean(human, {**judged, "3": math.nan})
    with pytest.raises(DataError, match=r"row 0.*no cluster"):
        prediction_powered_mean(human, judged, {"1": "a"})


def test_measures_of_one_run_and_of_the_difference_of_two():
    rng = np.random.default_rng(4)
    topics, documents = [f"t{i:02}" for i in range(40)], [f"d{i}" for i in range(12)]
    truth = {topic: {d: int(g) for d, g in zip(documents, rng.integers(0, 4, 12), strict=True)} for topic in topics}
    judged = {t: {d: g if rng.random() < 0.8 else 1 for d, g in row.items()} for t, row in truth.items()}
    a, b = (
        {t: {d: g + float(rng.normal(0, noise)) for d, g in row.items()} for t, row in truth.items()}
        for noise in (0.8, 3)
    )
    human = {topic: truth[topic] for topic in topics[:15]}
    found = prediction_powered_measure(a, human, judged, "nDCG@5", resamples=300)
    people, judge = (retrieval_values(a, qrels, ["nDCG@5"])["nDCG@5"] for qrels in (human, judged))
    assert found == prediction_powered_mean(people, judge, resamples=300)
    assert found.human_only_value == pytest.approx(np.mean(list(people.values())))
    paired = prediction_powered_measure(a, human, judged, "nDCG@5", minus=b, resamples=300)
    assert paired.low > 0
    other = prediction_powered_measure(b, human, judged, "nDCG@5", resamples=300)
    assert paired.human_only_value == pytest.approx(found.human_only_value - other.human_only_value)
