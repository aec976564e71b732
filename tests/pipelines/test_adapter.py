"""The adapter stage: constrained output, or unconstrained output parsed strictly."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.outputs import (
    CitedAnswer,
    CitedText,
    FreeText,
    Grade,
    Graded,
    InvalidOutput,
    JsonObject,
    Label,
    OneLabel,
)
from searchlora.pipelines.stages import adapter
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.prompts import messages
from tests.factories import FirstWord, first_word, random_adapter_folder, word_records

RECORDS = word_records(6)
LABELS = OneLabel(("tent", "tents", "boot", "a lamp that burns"))
GRADES = Graded({"bad": 0, "fair": 1, "good": 2})
REASONED = replace(GRADES, reasoned=True)
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
    engine.load_folder("made", random_adapter_folder(tiny_base, tmp_path_factory.mktemp("stages") / "made", seed=4)[0])
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
def test_choices_are_scored_over_all_tokens_with_probabilities(stage, engine, form, kind):
    asked = stage(form)
    outputs = asked.ask(RECORDS)
    requests = [Request(messages(asked.task, record), "made") for record in RECORDS]
    for output, scored in zip(outputs, engine.score(requests, [form.choices] * 6), strict=True):
        assert isinstance(output, kind)
        assert math.isclose(sum(output.probabilities), 1)
        weights = [math.exp(score) for score in scored.log_probabilities]
        assert output.probabilities == pytest.approx([each / sum(weights) for each in weights], abs=1e-3)
        assert output.value == form.from_scores(weights).value


def test_constrained_finished_answers_are_valid(stage):
    assert all(output["colour"] in ("red", "green") for output in stage(COLOUR).ask(RECORDS))


@pytest.mark.slow
@pytest.mark.parametrize("form", [LABELS, GRADES, REASONED, COLOUR, CitedText(2, "I do not know."), FreeText()])
def test_unconstrained_answers_are_parsed(stage, engine, form):
    asked = stage(form, constrained=False)
    completions = written(asked, engine)
    assert {completion.finish for completion in completions} == {"stop", "length"}
    for output, completion in zip(asked.ask(RECORDS), completions, strict=True):
        cut = InvalidOutput(completion.text, "no end within 40 tokens")
        assert output == (form.parse(completion.text) if completion.finish == "stop" else cut)


def test_a_truncated_constrained_answer_is_invalid(stage):
    for output in stage(COLOUR, tokens=6).ask(RECORDS):
        assert isinstance(output, InvalidOutput)
        assert output.reason == "no end within 6 tokens"
        assert output.raw.startswith("{")


class Halving(Held):
    """Keeps the first half of a text that is cut off."""

    def whole_part(self, text):
        return text[: len(text) // 2] or None


@pytest.mark.parametrize("form", [FreeText(multiline=True), CitedText(2, "I do not know.")])
def test_of_a_truncated_answer_the_task_keeps_what_is_whole(stage, form):
    cut, halved = stage(form, tokens=6).ask(RECORDS), stage(form, tokens=6, of=Halving).ask(RECORDS)
    raw = {place: each.raw for place, each in enumerate(cut) if isinstance(each, InvalidOutput)}
    assert raw
    for place, text in raw.items():
        kept = halved[place]
        assert (kept.text if isinstance(kept, CitedAnswer) else kept) == text[: len(text) // 2].strip()


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_grade_followed_by_a_reason_is_scored_to_the_end_of_its_line(stage, engine):
    asked = stage(REASONED, tokens=1300)
    requests = [Request(messages(asked.task, record), "made", choice_suffix="\n") for record in RECORDS[:2]]
    scored = engine.score(requests, [REASONED.choices] * 2)
    for place, output in enumerate(asked.ask(RECORDS[:2])):
        graded = REASONED.from_scores(scored[place].log_probabilities)
        assert output.value == graded.value
        assert output.probabilities == pytest.approx(graded.probabilities, abs=1e-3)
        assert REASONED.parse(f"{REASONED.choices[output.value]}\n{output.reason}").reason == output.reason


def test_a_truncated_reason_is_dropped_and_the_grade_kept(stage):
    cut, left_out = (
        stage(REASONED, tokens=2).ask(RECORDS),
        replace(stage(REASONED), continue_after_choice=False).ask(RECORDS),
    )
    assert cut == left_out
    assert all(output.reason is None and output.probabilities for output in cut)


@pytest.mark.slow
def test_a_reason_is_generated_after_the_tuned_grade(stage, engine):
    asked = stage(REASONED, tokens=1300, of=Harsh)
    (output,) = asked.ask(RECORDS[:1])
    behind = Request(messages(asked.task, RECORDS[0]), "made", 1300, REASONED.continuation, answer_prefix="bad\n")
    assert (output.value, output.reason) == (0, engine.generate([behind])[0].text.strip())


CITED = CitedText(2, "I do not know.")


class Abstaining(Held):
    """Abstains where the abstention is likelier than it is for half of the records."""

    def apply_tuning(self, output, record):
        del record
        return CITED.at_threshold(output.abstention_probability, self.least)


def test_an_abstention_is_scored_and_other_answers_are_generated_under_the_grammar(stage, engine):
    asked = stage(CITED, tokens=30, of=Abstaining)
    requests = [Request(messages(asked.task, record), "made") for record in RECORDS]
    scores = [each.log_probabilities[0] for each in engine.score(requests, [CITED.choices] * 6)]
    asked.task.least = sorted(map(math.exp, scores))[3]
    outputs = asked.ask(RECORDS)
    behind = [replace(request, max_new_tokens=30, grammar=CITED.continuation) for request in requests]
    for output, score, wanted in zip(outputs, scores, engine.generate(behind), strict=True):
        if math.exp(score) >= asked.task.least:
            assert (output.text, output.abstained) == ("I do not know.", True)
        elif wanted.finish == "stop":
            assert output.text == wanted.text.strip()
        else:
            assert output == InvalidOutput(wanted.text, "no end within 30 tokens")
        if isinstance(output, CitedAnswer):
            assert output.abstention_probability == pytest.approx(math.exp(score), rel=1e-3)
    assert sum(isinstance(output, CitedAnswer) and output.abstained for output in outputs) == 3
    unwritten = replace(asked, continue_after_choice=False).ask(RECORDS)
    assert [output.text for output in unwritten if not output.abstained] == [""] * 3


def test_a_scored_prompt_is_not_prefilled_again_for_generation(tiny_base, tmp_path):
    engine = LocalEngine(tiny_base, precision="fp32")
    task = Abstaining(first_word(tmp_path / "task").folder)
    task.forms, task.least = (CITED,), 1.0
    AdapterStage(task, engine, None, 3).ask(RECORDS[:1])
    stats = engine.stats()
    tokens = len(engine.renderer.prompt_ids(messages(task, RECORDS[0])))
    assert (stats.prompt_tokens, stats.cached_prompt_tokens) == (2 * tokens, tokens - 1)


class Harsh(Held):
    def apply_tuning(self, output, record):
        del record
        return replace(output, value=0)


class Settling(Held):
    def apply_tuning(self, output, record):
        return (output, record["id"])


def test_tuning_is_applied_to_valid_outputs_only(stage):
    found = stage(COLOUR, of=Settling).ask(RECORDS)
    assert [settled_for for _, settled_for in found] == [record["id"] for record in RECORDS]
    assert all(isinstance(output, InvalidOutput) for output in stage(COLOUR, tokens=2, of=Settling).ask(RECORDS))


@pytest.mark.slow
def test_a_prompt_is_rendered_once_for_the_choice_and_what_follows_it(tiny_base, tmp_path, monkeypatch):
    engine = LocalEngine(tiny_base, precision="fp32")
    task = Held(first_word(tmp_path / "task").folder)
    task.forms = (REASONED,)
    rendered: list[str] = []
    monkeypatch.setattr(adapter, "messages", lambda of, record: rendered.append(record["id"]) or messages(of, record))
    AdapterStage(task, engine, None, 8).ask(RECORDS[:3])
    assert rendered == [record["id"] for record in RECORDS[:3]]
