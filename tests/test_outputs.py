"""A completion becomes a value or InvalidOutput, never a guess."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.outputs import CitedAnswer, CitedText, FreeText, Grade, Graded, InvalidOutput, JsonObject, OneLabel

SCALE = Graded({"Irrelevant": 0, "Related": 1, "Relevant": 2})
SCHEMA = {
    "type": "object",
    "properties": {"category": {"enum": ["tents", "boots"]}, "price": {"type": "number"}},
    "required": ["category"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("spec", "text", "value"),
    [
        (FreeText(), " tents for two \n", "tents for two"),
        (FreeText(multiline=True), "a\nb", "a\nb"),
        (OneLabel(("buy", "return")), " return\n", "return"),
        (SCALE, "Related", Grade(1)),
        (JsonObject(SCHEMA), '{"category": "boots", "price": 80}', {"category": "boots", "price": 80}),
        (CitedText(3, "I cannot answer."), "It is dry [1]. Cold too [3][1].", None),
        (CitedText(3, "I cannot answer."), "I cannot answer.", CitedAnswer("I cannot answer.", (), abstained=True)),
    ],
)
def test_good_output_parses(spec, text, value):
    found = spec.parse(text)
    if value is None:
        value = CitedAnswer(text, (1, 3), abstained=False)
    assert found == value


@pytest.mark.parametrize(
    ("spec", "text", "reason"),
    [
        (FreeText(), "  ", "empty"),
        (FreeText(), "one\ntwo", "more than one line"),
        (FreeText(max_chars=3), "four", "longer than 3"),
        (OneLabel(("buy", "return")), "Return", "not one of the labels"),
        (OneLabel(("buy", "return")), "return it", "not one of the labels"),
        (SCALE, "2", "not a grade"),
        (SCALE, "Relevant, I think: 2", "not a grade"),
        (JsonObject(SCHEMA), 'Here it is: {"category": "boots"}', "not JSON"),
        (JsonObject(SCHEMA), '{"category": "boots", "category": "tents"}', "twice"),
        (JsonObject(SCHEMA), '{"category": "shoes"}', "category"),
        (JsonObject(SCHEMA), '{"category": "boots", "price": NaN}', "NaN"),
        (CitedText(3, "I cannot answer."), "It is dry [4].", "passage 4"),
        (CitedText(3, "I cannot answer."), "It is dry [0].", "passage 0"),
        (CitedText(3, "I cannot answer."), "It is dry [1, 2].", "no citation"),
    ],
)
def test_bad_output_is_kept_whole_with_its_reason(spec, text, reason):
    found = spec.parse(text)
    assert isinstance(found, InvalidOutput)
    assert found.raw == text
    assert reason in found.reason


@given(st.text(max_size=30))
def test_no_text_becomes_a_grade_unless_it_is_one(text):
    found = SCALE.parse(text)
    assert isinstance(found, InvalidOutput) == (text.strip() not in SCALE.scale)


@given(st.lists(st.floats(-50, 0), min_size=3, max_size=3))
def test_grade_probabilities_sum_to_one(scores):
    grade = SCALE.from_scores(scores)
    assert math.isclose(sum(grade.probabilities), 1)
    assert scores[grade.value] >= max(scores) - 1e-9


def test_closed_sets_give_their_choices():
    assert OneLabel(("a", "b")).choices == ("a", "b")
    assert SCALE.choices == ("Irrelevant", "Related", "Relevant")
    assert FreeText().choices is None


def test_a_label_twice_is_refused():
    with pytest.raises(ValueError, match="all different"):
        OneLabel(("a", "a"))
