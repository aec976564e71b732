"""Stability of a judge over paraphrased prompts; invalid answers count as changes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from searchlora.errors import UsageError
from searchlora.eval.judge.agreement import krippendorff_alpha
from searchlora.eval.judge.stability import stability

FIRST = {f"q{q}": {f"d{d}": (q * d) % 4 for d in range(10)} for q in range(8)}


def changed(share: float, seed: int, by: int = 1):
    rng = np.random.default_rng(seed)
    return {
        q: {d: min(grade + by, 3) if rng.random() < share else grade for d, grade in row.items()}
        for q, row in FIRST.items()
    }


def flat(labels):
    return [grade for row in labels.values() for grade in row.values()]


def test_stability_is_computed_from_the_labels():
    little, much = changed(0.1, 1), changed(0.6, 2)
    found = stability({"first": FIRST, "little": little, "much": much}, resamples=200)
    assert (found.reference, found.worst, found.left_out) == ("first", "much", 0)
    for variant, labels in zip(found.variants, (little, much), strict=True):
        assert variant.kappa.value == pytest.approx(cohen_kappa_score(flat(FIRST), flat(labels)))
        assert variant.unchanged.value == pytest.approx(np.mean(np.equal(flat(FIRST), flat(labels))))
        assert variant.shift.value == pytest.approx(np.mean(flat(labels)) - np.mean(flat(FIRST)))
        assert variant.kappa.low < variant.kappa.value < variant.kappa.high
        assert (variant.kappa.n, variant.kappa.queries) == (80, 8)
    three = list(zip(flat(FIRST), flat(little), flat(much), strict=True))
    assert found.unchanged.value == pytest.approx(np.mean([len(set(row)) == 1 for row in three]))
    units = [dict(zip("abc", row, strict=True)) for row in three]
    assert found.alpha.value == pytest.approx(krippendorff_alpha(units))


def test_an_invalid_answer_is_a_change_even_where_both_are_invalid():
    lost = {**FIRST, "q1": dict.fromkeys(FIRST["q1"]), "q2": dict.fromkeys(FIRST["q2"], 9)}
    found = stability({"a": lost, "b": lost}, resamples=100)
    assert found.unchanged.value == found.variants[0].unchanged.value == pytest.approx(60 / 80)
    assert found.variants[0].kappa.value < 1
    assert found.variants[0].alpha.value == found.alpha.value == 1
    assert (found.alpha.n, found.variants[0].shift.n, found.variants[0].shift.queries) == (60, 60, 6)
    assert found.variants[0].invalid.value == pytest.approx(20 / 80)


def test_one_query_has_no_interval_and_gives_no_warning(recwarn):
    one = {"q1": FIRST["q1"]}
    found = stability({"a": one, "b": one}, resamples=100)
    assert found.unchanged.value == 1 and np.isnan(found.unchanged.low)
    assert not recwarn.list


def test_pairs_missing_from_a_variant_are_reported():
    short = {q: dict(row) for q, row in FIRST.items() if q != "q3"}
    found = stability({"a": FIRST, "b": short}, resamples=100)
    assert (found.left_out, found.unchanged.n) == (10, 70)
    assert found.unchanged.value == found.variants[0].kappa.value == 1
    with pytest.raises(UsageError, match="two label sets"):
        stability({"a": FIRST})
    with pytest.raises(UsageError, match="no pair is labelled in all"):
        stability({"a": FIRST, "b": {"other": {"d": 1}}})
