"""Paired comparison of judges over the same pairs, corrected for multiple testing."""

from __future__ import annotations

import numpy as np
import pytest

from searchlora.errors import UsageError
from searchlora.eval.judge.comparison import compare_judges
from searchlora.eval.significance import correct

HUMAN = {
    f"q{q}": {f"d{d}": int(np.random.default_rng(q * 99 + d).integers(0, 4)) for d in range(15)} for q in range(20)
}


def noisy(share: float, seed: int, human=HUMAN):
    rng = np.random.default_rng(seed)
    return {
        q: {d: grade if rng.random() > share else int(rng.integers(0, 4)) for d, grade in row.items()}
        for q, row in human.items()
    }


def test_a_clearly_better_judge_is_significant_and_equal_judges_are_not():
    judges = {"bad": noisy(0.8, 1), "good": noisy(0.2, 2), "fair": noisy(0.5, 3), "fair too": noisy(0.5, 4)}
    found = compare_judges(HUMAN, judges, resamples=2_000)
    assert len(found.differences) == 6 and found.left_out == 0
    by_pair = {(each.a, each.b): each for each in found.differences}
    assert all(each.difference >= 0 for each in found.differences)
    best = by_pair["good", "bad"]
    assert best.p_corrected < 0.01 and 0 < best.low < best.difference < best.high
    equal = next(each for pair, each in by_pair.items() if set(pair) == {"fair", "fair too"})
    assert equal.p_corrected > 0.05 and equal.low < 0 < equal.high
    assert (best.n, best.queries, best.measure) == (300, 20, "kappa")
    assert [each.p_corrected for each in found.differences] == correct([each.p for each in found.differences])


def test_pairs_missing_from_a_judge_are_left_out_of_differences():
    short = noisy(0.5, 3)
    del short["q4"], short["q5"]["d0"]
    found = compare_judges(HUMAN, {"short": short, "good": noisy(0.2, 2)}, resamples=200)
    assert (found.left_out, found.differences[0].n, found.differences[0].queries) == (16, 284, 19)


@pytest.mark.slow
def test_the_number_of_swaps_suffices_for_the_correction():
    judges = {str(seed): noisy(0.6, seed) for seed in range(9)}
    judges["good"] = noisy(0.1, 99)
    found = compare_judges(HUMAN, judges, resamples=100)
    assert found.swaps == 45 * 200
    assert sum(each.p_corrected <= 0.05 for each in found.differences) == 9


def test_incomparable_judges_are_errors():
    with pytest.raises(UsageError, match="two judges"):
        compare_judges(HUMAN, {"one": noisy(0.5, 1)})
    same = {q: dict.fromkeys(row, 1) for q, row in HUMAN.items()}
    with pytest.raises(UsageError, match="kappa is undefined for b"):
        compare_judges(same, {"a": noisy(0.5, 1), "b": same})
