"""Which rows to label: a diverse sample covers rare things."""

from __future__ import annotations

import pytest

from searchlora.errors import UsageError
from searchlora.experiments.row_sample import RowSample
from searchlora.task import GenerationTask, load_generation_task

LABELS = ("delivery", "payment", "returns")


@pytest.fixture(scope="module")
def task() -> GenerationTask:
    return load_generation_task("intent").bound({"kind": "label", "labels": list(LABELS), "out_of_scope": None})


def records(*queries: str) -> list[dict[str, str]]:
    return [{"id": f"row-{number}", "query": query} for number, query in enumerate(queries)]


@pytest.mark.slow
def test_a_diverse_sample_covers_what_a_random_one_may_miss(task: GenerationTask) -> None:
    rare = [f"how do I pay order {n} by card" for n in range(5)]
    rows = records(*(f"tent {n}" for n in range(200)), *rare)
    chosen = RowSample.parse("diverse=20").choose(rows, task)
    assert max(chosen) >= 200 and len(chosen) <= 20
    assert len(RowSample.parse("random=20").choose(rows, task)) == 20
    assert RowSample.parse("random=500").choose(rows, task) == list(range(205))


@pytest.mark.parametrize("text", ["some=5", "uncertain=5", "", "diverse=0"])
def test_unusable_samples_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no sample"):
        RowSample.parse(text)
