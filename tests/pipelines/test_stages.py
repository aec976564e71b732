"""The adapter stage holds a model to the form of its task's output, or lets it write and parses strictly."""

from __future__ import annotations

import math

import pytest

from searchlora.errors import EngineError
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.outputs import CitedText, FreeText, Grade, Graded, InvalidOutput, JsonObject, Label, OneLabel
from searchlora.pipelines.stages import AdapterStage
from searchlora.prompts import messages
from tests.made import made_folder
from tests.words import FirstWord, first_word, word_records

RECORDS = word_records(6)
LABELS = OneLabel(("tent", "tents", "boot", "a lamp that burns"))
GRADES = Graded({"bad": 0, "fair": 1, "good": 2})
COLOUR = JsonObject({"type": "object", "properties": {"colour": {"enum": ["red", "green"]}}, "required": ["colour"],
                     "additionalProperties": False})  # fmt: skip


class Held(FirstWord):
    """The task of words with the outputs given, one form after the other."""

    forms = ()

    def output(self, record):
        return self.forms[int(record["id"][1:]) % len(self.forms)]


@pytest.fixture(scope="module")
def engine(tiny_base, tmp_path_factory) -> LocalEngine:
    engine = LocalEngine(tiny_base, precision="fp32")
    engine.load_folder("made", made_folder(tiny_base, tmp_path_factory.mktemp("stages") / "made", seed=4)[0])
    return engine


@pytest.fixture
def stage(engine, tmp_path):
    def made(*forms, tokens=40, constrained=True, of=Held):
        task = of(first_word(tmp_path / "task").folder)
        task.forms = forms
        return AdapterStage(task, engine, "made", tokens, constrained)

    return made


def written(stage, engine):
    """What the model writes when nothing holds it."""
    return engine.generate([Request(messages(stage.task, record), "made", stage.max_new_tokens) for record in RECORDS])


@pytest.mark.parametrize(("form", "kind"), [(LABELS, Label), (GRADES, Grade)])
def test_choices_are_scored_whole_and_come_with_probabilities(stage, engine, form, kind):
    asked = stage(form)
    outputs = asked.ask(RECORDS)
    requests = [Request(messages(asked.task, record), "made") for record in RECORDS]
    for output, scored in zip(outputs, engine.score(requests, [form.choices] * 6), strict=True):
        assert isinstance(output, kind)
        assert math.isclose(sum(output.probabilities), 1)
        weights = [math.exp(score) for score in scored.log_probabilities]
        assert output.probabilities == pytest.approx([each / sum(weights) for each in weights], abs=1e-3)
        assert output.value == form.from_scores(weights).value


def test_a_grammar_makes_every_finished_answer_valid(stage):
    assert all(output["colour"] in ("red", "green") for output in stage(COLOUR).ask(RECORDS))


@pytest.mark.parametrize("form", [LABELS, GRADES, COLOUR, CitedText(2, "I do not know."), FreeText()])
def test_without_constraint_what_was_written_is_parsed(stage, engine, form):
    asked = stage(form, constrained=False)
    completions = written(asked, engine)
    assert {completion.finish for completion in completions} == {"stop", "length"}
    for output, completion in zip(asked.ask(RECORDS), completions, strict=True):
        cut = InvalidOutput(completion.text, "no end within 40 tokens")
        assert output == (form.parse(completion.text) if completion.finish == "stop" else cut)


def test_free_text_is_the_same_with_and_without_constraint(stage):
    assert stage(FreeText()).ask(RECORDS) == stage(FreeText(), constrained=False).ask(RECORDS)


def test_an_answer_that_was_cut_is_invalid_though_a_grammar_held_it(stage):
    for output in stage(COLOUR, tokens=6).ask(RECORDS):
        assert isinstance(output, InvalidOutput)
        assert output.reason == "no end within 6 tokens"
        assert output.raw.startswith("{")


def test_records_of_different_forms_are_answered_in_order(stage):
    mixed = stage(LABELS, COLOUR, FreeText()).ask(RECORDS)
    alone = [stage(form).ask(RECORDS) for form in (LABELS, COLOUR, FreeText())]
    for place, output in enumerate(mixed):
        wanted = alone[place % 3][place]
        if isinstance(wanted, Label):
            assert output.value == wanted.value
            assert output.probabilities == pytest.approx(wanted.probabilities, abs=1e-3)
        else:
            assert output == wanted
    assert stage(LABELS).ask([]) == []


class Settling(Held):
    def settle(self, output, record):
        return (output, record["id"])


def test_valid_outputs_are_settled_and_invalid_ones_are_not(stage):
    found = stage(COLOUR, of=Settling).ask(RECORDS)
    assert [settled_for for _, settled_for in found] == [record["id"] for record in RECORDS]
    assert all(isinstance(output, InvalidOutput) for output in stage(COLOUR, tokens=2, of=Settling).ask(RECORDS))


def test_a_schema_that_cannot_be_kept_to_is_refused(stage):
    with pytest.raises(EngineError, match="request 1: generation cannot be constrained to this JSON Schema"):
        stage(JsonObject({"type": "array", "uniqueItems": True})).ask(RECORDS)
