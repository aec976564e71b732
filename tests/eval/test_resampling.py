"""Resampling by query: coverage of intervals, parity with a plain loop, and level of the swap test."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest

from searchlora.eval import agreement
from searchlora.eval.resampling import influences, intervals, standard_errors, swap_p

SCALE = (0, 1, 2, 3)
KAPPA = partial(agreement.kappa, weights=agreement.disagreement(SCALE))
MAE = partial(agreement.mean_absolute_error, scale=SCALE)


def population(queries: int, rng: np.random.Generator, skill: float = 0.5) -> np.ndarray:
    """Tables of queries that differ in size, in their share of relevant pairs and in how well they are judged."""
    tables = np.zeros((queries, 4, 5))
    for table in tables:
        human = rng.dirichlet([2, 1.2, 0.8, 0.4])
        right = rng.beta(6 * skill, 6 * (1 - skill))
        judge = right * np.eye(4) + (1 - right) * rng.dirichlet([1, 1, 1, 1])
        size = int(np.clip(rng.lognormal(4, 0.5), 10, 400))
        table[:, :4] = rng.multinomial(size, (human[:, None] * judge).ravel()).reshape(4, 4)
    return tables


@pytest.mark.slow
@pytest.mark.parametrize(("statistic", "bounds"), [(KAPPA, (-1, 1)), (MAE, (0, 3))])
def test_intervals_by_query_cover_and_intervals_by_pair_undercover(statistic, bounds):
    rng = np.random.default_rng(1)
    truth = float(statistic(population(20_000, rng).sum(axis=0)))
    by_query = by_pair = 0
    for _ in range(250):
        tables = population(25, rng)
        _, low, high = intervals(statistic, tables[:, None], bounds=bounds, resamples=400)[0]
        by_query += low <= truth <= high
        total = tables.sum(axis=0)
        drawn = rng.multinomial(int(total.sum()), (total / total.sum()).ravel(), size=400).reshape(-1, 4, 5)
        low, high = np.quantile(statistic(drawn.astype(float)), [0.025, 0.975])
        by_pair += low <= truth <= high
    assert 0.91 <= by_query / 250 <= 0.985
    assert by_pair / 250 < 0.75


@pytest.mark.slow
def test_interval_equals_a_plain_loop():
    tables = population(8, np.random.default_rng(3))
    value = float(KAPPA(tables.sum(axis=0)))

    def infinitesimal(draw):
        """The error of a resample by leaving a thousandth of each query out."""
        moved = [(KAPPA(draw.sum(axis=0) + 1e-3 * one) - KAPPA(draw.sum(axis=0))) / 1e-3 for one in draw]
        return math.sqrt(np.square(moved).sum() * len(draw) / (len(draw) - 1))

    rng = np.random.default_rng(0)
    draws = [tables[rng.integers(0, 8, 8)] for _ in range(3_000)]
    ratios = [(float(KAPPA(draw.sum(axis=0))) - value) / infinitesimal(draw) for draw in draws]
    left_out = [float(KAPPA(np.delete(tables, at, axis=0).sum(axis=0))) for at in range(8)]
    error = math.sqrt(7 / 8 * np.square(np.array(left_out) - np.mean(left_out)).sum())
    upper, lower = np.quantile(ratios, [0.975, 0.025])
    found = intervals(KAPPA, tables[:, None], bounds=(-1, 1), resamples=3_000)[0]
    assert found == pytest.approx([value, value - upper * error, value - lower * error], abs=0.02)
    assert standard_errors(KAPPA, tables[:, None], np.eye(1)) == pytest.approx([error])


def test_influence_is_the_derivative():
    total = population(5, np.random.default_rng(2)).sum(axis=0)
    slope = influences(MAE, total)
    distance = agreement.disagreement(SCALE, "linear")
    expected = np.where(total > 0, (distance - MAE(total)) / total.sum(), 0)
    assert slope == pytest.approx(expected, abs=1e-7)
    assert (influences(KAPPA, total) * total).sum() == pytest.approx(0, abs=1e-5)  # doubling all counts moves nothing


def test_several_judges_and_their_differences_are_computed_in_one_call():
    rng = np.random.default_rng(5)
    tables = np.stack([population(30, rng, skill) for skill in (0.8, 0.4)], axis=1)
    both = intervals(KAPPA, tables, bounds=(-1, 1), resamples=500)
    alone = [intervals(KAPPA, tables[:, [at]], bounds=(-1, 1), resamples=500)[0] for at in (0, 1)]
    assert both == pytest.approx(np.array(alone))
    shift = intervals(KAPPA, tables, bounds=(-2, 2), contrasts=np.array([[1.0, -1.0]]), resamples=500)[0]
    assert shift[0] == pytest.approx(both[0, 0] - both[1, 0])
    assert 0 < shift[1] < shift[0] < shift[2]
    same = intervals(KAPPA, tables[:, [0, 0]], bounds=(-2, 2), contrasts=np.array([[1.0, -1.0]]), resamples=50)[0]
    assert same.tolist() == [0, 0, 0]


def test_p_equals_enumeration_of_all_swaps():
    rng = np.random.default_rng(7)
    tables = np.stack([population(7, rng, skill) for skill in (0.7, 0.5)], axis=1)
    shifts = []
    for swaps in itertools.product([0, 1], repeat=7):
        first = sum(tables[query, swap] for query, swap in enumerate(swaps))
        second = sum(tables[query, 1 - swap] for query, swap in enumerate(swaps))
        shifts.append(float(KAPPA(first) - KAPPA(second)))
    exact = np.mean(np.abs(shifts) >= abs(shifts[0]) - 1e-12)
    assert swap_p(KAPPA, tables, [(0, 1)], resamples=20_000)[0] == pytest.approx(exact, abs=0.01)
    assert swap_p(KAPPA, tables[:, [0, 0]], [(0, 1)], resamples=99) == [1.0]


def test_intervals_of_edge_cases():
    tables = population(6, np.random.default_rng(4))
    assert np.isnan(intervals(KAPPA, tables[:1, None], bounds=(-1, 1), resamples=50)[0, 1:]).all()
    alike = np.repeat(tables[:1], 6, axis=0)[:, None]
    value, low, high = intervals(KAPPA, alike, bounds=(-1, 1), resamples=50)[0]
    assert low == pytest.approx(value) == pytest.approx(high)
    only_one = tables.copy()
    only_one[1:, :, 3] = 0  # grade 3 is given in one query only: leaving that out leaves no precision
    only_one[0, 3, 3] = 4
    found = intervals(partial(agreement.precision, index=3), only_one[:, None], bounds=(0, 1), resamples=50)[0]
    assert not math.isnan(found[0])
    assert np.isnan(found[1:]).all()
    perfect = tables * np.eye(4, 5)
    assert intervals(KAPPA, perfect[:, None], bounds=(-1, 1), resamples=50)[0].tolist() == [1, 1, 1]
