"""The abstention threshold: optimal on validation rows, applied to scored outputs only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.outputs import CitedAnswer, InvalidOutput
from searchlora.task import load_generation_task
from searchlora.tasks.rag_answer.tuning import MAX_THRESHOLD, tuned

SCORED = st.lists(st.tuples(st.integers(0, 100).map(lambda each: each / 100), st.booleans()), min_size=1, max_size=20)


def scored(rows):
    records = [{"id": str(place), "answerable": not silent} for place, (_, silent) in enumerate(rows)]
    return records, [CitedAnswer("", (), abstained=False, abstention_probability=given) for given, _ in rows]


def mean_f1(rows, least):
    def f1(pairs):
        right = sum(predicted and wanted for predicted, wanted in pairs)
        return 2 * right / max(1, sum(predicted + wanted for predicted, wanted in pairs))

    pairs = [(given >= least, silent) for given, silent in rows]
    return (f1(pairs) + f1([(not predicted, not wanted) for predicted, wanted in pairs])) / 2


@pytest.mark.slow
@given(SCORED)
def test_the_fitted_threshold_is_optimal(rows):
    found = tuned(*scored(rows))
    kinds = {silent for _, silent in rows}
    assert bool(found) == (kinds == {True, False})
    if found:
        best = max(
            mean_f1(rows, least)
            for least in (0.0, MAX_THRESHOLD, *(given for given, _ in rows if given < MAX_THRESHOLD))
        )
        assert found["abstain_from"] <= MAX_THRESHOLD
        assert mean_f1(rows, found["abstain_from"]) == found["validation"]["mean F1"]
        assert found["validation"]["mean F1"] == best


def test_indistinguishable_rows_are_answered():
    rows = [(0.4, place % 4 == 0) for place in range(40)]  # always to abstain has an F1 of 0.4, never to has none
    likely = [*rows, (0.9, False)]
    assert tuned(*scored(likely))["abstain_from"] > 0.4


def test_rows_without_a_score_are_skipped():
    records, outputs = scored([(0.2, False), (0.4, True), (0.6, True)])
    more = [InvalidOutput("[9]", "cites passage 9"), CitedAnswer("Dry.", (), abstained=False)]
    found = tuned([*records, *records[:2]], [*outputs, *more])
    assert 0.2 < found["abstain_from"] < 0.4
    assert found["validation"] == {"rows": 3, "mean F1": 1.0}


def test_a_tuned_task_abstains_at_its_threshold():
    task = load_generation_task("rag_answer")
    record = task.examples[0]
    (_, (likely, unlikely)) = scored([(0.3, True), (0.1, False)])
    bound = task.bound(task.settings, {"abstain_from": 0.2})
    assert bound.apply_tuning(likely, record).text == task.settings["abstention"]
    assert not bound.apply_tuning(unlikely, record).abstained
    assert task.apply_tuning(likely, record) == likely
    (_, (sure,)) = scored([(0.6, True)])
    assert task.bound(task.settings, {"abstain_from": 0.9}).apply_tuning(sure, record).abstained
    written = CitedAnswer("Dry [1].", (1,), abstained=False)
    assert bound.apply_tuning(written, record) == written
