"""Aggregate measures in a comparison: interval, n, paired difference and p."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from searchlora.errors import UsageError
from searchlora.eval import aggregate
from searchlora.eval.aggregate import Aggregate
from searchlora.eval.calibration import expected_calibration_error
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.grade_measures import grade_measures
from searchlora.eval.policy import Facts, Policy, decide
from searchlora.eval.significance import correct
from searchlora.eval.tables import Header, to_json, to_markdown

IDS = [f"d{dialogue}_{turn}" for dialogue in range(20) for turn in range(4)]
CLUSTERS = {row: row.split("_")[0] for row in IDS}
LABELS = ("buy", "ask", "return")
GOLD = {row: random.Random(f"gold {row}").choice(LABELS) for row in IDS}


def evaluation(skill: float, seed: int, **more: object) -> Evaluation:
    rng = random.Random(seed)
    predicted = {row: label if rng.random() < skill else rng.choice((*LABELS, None)) for row, label in GOLD.items()}
    right = {row: predicted[row] == label for row, label in GOLD.items()}
    given = {row: rng.random() for row in IDS}
    made = Evaluation(
        headline="macro-F1",
        values={"accuracy": {row: float(each) for row, each in right.items()}},
        clusters=CLUSTERS,
        slices={"turn": {row: row.split("_")[1] for row in IDS}},
        aggregates={
            "macro-F1": aggregate.macro_f1(GOLD, predicted, LABELS),
            "calibration error": expected_calibration_error(given, right),
        },
        less_is_better=("calibration error",),
    )
    return replace(made, **more)


@pytest.fixture
def systems() -> dict[str, Evaluation]:
    return {"commonest": evaluation(0.1, 1), "base": evaluation(0.4, 2), "adapter": evaluation(0.9, 3)}


def test_an_aggregate_measure_is_compared_beside_the_means(systems):
    found = compare(systems, candidate="adapter", baseline="base", resamples=300)
    assert found.measures == ("macro-F1", "accuracy", "calibration error")
    assert (found.row_measure, found.aggregates) == ("accuracy", ("macro-F1", "calibration error"))
    for name, each in systems.items():
        row = found.row(name, "macro-F1")
        assert row.value == pytest.approx(each.aggregates["macro-F1"].value)
        assert row.low < row.value < row.high and row.n == 80
    names = [(pair.a, pair.b) for pair in found.comparisons if pair.measure == "macro-F1"]
    assert names == [("adapter", "commonest"), ("adapter", "base"), ("commonest", "base")]
    assert [pair.p_corrected for pair in found.comparisons] == correct([pair.p for pair in found.comparisons])
    pair = found.pair("adapter", "base", "macro-F1")
    own = [found.row(name, "macro-F1").value for name in ("adapter", "base")]
    assert pair.difference == pytest.approx(own[0] - own[1])
    assert 0 < pair.low < pair.difference < pair.high and pair.p_t < 0.01 and 0 < pair.mde < pair.difference
    assert (pair.wins, pair.n) == (None, 80)
    assert {each.row.measure for each in found.slices} == {"accuracy"}
    assert found.groups == 20


def test_a_mean_given_as_an_aggregate_has_the_interval_and_p_of_a_mean(systems):
    for name, each in systems.items():
        ones = {row: (value, 1.0) for row, value in each.values["accuracy"].items()}
        again = Aggregate(ones, lambda sums: sums[..., 0] / sums[..., 1], (0, 1))
        systems[name] = replace(each, aggregates={"again": again}, headline="accuracy")
    found = compare(systems, candidate="adapter", resamples=4000)
    for name in systems:
        mean, same = (found.row(name, measure) for measure in ("accuracy", "again"))
        assert (same.value, same.low, same.high) == pytest.approx((mean.value, mean.low, mean.high), abs=0.02)
    for other in ("base", "commonest"):
        mean, same = (found.pair("adapter", other, measure) for measure in ("accuracy", "again"))
        assert (same.difference, same.low, same.high) == pytest.approx((mean.difference, mean.low, mean.high), abs=0.03)
        assert (same.p, same.p_t, same.mde) == pytest.approx((mean.p, mean.p_t, mean.mde), abs=0.01)


def test_single_row_clusters_are_resampled_by_kind_of_row(systems):
    """Every row a cluster: few kinds of rows, each drawn so often; the figures are those of drawing rows."""
    alone = {name: replace(each, clusters={}) for name, each in systems.items()}
    found = compare(alone, candidate="adapter", measures=["macro-F1"], resamples=4000)
    figure = alone["base"].aggregates["macro-F1"]
    cells = np.array([figure.cells[row] for row in IDS])
    rng = np.random.default_rng(0)
    spread = np.std([figure.statistic(cells[rng.integers(0, 80, 80)].sum(axis=0)) for _ in range(2000)])
    row = found.row("base", "macro-F1")
    assert (row.high - row.low) / 3.92 == pytest.approx(spread, rel=0.25)
    assert found.groups == 80


def test_rows_not_common_to_all_are_left_out_of_aggregates(systems):
    fewer = dict(list(systems["base"].aggregates["macro-F1"].cells.items())[4:])
    of_base = {"macro-F1": replace(systems["base"].aggregates["macro-F1"], cells=fewer)}
    systems["base"] = replace(systems["base"], aggregates=of_base)
    found = compare(systems, candidate="adapter", resamples=100)
    assert {row.n for row in found.rows if row.measure == "macro-F1"} == {76}
    assert found.notes == (
        "macro-F1 is over 76 rows; 4 that not all systems have are left out.",
        "calibration error is shown without base, which has no value of it.",
    )
    assert [(p.a, p.b) for p in found.comparisons if p.measure == "calibration error"] == [("adapter", "commonest")]
    text = to_markdown(found)
    base = found.row("base", "macro-F1")
    line = next(line for line in text.splitlines() if line.startswith("| base |"))
    assert line.startswith(f"| base | {base.value:.3f} ({base.low:.3f} to {base.high:.3f}), n = 76 |")
    assert line.endswith("| – | 0 of 80 |")
    assert "difference in macro-F1" in text and "| –, n = 76 |" in text
    systems["base"] = replace(systems["base"], aggregates={})
    without = compare(systems, candidate="adapter", resamples=100)
    assert without.measures == ("accuracy", "calibration error")
    assert without.notes[0] == "macro-F1 is left out: base has no value of it."


def test_an_undefined_aggregate_is_not_tested(systems):
    invalid = dict.fromkeys(IDS)
    grades = {row: 1 + (index % 3 == 0) for index, row in enumerate(IDS)}
    for name, each in systems.items():
        predicted = invalid if name == "base" else dict.fromkeys(IDS, 1)
        systems[name] = replace(
            each,
            aggregates={"bias": grade_measures((1, 2), 2)["bias"].aggregate(grades, predicted)},
            headline="accuracy",
        )
    found = compare(systems, candidate="adapter", resamples=200)
    assert np.isnan(found.row("base", "bias").value)
    assert found.row("adapter", "bias").low < found.row("adapter", "bias").value < 0
    pair = found.pair("adapter", "base", "bias")
    assert np.isnan([pair.difference, pair.low, pair.p, pair.p_corrected]).all()
    assert found.pair("adapter", "commonest", "bias").p == 1
    known = [each for each in found.comparisons if each is not pair]
    assert [each.p_corrected for each in known] == correct([each.p for each in known])
    content = to_json(found, Header("demo", "make demo", "2025-01-02", "2 cores", {}))
    json.dumps(content, allow_nan=False)
    assert content["aggregates"] == ["bias"] and "less_is_better" not in content
    row = next(row for row in content["rows"] if (row["system"], row["measure"]) == ("adapter", "bias"))
    assert row.keys() == {"system", "measure", "value", "low", "high", "n"}
    assert "| adapter − base | – |" in to_markdown(found)


def test_systems_are_not_compared_by_a_signed_bias(systems):
    """The distance from 0 is not smooth at 0, where a good judge is: neither bootstrap nor test would hold."""
    grades = {row: 1 + (index % 3 == 0) for index, row in enumerate(IDS)}
    bias = grade_measures((1, 2), 2)["bias"].aggregate(grades, dict.fromkeys(IDS, 1))
    systems = {
        name: replace(each, aggregates={"bias": bias}, zero_is_best=("bias",), headline="accuracy")
        for name, each in systems.items()
    }
    found = compare(systems, candidate="adapter", resamples=200)
    assert found.row("adapter", "bias").value < 0 and found.zero_is_best == ("bias",)
    assert {pair.measure for pair in found.comparisons} == {"accuracy"}
    with pytest.raises(UsageError, match="bias, of which 0 is best"):
        decide(Policy(measure="bias", beat={"base": {}}), found, "adapter", Facts({"base": "base"}))


def test_a_constant_share_still_has_an_interval():
    """As an exact binomial one (scipy): 0 of 30, 30 of 30, and of nothing all is possible."""
    rows = [str(row) for row in range(40)]
    gold = {row: int(row) < 30 for row in rows}
    systems = {
        name: Evaluation(
            "recall", {}, {}, aggregates={"recall": aggregate.recall(gold, predicted), "precision": precision}
        )
        for name, predicted in (("never", dict.fromkeys(rows, False)), ("always", dict.fromkeys(rows, True)))
        for precision in [aggregate.precision(gold, predicted)]
    }
    found = compare(systems, candidate="always", resamples=200)
    for name, hits in (("never", 0), ("always", 30)):
        row = found.row(name, "recall")
        exact = stats.binomtest(hits, 30).proportion_ci(method="exact")
        assert (row.value, row.low, row.high) == pytest.approx((hits / 30, exact.low, exact.high))
    nothing = found.row("never", "precision")
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 1)
    certain = found.row("always", "precision")
    assert certain.low < certain.value == 0.75 < certain.high


def test_an_aggregate_of_a_single_system(systems):
    alone = {name: replace(each, values={}) for name, each in systems.items()}
    found = compare(alone, candidate="adapter", resamples=100)
    assert found.row_measure is None and found.measures == ("macro-F1", "calibration error")
    assert found.answered == dict.fromkeys(systems, 80)
    one = {name: replace(each, clusters=dict.fromkeys(IDS, "one")) for name, each in alone.items()}
    single = compare(one, candidate="adapter", resamples=100)
    assert np.isnan([single.row("adapter", "macro-F1").low, single.comparisons[0].p_t]).all()


def test_incomparable_systems_are_errors(systems):
    twice = {"accuracy": systems["base"].aggregates["macro-F1"]}
    with pytest.raises(UsageError, match="'accuracy' is both a mean and an aggregate"):
        compare({**systems, "base": replace(systems["base"], aggregates=twice)}, candidate="adapter")
    other = {"macro-F1": aggregate.macro_f1(GOLD, GOLD, (*LABELS, "more"))}
    with pytest.raises(UsageError, match="macro-F1 has 9 cells in one row and 12 in another"):
        compare({**systems, "base": replace(systems["base"], aggregates=other)}, candidate="adapter")
