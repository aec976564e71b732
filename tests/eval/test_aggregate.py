"""Aggregate measures equal scikit-learn, an invalid output is never a label, and sums of parts equal the whole."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from searchlora.errors import UsageError
from searchlora.eval import aggregate

LABELS = ("a", "b", "c", "d")


def rows(of):
    """Gold and predicted labels by row id."""
    return st.lists(st.tuples(*of), min_size=1, max_size=40).map(
        lambda pairs: tuple({f"r{n}": pair[side] for n, pair in enumerate(pairs)} for side in (0, 1))
    )


label = st.sampled_from(LABELS)


@pytest.mark.slow
@given(rows((label, st.one_of(label, st.none()))))
def test_macro_f1_equals_scikit_learn(drawn):
    gold, predicted = drawn
    standing = sorted(set(gold.values()))
    named = [each or "none" for each in predicted.values()]
    expected = metrics.f1_score(list(gold.values()), named, labels=standing, average="macro", zero_division=0)
    assert aggregate.macro_f1(gold, predicted, LABELS).value == pytest.approx(expected, abs=1e-12)


sets = st.sets(label)


@pytest.mark.slow
@given(rows((sets, sets)))
def test_multilabel_f1_equals_scikit_learn(drawn):
    gold, predicted = drawn
    true, found = (np.array([[each in row for each in LABELS] for row in side.values()]) for side in drawn)
    standing = np.flatnonzero(true.any(axis=0))
    ours = aggregate.macro_f1(gold, predicted, LABELS).value
    if not len(standing):
        assert ours == 0
        return
    assert ours == pytest.approx(metrics.f1_score(true, found, labels=standing, average="macro", zero_division=0))
    counts = [{row: float(sum(side)) for row, side in zip(gold, of, strict=True)} for of in (true & found, found, true)]
    micro = metrics.precision_recall_fscore_support(true, found, average="micro", zero_division=0)
    ours = [aggregate.micro_precision(counts[0], counts[1]), aggregate.micro_recall(counts[0], counts[2]),
            aggregate.micro_f1(*counts)]  # fmt: skip
    assert [each.value for each in ours] == pytest.approx(micro[:3], abs=1e-12)


@pytest.mark.slow
@given(rows((st.booleans(), st.one_of(st.booleans(), st.none()))))
def test_figures_of_one_class_equal_scikit_learn(drawn):
    gold, predicted = drawn
    expected = metrics.precision_recall_fscore_support(
        list(gold.values()), [each is True for each in predicted.values()], average="binary", zero_division=0
    )
    found = [of(gold, predicted).value for of in (aggregate.precision, aggregate.recall, aggregate.f1)]
    assert found == pytest.approx(expected[:3], abs=1e-12)


@pytest.mark.slow
@given(rows((label, st.one_of(label, st.none()))), st.integers(0, 40))
def test_sums_of_parts_give_the_figure_of_all_rows(drawn, cut):
    figure = aggregate.macro_f1(*drawn, LABELS)
    cells = np.array(list(figure.cells.values()))
    parts = cells[:cut].sum(axis=0) + cells[cut:].sum(axis=0)
    assert figure.statistic(parts) == pytest.approx(figure.value)
    many = np.stack([parts, 7 * parts])
    assert figure.statistic(many) == pytest.approx([figure.value] * 2)  # one call for all; of shares, not of counts


def test_an_invalid_output_is_wrong_and_predicts_no_label():
    gold, predicted = {"1": "a", "2": "a", "3": "b"}, {"1": "a", "2": None, "3": "b"}
    assert aggregate.macro_f1(gold, predicted, LABELS).value == pytest.approx((2 / 3 + 1) / 2)
    assert aggregate.f1({"1": True, "2": False}, {"1": None, "2": None}).value == 0
    assert aggregate.precision({"1": True}, {"1": None}).value == 0


def test_impossible_inputs_are_errors():
    with pytest.raises(UsageError, match=r"'z' is not one of the labels.*row 2|row 2.*'z' is not one of the labels"):
        aggregate.macro_f1({"1": "a", "2": "z"}, {"1": "a", "2": "a"}, LABELS)
    with pytest.raises(UsageError, match="the row has no prediction"):
        aggregate.f1({"1": True}, {})


texts = st.lists(st.sampled_from(["the", "cat", "sat", "on", "mat", "it's", "2"]), max_size=9).map(" ".join)


@pytest.mark.slow
@given(rows((texts, texts)))
def test_bleu_equals_sacrebleu(drawn):
    outputs, references = drawn
    expected = sacrebleu.corpus_bleu(list(outputs.values()), [list(references.values())]).score
    assert aggregate.corpus_bleu(outputs, references).value == pytest.approx(expected)


def test_bleu_is_over_the_corpus_not_a_mean_of_rows():
    outputs = {"a": "the cat sat on the mat", "b": "no"}
    references = {"a": "the cat sat on the mat", "b": "yes it did so"}
    single = [aggregate.corpus_bleu({row: outputs[row]}, references).value for row in outputs]
    assert single[0] == pytest.approx(100)
    assert aggregate.corpus_bleu(outputs, references).value != pytest.approx(sum(single) / 2)
