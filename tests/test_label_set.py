"""Label lists: strict parsing, and the grammar."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.outputs import InvalidOutput, LabelSet
from tests.factories import admission

FORM = LabelSet(("a", 'b "quoted"', "c d", "ü"))


@pytest.fixture(scope="module")
def admits(tiny_base):
    return admission(tiny_base, FORM)


def _written(labels) -> str:
    return json.dumps(labels, ensure_ascii=False, separators=(",", ":"))


def test_every_label_set_in_order_is_admitted_and_parses(admits):
    for bits in range(2 ** len(FORM.labels)):
        chosen = [label for place, label in enumerate(FORM.labels) if bits >> place & 1]
        assert admits(_written(chosen)), chosen
        assert FORM.parse(_written(chosen)) == chosen


@given(st.lists(st.sampled_from([*FORM.labels, "else"]), max_size=5))
def test_a_list_parses_if_its_labels_are_known_and_distinct(labels):
    found = FORM.parse(json.dumps(labels))
    if "else" in labels or len(set(labels)) < len(labels):
        assert isinstance(found, InvalidOutput)
    else:
        assert found == [label for label in FORM.labels if label in labels]


@pytest.mark.parametrize("text", ['["c d","a"]', '["a","a"]', '["else"]', '["a",]', "[", "", '"a"'])
def test_other_text_is_not_admitted(admits, text):
    assert not admits(text)


@pytest.mark.parametrize(
    "text",
    ['"a"', "a", '{"a": 1}', '[["a"]]', "[1]", '["a"] and more', "[null]", "[null, {}]", "[" * 100_000],
    ids=lambda text: text[:12],
)
def test_other_text_is_invalid(text):
    assert isinstance(FORM.parse(text), InvalidOutput)
