"""A completion becomes a value or InvalidOutput, never a guess."""

from __future__ import annotations

import json
import math
import re
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.errors import InvalidScores, OutputSchemaError
from searchlora.outputs import (
    CitedAnswer,
    CitedText,
    ClosedSet,
    FreeText,
    Grade,
    Graded,
    InvalidOutput,
    JsonObject,
    Label,
    LabelSet,
    OneLabel,
    from_json,
    is_output_of,
    to_json,
)
from tests.factories import admission

SCALE = Graded({"Irrelevant": 0, "Related": 1, "Relevant": 2})
REASONED = Graded({"Related": 1, "Relevant": 2, "Exact": 2}, reasoned=True)
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
        (OneLabel(("buy", "return")), " return\n", Label("return")),
        (SCALE, "Related", Grade(1)),
        (REASONED, " Related\nIt is about tents, not boots.\n", Grade(1, reason="It is about tents, not boots.")),
        (REASONED, "Exact\n" + "é" * 300, Grade(2, reason="é" * 300)),
        (JsonObject(SCHEMA), '{"category": "boots", "price": 80}', {"category": "boots", "price": 80}),
        (CitedText(3, "I cannot answer."), "It is dry [1]. Cold too [3][1].", None),
        (CitedText(3, "I cannot answer."), "I cannot answer.", CitedAnswer("I cannot answer.", (), abstained=True)),
    ],
)
def test_valid_output_parses(spec, text, value):
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
        (SCALE, "Relevant\nIt answers.", "not a grade"),
        (REASONED, "It answers.\nRelevant", "not a grade"),
        (REASONED, "Relevant \nIt answers.", "not a grade"),
        (REASONED, "Relevant", "no reason"),
        (REASONED, "Relevant\n\nIt answers.", "no reason"),
        (REASONED, "Relevant\nIt answers.\nWell.", "no reason"),
        (REASONED, "Relevant\nIt\u2028answers.", "no reason"),
        (REASONED, "Relevant\n" + "x" * 301, "at most 300"),
        (JsonObject(SCHEMA), 'Here it is: {"category": "boots"}', "not JSON"),
        (JsonObject(SCHEMA), '{"category": "boots", "category": "tents"}', "twice"),
        (JsonObject(SCHEMA), '{"category": "shoes"}', "category"),
        (JsonObject(SCHEMA), '{"category": "boots", "price": NaN}', "NaN"),
        (CitedText(3, "I cannot answer."), "It is dry [4].", "passage 4"),
        (CitedText(3, "I cannot answer."), "It is dry [0].", "passage 0"),
        (CitedText(3, "I cannot answer."), "It is dry [1, 2].", "not a citation"),
    ],
)
def test_invalid_output_keeps_the_raw_text_with_a_reason(spec, text, reason):
    found = spec.parse(text)
    assert isinstance(found, InvalidOutput)
    assert found.raw == text
    assert reason in found.reason


@given(st.text(max_size=30))
def test_only_a_grade_parses_as_a_grade(text):
    found = SCALE.parse(text)
    assert isinstance(found, InvalidOutput) == (text.strip() not in SCALE.scale)


@given(st.lists(st.floats(-50, 0), min_size=3, max_size=3))
def test_grade_probabilities_sum_to_one(scores):
    grade = SCALE.from_scores(scores)
    assert math.isclose(sum(grade.probabilities), 1)
    assert scores[grade.value] >= max(scores) - 1e-9


def test_a_reason_follows_the_most_probable_label_of_its_grade():
    scored = REASONED.from_scores([-2.0, -3.0, -1.0])
    assert scored.value == 2 and scored.reason is None
    assert REASONED.answer_prefix(scored) == "Exact" + REASONED.choice_suffix
    assert REASONED.answer_prefix(Grade(1, scored.probabilities)) == "Related\n"
    assert REASONED.answer_prefix(Grade(2)) == "Relevant\n"
    assert REASONED.with_continuation(scored, "It answers. ") == Grade(2, scored.probabilities, "It answers.")
    assert REASONED.with_continuation(scored, InvalidOutput("It ans", "no end")) == scored
    assert SCALE.choice_suffix is None and SCALE.answer_prefix(scored) is None


CITED = CitedText(2, "I cannot say.")


