"""Agreement statistics: kappa equals scikit-learn, alpha Krippendorff's example; an invalid label is never a grade."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, precision_score, recall_score

from searchlora.errors import UsageError
from searchlora.eval import agreement
from searchlora.eval.agreement import as_scale, coincidences, confusion, disagreement, kappa

SCALE = (0, 1, 2, 3)
PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=60)

#: Krippendorff (2011), section C: four observers, twelve units, "." is a missing label.
OBSERVERS = ("1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 .")


def krippendorff_units() -> list[dict[str, int]]:
    rows = [row.split() for row in OBSERVERS]
    return [{"ABCD"[r]: int(row[u]) for r, row in enumerate(rows) if row[u] != "."} for u in range(12)]


def cohen_kappa(a, b, *, weights="none"):
    return kappa(confusion(a, b, SCALE), disagreement(SCALE, weights))


def krippendorff_alpha(units):
    scale = as_scale({grade for unit in units for grade in unit.values()})
    return agreement.alpha(coincidences(units, scale))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(pairs=PAIRS, weights=st.sampled_from(["none", "linear", "quadratic"]))
def test_kappa_equals_scikit_learn(pairs, weights):
    a, b = zip(*pairs, strict=True)
    expected = cohen_kappa_score(a, b, labels=SCALE, weights=None if weights == "none" else weights)
    assert cohen_kappa(a, b, weights=weights) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(pairs=PAIRS, relevant=st.integers(1, 3))
def test_binary_kappa_and_errors_equal_scikit_learn(pairs, relevant):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    table = confusion(a.tolist(), b.tolist(), SCALE)
    two = agreement.kappa(agreement.binary(table, SCALE, relevant), agreement.disagreement((0, 1)))
    assert two == pytest.approx(cohen_kappa_score(a >= relevant, b >= relevant, labels=[False, True]), nan_ok=True)
    assert agreement.mean_absolute_error(table, SCALE) == pytest.approx(mean_absolute_error(a, b))
    assert agreement.signed_bias(table, SCALE) == pytest.approx((b - a).mean())
    assert agreement.agreement_rate(table) == pytest.approx((a == b).mean())
    for index, grade in enumerate(SCALE):
        given_it = {"labels": [grade], "average": "macro", "zero_division": np.nan}
        assert agreement.precision(table, index) == pytest.approx(precision_score(a, b, **given_it), nan_ok=True)
        assert agreement.recall(table, index) == pytest.approx(recall_score(a, b, **given_it), nan_ok=True)


def test_alpha_equals_the_published_example():
    assert round(krippendorff_alpha(krippendorff_units()), 3) == 0.815


def test_alpha_of_edge_cases():
    assert krippendorff_alpha([{"a": 0, "b": 0}, {"a": 3, "b": 3}]) == 1
    assert math.isnan(krippendorff_alpha([{"a": 1, "b": 1}]))
    lonely = [*krippendorff_units(), {"A": 4}, {}]
    assert krippendorff_alpha(lonely) == krippendorff_alpha(krippendorff_units())


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(pairs=PAIRS)
def test_alpha_of_a_confusion_table_equals_that_of_its_units(pairs):
    a, b = zip(*pairs, strict=True)
    units = [{"human": x, "judge": y} for x, y in pairs]
    table = agreement.paired_coincidences(confusion(a, b, SCALE))
    assert agreement.alpha(table) == pytest.approx(krippendorff_alpha(units), nan_ok=True)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(pairs=PAIRS, out=st.sampled_from([None, 5, 10, -1]))
def test_an_invalid_label_disagrees_with_every_grade_and_is_no_grade(pairs, out):
    a, b = zip(*[*pairs, (1, out)], strict=True)
    table = confusion(a, b, SCALE)
    assert table[:, -1].sum() == 1
    # The same figure by scikit-learn, where an invalid answer is a class of its own that people never give.
    expected = cohen_kappa_score(a, [9 if y == out else y for y in b], labels=[*SCALE, 9])
    assert cohen_kappa(a, b) == pytest.approx(expected, nan_ok=True)
    # Grade 1 is two steps from the farthest grade, 3; nothing was clipped to 3 or to 0.
    known = sum(abs(x - y) for x, y in pairs)
    assert agreement.mean_absolute_error(table, SCALE) == pytest.approx((known + 2) / len(a))
    xs, ys = zip(*pairs, strict=True)
    assert agreement.kappa(agreement.valid(table), agreement.disagreement(SCALE)) == pytest.approx(
        cohen_kappa(xs, ys), nan_ok=True
    )


def test_a_judge_with_no_valid_answer_agrees_no_better_than_chance():
    assert cohen_kappa([0, 1, 2, 3], [None] * 4) == 0
    assert cohen_kappa([0, 1, 2, 3], [7] * 4, weights="quadratic") == 0


def test_tables_of_many_resamples_are_computed_in_one_call():
    tables = np.random.default_rng(0).integers(0, 9, (50, 4, 5)).astype(float)
    weights = agreement.disagreement(SCALE, "quadratic")
    together = agreement.kappa(tables, weights)
    assert together == pytest.approx([float(agreement.kappa(table, weights)) for table in tables])
    pairs = agreement.paired_coincidences(tables)
    assert agreement.alpha(pairs) == pytest.approx([float(agreement.alpha(pair)) for pair in pairs])


def test_incomparable_labels_are_errors():
    with pytest.raises(UsageError, match="2 labels cannot be paired with 1"):
        cohen_kappa([1, 2], [1])
    with pytest.raises(UsageError, match="no grades"):
        as_scale([])
    with pytest.raises(UsageError, match="grade 4 is outside the scale 0, 1, 2, 3"):
        cohen_kappa([4], [1])
    with pytest.raises(UsageError, match="relevance threshold 4"):
        agreement.binary(np.ones((4, 5)), SCALE, 4)
    with pytest.raises(UsageError, match="weights is 'cubic'"):
        cohen_kappa([1, 2], [1, 2], weights="cubic")


def test_a_scale_has_a_bounded_number_of_grades_in_range():
    """Tables have the square of it, and a grade of 400 digits fits in no float."""
    assert len(agreement.as_scale(range(agreement.MAX_GRADES))) == agreement.MAX_GRADES
    with pytest.raises(UsageError, match="too long"):
        agreement.as_scale(range(agreement.MAX_GRADES + 1))
    for grade in (2**31, -(2**31), 10**400):
        with pytest.raises(UsageError, match="out of range"):
            agreement.as_scale([0, grade])
