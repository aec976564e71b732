"""Contract of every task: each installed task, built-in or not."""

from __future__ import annotations

import jsonschema
import pytest

from searchlora.data import build, load_dataset
from searchlora.data.validation import RecordCheck
from searchlora.experiments.training_runs import recipe_for
from searchlora.outputs import InvalidOutput
from searchlora.prompts import input_text, messages
from searchlora.shop import make_shop
from searchlora.task import EncoderTask, EvaluationInput, GenerationTask, load_tasks

TASKS = load_tasks()
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@every_task
def test_task_has_a_known_type_and_all_files(task):
    assert isinstance(task, GenerationTask | EncoderTask)
    jsonschema.validators.validator_for(task.record_schema).check_schema(task.record_schema)
    assert {"id", "group"} <= set(task.record_schema["required"])
    assert recipe_for(task).base
    assert (task.folder / "README.md").is_file()


@every_task
def test_examples_are_valid_distinct_records(task):
    check = RecordCheck(task.record_schema)
    assert len(task.examples) >= 2
    assert [check.fault(record) for record in task.examples] == [None] * len(task.examples)
    assert len({input_text(task, record) for record in task.examples}) == len(task.examples)


@every_task
def test_formats_are_described_and_include_native_and_shop(task):
    assert {"native", "shop"} <= task.formats.keys()
    for name, format in task.formats.items():
        assert format.name == name and format.description
        assert all(option.meaning and option.type for option in format.options.values())


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shops") / "shop"
    make_shop(folder, products=600, queries=200)
    return folder


@pytest.mark.slow
@every_task
def test_targets_of_a_built_dataset_parse_and_baselines_are_measured(task, shop, tmp_path):
    build(task, shop, format="shop", out=tmp_path / "data", on_leak="drop")
    dataset = load_dataset(tmp_path / "data", task)
    bound, records = task.bound(dataset.settings), dataset.records("test")
    if isinstance(task, GenerationTask):
        assert not any(
            isinstance(bound.parse(bound.target(r), r), InvalidOutput) for r in records if bound.has_target(r)
        )
    baselines = bound.baselines(records, dataset.folder)
    assert bound.upper_bounds <= baselines.keys() and (bound.learned_baselines(records) or set()) <= baselines.keys()
    for outputs in baselines.values():
        evaluation = bound.evaluate(EvaluationInput(records, outputs))
        assert evaluation.headline in {**evaluation.values, **evaluation.aggregates} and not evaluation.invalid
        assert set(evaluation.clusters) == {record["id"] for record in records}
        worst = bound.evaluate(EvaluationInput(records, [InvalidOutput("?", "no")] * len(records)))
        assert set(worst.invalid) == {record["id"] for record in records}


@every_task
def test_bound_returns_a_copy_with_other_settings(task):
    bound = task.bound({"made": True}, {"tuned": 1})
    assert (bound.settings, bound.tuned, bound.name) == ({"made": True}, {"tuned": 1}, task.name)
    assert (task.settings, task.tuned) == (task.default_settings, {})


@pytest.mark.parametrize("task", [task for task in TASKS.values() if isinstance(task, EncoderTask)])
def test_an_encoder_task_has_texts_for_golden_vectors(task):
    for record in task.examples:
        assert task.query(record).strip() and task.target(record).strip()
        assert (task.label(record) is None) == bool(task.positives(record))


@pytest.mark.parametrize("task", [task for task in TASKS.values() if isinstance(task, GenerationTask)])
def test_examples_render(task):
    bound = task.bound(task.settings_of({}, task.examples))
    for record in task.examples:
        assert messages(bound, record)[-1]["role"] == "user"
        assert bound.target(record).strip()


@pytest.mark.parametrize("task", [task for task in TASKS.values() if isinstance(task, GenerationTask)])
def test_template_syntax_in_data_and_settings_stays_text(task):
    """Nothing of a record, and no setting, is ever evaluated as a template."""
    attack = "{{ 7 * 7 }}{% for x in range(9) %}x{% endfor %}{{ self.__class__ }}"

    def planted(value):
        if isinstance(value, str):
            return f"{value} {attack}"
        if isinstance(value, dict):
            return {
                key: text if key in ("role", "id", "grade", "kind") else planted(text) for key, text in value.items()
            }
        return [planted(item) for item in value] if isinstance(value, list) else value

    bound = task.bound(task.settings_of({}, task.examples))
    kept = {"kind": bound.settings["kind"]} if "kind" in bound.settings else {}
    attacked = task.bound({**planted(dict(bound.settings)), **kept})
    for record in task.examples:
        shown = "".join(message["content"] for message in messages(attacked, {**planted(dict(record)), "id": "1"}))
        assert attack in " ".join(shown.split()) or "{{" in shown
        assert "49" not in shown and "xxxxxxxxx" not in shown and "TemplateReference" not in shown