@given(st.floats(-60, 0), st.floats(0, 1))
def test_an_answer_is_generated_below_the_abstention_threshold(score, threshold):
    value = CITED.from_scores([score])
    assert value.abstention_probability == pytest.approx(math.exp(score))
    assert value.abstained == (math.exp(score) >= 0.5)
    settled = CITED.at_threshold(value.abstention_probability, threshold)
    assert settled.abstained == (value.abstention_probability >= threshold)
    assert CITED.answer_prefix(settled) == (None if settled.abstained else "")
    assert (settled.text, settled.citations) == ("I cannot say." if settled.abstained else "", ())


def test_text_generated_after_abstention_scoring_is_parsed_strictly():
    value = CITED.at_threshold(0.25, 0.5)
    assert CITED.choices == ("I cannot say.",)
    assert CITED.with_continuation(value, "Dry [2].") == CitedAnswer(
        "Dry [2].", (2,), abstained=False, abstention_probability=0.25
    )
    assert CITED.with_continuation(value, "I cannot say.").abstained
    assert isinstance(CITED.with_continuation(value, "Dry [3]."), InvalidOutput)
    cut = InvalidOutput("Dry [", "no end")
    assert CITED.with_continuation(value, cut) == cut


@given(st.text(st.sampled_from("ab .\n\r\t\x1c\x85\u2028é"), max_size=8))
def test_every_reason_admitted_by_the_grammar_parses(text):
    admitted = re.fullmatch(REASONED.continuation.text, text) is not None
    found = REASONED.parse(f"Related\n{text}")
    assert isinstance(found, Grade) or not admitted
    assert found == Grade(1, reason=text.strip()) or not admitted
    assert admitted or isinstance(found, InvalidOutput) or text != text.rstrip()


@given(st.lists(st.floats(-50, 0), min_size=3, max_size=3))
def test_the_label_is_the_most_probable_one(scores):
    label = OneLabel(("a", "b", "c")).from_scores(scores)
    assert math.isclose(sum(label.probabilities), 1)
    assert label.value == "abc"[scores.index(max(scores))]


def test_closed_output_forms_list_their_choices():
    assert OneLabel(("a", "b")).choices == ("a", "b")
    assert SCALE.choices == ("Irrelevant", "Related", "Relevant")
    assert FreeText().choices is None
    assert [isinstance(spec, ClosedSet) for spec in (SCALE, OneLabel(("a", "b")), CITED, FreeText())] == [
        True,
        True,
        True,
        False,
    ]


@given(
    st.integers(0, 12),
    st.text(st.sampled_from("[]013 a.\n\x1c٣x"), max_size=12) | st.text(max_size=8) | st.just("No (none)."),
)
def test_the_grammar_of_cited_text_admits_exactly_what_parses(passages, text):
    spec = CitedText(passages, "No (none).")
    valid = not isinstance(spec.parse(text), InvalidOutput)
    admitted = re.fullmatch(spec.grammar.text, text) is not None
    assert valid or not admitted
    open_bracket = text.rfind("[") > text.rfind("]")
    other_number = re.search(r"\[(0\d*|[^\]\x00-\x7f]+)\]", text)  # [01], or digits that are not 0 to 9
    if valid and text == text.strip() and text[0] > "\x1f" and not open_bracket and not other_number:
        assert admitted


