"""Sample-size advice: the predicted spread equals that of repeated draws of real labels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from searchlora.errors import UsageError
from searchlora.eval.judge.labels import pair
from searchlora.eval.judge.measures import judge_measures
from searchlora.eval.judge.sample_size import LabelNeed, label_need
from tests.eval.judge import llmjudge

MEASURES = judge_measures((0, 1, 2, 3), 2)


@pytest.mark.parametrize("name", ["willia-umbrela1", "TREMA-direct"])
@pytest.mark.parametrize("measure", ["kappa", "mae"])
def test_predicted_sample_size_holds_on_llmjudge(real_data, name, measure):
    """Predicted within a tenth of the observed spread for 10 of the 25 queries, within a sixth for 20 pairs of each."""
    tables = pair(llmjudge.human(real_data), llmjudge.judge(real_data, name), (0, 1, 2, 3)).tables
    figure, rng = MEASURES[measure], np.random.default_rng(0)
    need = label_need(figure, tables)
    drawn = np.array([tables[rng.choice(25, 10, replace=False)].sum(axis=0) for _ in range(2_000)])
    # Draws without replacement from 25 queries vary less than those from a population, by the known factor.
    assert need.error(10) * math.sqrt(1 - 10 / 25) == pytest.approx(figure.statistic(drawn).std(), rel=0.1)
    shares = tables.reshape(25, -1) / tables.sum(axis=(1, 2))[:, None]
    few = np.array(
        [
            sum(rng.multinomial(20, shares[query]) for query in rng.integers(0, 25, 25)).reshape(4, 5)
            for _ in range(800)
        ],
        dtype=float,
    )
    assert need.error(25, 20) == pytest.approx(figure.statistic(few).std(), rel=1 / 6)


def test_inversion_is_the_fewest_queries():
    need = LabelNeed("kappa", spread=0.4, between=0.2, within=0.7, queries=25, pairs_per_query=100)
    for pairs in (None, 10, 200):
        count = need.queries_for(0.05, pairs)
        assert need.half_width(count, pairs) <= 0.05 < need.half_width(count - 1, pairs)
    assert need.queries_for(0.05, 200) < need.queries_for(0.05, 10)
    assert need.queries_for(1e-5) is None
    assert need.half_width(25, 10**9) == pytest.approx(2.0639 * 0.2 / 5, rel=1e-3)  # more pairs do not help against τ
    with pytest.raises(UsageError, match="above 0"):
        need.queries_for(0)
    with pytest.raises(UsageError, match="two queries"):
        need.half_width(1)


def test_too_few_labels_give_no_sample_size():
    tables = np.zeros((3, 4, 5))
    tables[:, 0, 0] = 1
    assert label_need(MEASURES["mae"], tables) is None  # one pair of each query
    assert label_need(MEASURES["mae"], tables[:1] * 9) is None  # one query
