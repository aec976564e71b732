"""Grades with a reason: requested, parsed, rejected where it is missing; without one nothing changes."""

from __future__ import annotations

import pytest

from searchlora.adapters.golden import prompt_hash
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.errors import RejectedRows, TrainingError, UsageError
from searchlora.experiments.training_runs import recipe_for
from searchlora.models.load import load_tokenizer
from searchlora.outputs import Grade
from searchlora.prompts import Renderer, messages
from searchlora.tasks.judgment import task
from searchlora.tasks.judgment.tuning import with_tuning
from searchlora.training.rows import render_rows
from tests.factories import native_dataset, read_jsonl

REASONED = task.bound({**task.default_settings, "reason": True})
PAIR = {"id": "1", "group": "g", "query": "a tent", "passage": "It sleeps two.", "grade": 2}

#: Of template and default settings; another one means another version of the prompt.
HASH = "22f7c65e405f7ae622591a6c6ef7f80d2ebc3f68955ddf25299675cd0118ba00"


def test_without_reasons_prompt_settings_and_recipe_are_unchanged():
    assert prompt_hash(task) == HASH
    system, user = (each["content"] for each in messages(task, PAIR))
    assert user == "Passage: It sleeps two.\nQuery: a tent"
    assert [line[:3] for line in system.splitlines()[1:-1]] == ["0 =", "1 =", "2 =", "3 ="]  # the rest is in the hash
    assert task.settings_of({}, []) == task.settings_of({"reason": "no"}, []) == task.default_settings
    assert "reason" not in task.default_settings
    assert recipe_for(task).max_new_tokens == 4
    assert [task.target(record) for record in task.examples] == ["3", "1", "2", "0"]
    assert task.output(PAIR).choice_suffix is None


def test_with_reasons_only_the_last_instruction_differs():
    assert REASONED.settings == task.settings_of({"reason": "yes"}, [])
    asked, plain = (messages(each, PAIR) for each in (REASONED, task))
    assert asked[1] == plain[1]
    *before, last = asked[0]["content"].splitlines()
    *ever, only = plain[0]["content"].splitlines()
    assert before == ever and only == "Reply with the grade only."
    assert last == "Write the grade, and on the next line one short sentence that says why."
    assert prompt_hash(REASONED) != HASH
    assert recipe_for(REASONED).max_new_tokens == 80
    assert recipe_for(REASONED, overrides=["max_new_tokens=9"]).max_new_tokens == 9


def test_the_target_parses_as_the_output_form():
    for record in REASONED.examples:
        assert REASONED.parse(REASONED.target(record), record) == Grade(record["grade"], reason=record["reason"])
    assert REASONED.target({**PAIR, "reason": " Room\nfor  two. "}) == "2\nRoom for two."
    assert REASONED.target(PAIR) == "2"  # of a test row, in a report


def rows_with(*changes):
    """Rows that differ in the given fields; None removes a field."""
    rows = []
    for number, change in enumerate(changes):
        row = {**PAIR, "id": f"{number}", "group": f"g{number}", "passage": f"It sleeps {number}.", "reason": "Room."}
        row["grade"] = 2 - 2 * (number % 2)  # a judge is refused that sees one side only
        rows.append({name: value for name, value in {**row, **change}.items() if value is not None})
    return rows


def built(tmp_path, *changes, out="data", **options):
    rows = rows_with(*changes)
    return load_dataset(native_dataset(task, tmp_path / out, rows, options=options, split_ratios=(1.0, 0.0, 0.0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reason": None}, "field 'reason' is missing"),
        ({"reason": "x" * 301}, "field 'reason': no reason of one line, at most 300 characters"),
        ({"reason": " \n"}, "field 'reason': no reason of one line"),
        ({"reason": 3}, "3 is not of type 'string'"),
    ],
)
def test_a_row_with_an_unusable_reason_is_rejected_with_its_position(tmp_path, change, message):
    with pytest.raises(RejectedRows):
        built(tmp_path, {}, change, reason="yes")
    (refused,) = read_jsonl(tmp_path / "data.rejected.jsonl")
    assert message in refused["reason"] and "line 2" in refused["where"]


def test_an_official_test_split_needs_no_reasons(tmp_path):
    test = {"split": "test", "reason": None}
    train = [{"split": "train"}] * 2
    dataset = built(tmp_path, *train, {"split": "validation"}, test, reason="yes")
    assert dataset.settings == REASONED.settings
    assert [len(dataset.records(split)) for split in ("train", "validation", "test")] == [2, 1, 1]
    with pytest.raises(RejectedRows):
        built(tmp_path, {"split": "train"}, {**test, "split": "validation"}, out="other", reason="yes")


def test_reasons_are_ignored_without_the_option(tmp_path):
    dataset = built(tmp_path, {}, {"reason": None}, {"reason": "x" * 301})
    assert dataset.settings is None and len(dataset.records("train")) == 3


def test_an_invalid_option_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="--option reason: 'true' is neither yes nor no"):
        built(tmp_path, {}, reason="true")
    with pytest.raises(UsageError, match="format 'shop' has no option 'reason'"):
        build(task, tmp_path, format="shop", out=tmp_path / "shop", options={"reason": "yes"})


def test_a_row_without_a_reason_is_not_trained_on(tiny_base):
    renderer, recipe = Renderer(load_tokenizer(tiny_base)), recipe_for(REASONED, overrides=["max_length=2000"])
    whole = {**PAIR, "reason": "Room for two."}
    (row,) = render_rows(REASONED, renderer, [whole], recipe).examples
    assert renderer.decode(row.input_ids[row.prompt_length :]) == "2\nRoom for two."
    with pytest.raises(TrainingError, match=r"record 1: the task cannot parse its target .*no reason of one line"):
        render_rows(REASONED, renderer, [{**whole, "id": "0"}, PAIR], recipe)


@pytest.mark.parametrize("key", ["thresholds", "cuts"])  # `cuts` in manifests up to schema version 3
def test_tuning_keeps_a_reason_with_its_grade_and_drops_one_of_another(key):
    output = Grade(0, (0.5, 0.3, 0.1, 0.1), "It is about boots.")
    tempered = with_tuning(output, {"temperature": 2.0}, (0, 1, 2, 3))
    assert tempered.reason == output.reason and tempered.probabilities != output.probabilities
    assert with_tuning(output, {key: [2, 2.5, 2.8]}, (0, 1, 2, 3)) == output
    assert with_tuning(output, {key: [0.1, 0.2, 2]}, (0, 1, 2, 3)) == Grade(2, output.probabilities)
