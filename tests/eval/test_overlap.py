"""Text measures against values worked out by hand."""

from __future__ import annotations

import pytest

from searchlora.errors import UsageError
from searchlora.eval.overlap import corpus_bleu, rouge_l


def test_same_text_is_perfect_and_foreign_text_is_not():
    assert corpus_bleu(["when did they disband in 1969"], ["when did they disband in 1969"]) == pytest.approx(100)
    assert rouge_l(["a b c", "x"], ["a b c", "y"]) == [1.0, 0.0]


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence():
    # a c of the output stands in order in the reference: precision 2/2, recall 2/4.
    assert rouge_l(["a c"], ["a b c d"]) == pytest.approx([2 * 1 * 0.5 / 1.5])


def test_bleu_is_over_the_corpus_not_a_mean_of_rows():
    rows = [("the cat sat on the mat", "the cat sat on the mat"), ("no", "yes it did so")]
    both = corpus_bleu(*map(list, zip(*rows, strict=True)))
    assert both != pytest.approx(sum(corpus_bleu([out], [ref]) for out, ref in rows) / 2)


def test_lengths_must_agree():
    with pytest.raises(UsageError, match="2 outputs"):
        rouge_l(["a", "b"], ["a"])
    with pytest.raises(UsageError, match="no outputs"):
        corpus_bleu([], [])


def test_rouge_reads_other_alphabets():
    assert rouge_l(["Палатка весит два килограмма"], ["палатка весит 2 килограмма"]) == [pytest.approx(0.75)]
