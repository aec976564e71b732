"""The table of architectures is what the engine does now, and the page shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.architectures import ARCHITECTURES, measure, table
from benchmarks.common import RESULTS

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "choose-an-engine.md"


@pytest.fixture(scope="module")
def saved():
    return json.loads((RESULTS / "architectures.json").read_text(encoding="utf-8"))["architectures"]


def test_the_page_shows_the_saved_table(saved):
    assert [row["name"] for row in saved] == list(ARCHITECTURES)
    assert table(saved) in PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_computed_as_the_table_says(saved, name):
    now, then = measure(name), next(row for row in saved if row["name"] == name)
    # Equal bits of an architecture without the promise depend on the processor.
    promised = now if then["bits_equal"] == then["n"] else {**now, "bits_equal": then["bits_equal"]}
    assert promised == {**then, "max_difference": now["max_difference"]}
    assert now["max_difference"] < 1e-4
