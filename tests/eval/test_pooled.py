"""Pooled figures are scikit-learn's, an invalid output is never a label, and sums of parts are the whole."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from searchlora.errors import UsageError
from searchlora.eval import pooled
from searchlora.eval.judge import agreement
from searchlora.eval.labels import confusion_of, curve_of

LABELS = ("a", "b", "c", "d")
SCALE = (0, 1, 2, 3)


def rows(of):
    """Pairs of gold and said, by row id."""
    return st.lists(st.tuples(*of), min_size=1, max_size=40).map(
        lambda pairs: tuple({f"r{n}": pair[side] for n, pair in enumerate(pairs)} for side in (0, 1))
    )


label = st.sampled_from(LABELS)
grade = st.sampled_from(SCALE)


@given(rows((label, st.one_of(label, st.none()))))
def test_macro_f1_is_that_of_scikit_learn(drawn):
    gold, said = drawn
    standing = sorted(set(gold.values()))
    named = [each or "none" for each in said.values()]
    expected = metrics.f1_score(list(gold.values()), named, labels=standing, average="macro", zero_division=0)
    assert pooled.macro_f1(gold, said, LABELS).value == pytest.approx(expected, abs=1e-12)


sets = st.sets(label)


@given(rows((sets, sets)))
def test_several_labels_of_a_row(drawn):
    gold, said = drawn
    true, found = (np.array([[each in row for each in LABELS] for row in side.values()]) for side in drawn)
    standing = np.flatnonzero(true.any(axis=0))
    ours = pooled.macro_f1(gold, said, LABELS).value
    if not len(standing):
        assert ours == 0
        return
    assert ours == pytest.approx(metrics.f1_score(true, found, labels=standing, average="macro", zero_division=0))
    counts = [{row: float(sum(side)) for row, side in zip(gold, of, strict=True)} for of in (true & found, found, true)]
    micro = metrics.precision_recall_fscore_support(true, found, average="micro", zero_division=0)
    ours = [pooled.micro_precision(counts[0], counts[1]), pooled.micro_recall(counts[0], counts[2]),
            pooled.micro_f1(*counts)]  # fmt: skip
    assert [each.value for each in ours] == pytest.approx(micro[:3], abs=1e-12)


@given(rows((st.booleans(), st.one_of(st.booleans(), st.none()))))
def test_one_class_is_that_of_scikit_learn(drawn):
    gold, said = drawn
    expected = metrics.precision_recall_fscore_support(
        list(gold.values()), [each is True for each in said.values()], average="binary", zero_division=0
    )
    found = [of(gold, said).value for of in (pooled.precision, pooled.recall, pooled.f1)]
    assert found == pytest.approx(expected[:3], abs=1e-12)


@pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
def test_kappa_is_that_of_scikit_learn(weights):
    rng = random.Random(1)
    gold = {f"r{n}": rng.choice(SCALE) for n in range(80)}
    said = {row: rng.choice((value, rng.choice(SCALE))) for row, value in gold.items()}
    pair = list(gold.values()), list(said.values())
    expected = metrics.cohen_kappa_score(*pair, weights=None if weights == "none" else weights)
    assert pooled.cohen_kappa(gold, said, SCALE, weights=weights).value == pytest.approx(expected, abs=1e-12)
    two = [[value >= 2 for value in side] for side in pair]
    assert pooled.cohen_kappa(gold, said, SCALE, relevant=2).value == pytest.approx(metrics.cohen_kappa_score(*two))
    assert pooled.mean_absolute_error(gold, said, SCALE).value == pytest.approx(metrics.mean_absolute_error(*pair))
    assert pooled.signed_bias(gold, said, SCALE).value == pytest.approx(np.subtract(pair[1], pair[0]).mean())


@given(rows((grade, st.one_of(grade, st.none(), st.just(9)))))
def test_figures_of_agreement_are_those_of_two_lists(drawn):
    gold, said = drawn
    pair = list(gold.values()), list(said.values())
    kappa = agreement.cohen_kappa(*pair, scale=SCALE)
    assert pooled.cohen_kappa(gold, said, SCALE).value == pytest.approx(kappa, nan_ok=True)
    units = [{"a": true, "b": found} for true, found in zip(*pair, strict=True) if found in SCALE]
    if units:
        alpha = pooled.krippendorff_alpha(gold, said, SCALE).value
        assert alpha == pytest.approx(agreement.krippendorff_alpha(units), nan_ok=True)
    worst = [
        max(true, 3 - true) if found not in SCALE else abs(true - found) for true, found in zip(*pair, strict=True)
    ]
    assert pooled.mean_absolute_error(gold, said, SCALE).value == pytest.approx(np.mean(worst))


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 20)
)  # fmt: skip
def test_calibration_error_is_that_of_a_plain_loop(pairs, bins):
    probability = {f"r{n}": given_ for n, (given_, _) in enumerate(pairs)}
    correct = {f"r{n}": right for n, (_, right) in enumerate(pairs)}
    off = 0.0
    for place in range(bins):
        inside = [(p, right) for p, right in pairs if min(int(p * bins), bins - 1) == place]
        if inside:
            confidence = sum(p for p, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            off += len(inside) / len(pairs) * abs(confidence - accuracy)
    assert pooled.expected_calibration_error(probability, correct, bins=bins).value == pytest.approx(off, abs=1e-12)


@given(rows((label, st.one_of(label, st.none()))), st.integers(0, 40))
def test_a_figure_of_sums_of_parts_is_that_of_all_rows(drawn, cut):
    figure = pooled.macro_f1(*drawn, LABELS)
    cells = np.array(list(figure.cells.values()))
    parts = cells[:cut].sum(axis=0) + cells[cut:].sum(axis=0)
    assert figure.statistic(parts) == pytest.approx(figure.value)
    many = np.stack([parts, 7 * parts])
    assert figure.statistic(many) == pytest.approx([figure.value] * 2)  # one call for all; of shares, not of counts


def test_an_invalid_output_is_wrong_and_nothing_said():
    gold, said = {"1": "a", "2": "a", "3": "b"}, {"1": "a", "2": None, "3": "b"}
    assert pooled.macro_f1(gold, said, LABELS).value == pytest.approx((2 / 3 + 1) / 2)
    assert pooled.f1({"1": True, "2": False}, {"1": None, "2": None}).value == 0
    assert pooled.precision({"1": True}, {"1": None}).value == 0
    assert np.isnan(pooled.signed_bias({"1": 2}, {"1": None}, SCALE).value)
    assert pooled.mean_absolute_error({"1": 2}, {"1": None}, SCALE).value == 2


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match=r"'z' is no label.*row 2|row 2.*'z' is no label"):
        pooled.macro_f1({"1": "a", "2": "z"}, {"1": "a", "2": "a"}, LABELS)
    with pytest.raises(UsageError, match="nothing said of this row"):
        pooled.f1({"1": True}, {})
    with pytest.raises(UsageError, match="not a probability"):
        pooled.expected_calibration_error({"1": 1.5}, {"1": True})
    with pytest.raises(UsageError, match="divides no scale"):
        pooled.cohen_kappa({"1": 0}, {"1": 0}, SCALE, relevant=0)


def test_a_confusion_matrix_counts_every_row_once():
    gold = {"1": "a", "2": "a", "3": "b", "4": "b"}
    found = confusion_of(gold, {"1": "a", "2": "b", "3": None, "4": "other"}, ("a", "b"))
    assert found.columns == ("a", "b", "invalid")
    assert found.counts == ((1, 1, 0), (0, 0, 2))


def test_a_curve_has_the_share_that_was_right():
    probability = {"1": 0.05, "2": 0.15, "3": 0.95, "4": 1.0}
    curve = curve_of(probability, {"1": False, "2": True, "3": True, "4": True}, {"1": "q", "2": "q"}, bins=5)
    assert [(p.judged, p.human, p.n, p.queries) for p in curve.points] == [
        (pytest.approx(0.1), 0.5, 2, 1),
        (pytest.approx(0.975), 1.0, 2, 2),
    ]
    assert curve_of({}, {}).points == ()
    sure = curve_of({str(n): 0.9 for n in range(20)}, {str(n): True for n in range(20)}).points[0]
    assert (sure.low, sure.high) == (pytest.approx(0.025 ** (1 / 20)), 1)  # the exact binomial interval of 20 of 20