VALUES = [
    Label("buy", (0.75, 0.25)),
    Label("buy"),
    Grade(2, (0.1, 0.2, 0.7)),
    Grade(0),
    Grade(1, (0.1, 0.9), "It answers."),
    CitedAnswer("Dry [1][3].", (1, 3), abstained=False),
    CitedAnswer("No.", (), abstained=True, abstention_probability=0.75),
    InvalidOutput("raw [", "why"),
    {"label": "a key of the user's own", "value": [1, None]},
    ["a", "b"],
    "text",
    None,
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_outputs_round_trip_through_json(value):
    found = from_json(json.loads(json.dumps(to_json(value))))
    assert found == value
    assert type(found) is type(value)


def test_stored_grades_without_a_reason_field_are_read():
    assert from_json({"grade": {"value": 2, "probabilities": [0.25, 0.75]}}) == Grade(2, (0.25, 0.75))


def test_values_that_are_not_stored_outputs_are_errors():
    with pytest.raises(TypeError, match="FreeText is not an output"):
        to_json(FreeText())
    for kept, reason in (
        ({}, "one key"),
        ({"value": 1, "label": 2}, "one key"),
        ({"colour": "red"}, "not a type of output"),
        ({"label": {"name": "x"}}, "no stored label"),
        ({"grade": 3}, "no stored grade"),
        ({"grade": {"value": "2"}}, "no stored grade"),
        ({"grade": {"value": 1, "probabilities": [math.nan, 0.5]}}, "no stored grade"),
        ({"label": {"value": "x", "probabilities": ["1"]}}, "no stored label"),
        (["label"], "one key"),
        (5, "one key"),
    ):
        with pytest.raises(ValueError, match=reason):
            from_json(kept)


@pytest.mark.parametrize(
    ("form", "fits", "other"),
    [
        (OneLabel(("a", "b")), Label("a", (0.5, 0.5)), [Label("c"), Label("a", (1.0,)), "a", Grade(1)]),
        (Graded({"No": 0, "Yes": 2}), Grade(2), [Grade(1), Grade(2, (0.2, 0.2, 0.6)), Label("Yes"), None]),
        (FreeText(), "text", ["", ["text"], None, {"a": 1}, " text"]),
        (LabelSet(("a", "b")), ["a"], [["b", "a", "c"], "a", 5]),
        (JsonObject({"type": "object", "required": ["size"]}), {"size": 4}, [{}, "size", 7, None]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_stored_output_is_one_that_the_form_can_have(form, fits, other):
    assert is_output_of(form, fits) and is_output_of(form, InvalidOutput("x", "y"))
    assert not any(is_output_of(form, each) for each in other)


def test_duplicate_labels_are_refused():
    with pytest.raises(ValueError, match="all different"):
        OneLabel(("a", "a"))


@pytest.mark.parametrize("output", [{"tent", "boot"}, ("tent", "boot"), {1: "tent"}, [Label("tent")], {"to": Grade(1)}])
def test_outputs_that_do_not_round_trip_are_not_stored(output):
    with pytest.raises(TypeError):
        to_json(output)


CHOICE_SPECS = [OneLabel(("a", "b", "c")), SCALE, REASONED]
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("spec", CHOICE_SPECS, ids=repr)
@pytest.mark.parametrize(
    "scores",
    [
        [NAN, -1.0, -2.0],
        [-1.0, NAN, -2.0],
        [-1.0, -2.0, NAN],
        [NAN] * 3,
        [INF, -1.0, -2.0],
        [-INF] * 3,
        [-1.0, -INF, -2.0],
    ],
)
def test_non_finite_scores_are_an_error_and_never_the_first_choice(spec, scores):
    with pytest.raises(InvalidScores, match=r"the score of .* is (nan|inf|-inf)"):
        spec.from_scores(scores)


@pytest.mark.parametrize("spec", [*CHOICE_SPECS, CITED], ids=repr)
@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_wrong_number_of_scores_is_an_error(spec, count):
    with pytest.raises(InvalidScores, match=rf"{count} scores for"):
        spec.from_scores([-1.0] * count)


@pytest.mark.parametrize("score", [NAN, INF, -INF])
def test_the_score_of_an_abstention_is_a_number(score):
    with pytest.raises(InvalidScores, match="I cannot say"):
        CITED.from_scores([score])


@pytest.mark.parametrize(
    "make", [lambda p: Label("a", (p, 0.5)), lambda p: Grade(1, (0.5, p)), lambda p: CITED.at_threshold(p, 0.5)]
)
@pytest.mark.parametrize("probability", [NAN, INF, -0.1, 1.1])
def test_no_output_has_an_invalid_probability(make, probability):
    with pytest.raises(InvalidScores, match="not between 0 and 1"):
        make(probability)


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{port}/s.json", "file:///etc/passwd", "other.json", "#/$defs/none"]
)
def test_external_schema_references_are_never_fetched(keyword, target):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        schema = {"properties": {"a": {keyword: target.format(port=server.server_port)}}}
        with pytest.raises(OutputSchemaError, match="nothing is fetched"):
            JsonObject(schema).parse('{"a": 1}')
    finally:
        server.shutdown()
    assert asked == []


def test_references_inside_the_schema_are_resolved_and_cycles_are_an_error():
    inside = JsonObject({"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}})
    assert inside.parse('{"a": 1}') == {"a": 1}
    assert isinstance(inside.parse('{"a": "x"}'), InvalidOutput)
    with pytest.raises(OutputSchemaError, match="without end"):
        JsonObject({"$ref": "#"}).parse("1")


# Label lists: strict parsing, and the grammar

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
