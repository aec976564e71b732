"""Plugin discovery."""

from __future__ import annotations

import sys

import pytest

from searchlora.errors import RecipeError, RenderError, UsageError
from searchlora.outputs import InvalidOutput
from searchlora.prompts import messages
from searchlora.rewards import INVALID, RewardContext
from searchlora.task import EvaluationInput, load_generation_task, load_task, load_tasks
from tests.contract.foreign import build_distribution


def test_an_installed_distribution_is_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(build_distribution(tmp_path))
    assert load_task("colour").version == 3
    sys.modules.pop("colour")


def test_a_folder_of_tasks_is_found_without_packaging(tmp_path, monkeypatch):
    build_distribution(tmp_path)
    assert load_task("colour", tmp_path).folder == tmp_path / "colour"
    monkeypatch.setenv("SEARCHLORA_TASKS", str(tmp_path))
    assert load_task("colour").name == "colour"


def test_an_unreadable_recipe_is_named(tmp_path):
    build_distribution(tmp_path)
    file = tmp_path / "colour" / "recipe.yaml"
    file.write_text("max_length: 8: 9\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="is not YAML") as refused:
        _ = load_task("colour", tmp_path).default_recipe
    assert refused.value.where == str(file)


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"no task 'colours'\. Known tasks: .*rewriting"):
        load_task("colours")


def test_two_tasks_of_one_name_are_refused(tmp_path):
    (tmp_path / "rewriting").mkdir()
    (tmp_path / "rewriting" / "__init__.py").write_text("task = 1\n", encoding="utf-8")
    with pytest.raises(UsageError, match="two tasks called 'rewriting'"):
        load_task("rewriting", tmp_path)


def test_a_missing_tasks_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not a folder of tasks"):
        load_tasks(tmp_path / "none")


@pytest.mark.parametrize(
    "template", ["{{ query + 1 }}", "{{ 1 / 0 }}", "{{ query.nothing.more }}", "{{ query[:'x'] }}"]
)
def test_a_prompt_that_fails_on_a_value_names_the_record(tmp_path, template):
    folder = build_distribution(tmp_path) / "colour"
    (folder / "prompt.jinja").write_text("{% block user %}" + template + "{% endblock %}", encoding="utf-8")
    with pytest.raises(RenderError, match=r"record r7: the prompt cannot be rendered"):
        messages(load_generation_task("colour", tmp_path), {"id": "r7", "group": "g", "query": "red"})


def test_an_input_needs_one_output_per_record():
    with pytest.raises(ValueError, match="there are 1 outputs for 2 records"):
        EvaluationInput([{"id": "1", "group": "a"}, {"id": "2", "group": "b"}], ["x"])


def test_the_folder_of_a_task_defaults_to_that_of_its_class(tmp_path):
    folder = build_distribution(tmp_path) / "colour"
    source = (folder / "__init__.py").read_text(encoding="utf-8")
    assert "    def __init__(self):\n        super().__init__(Path(__file__).parent)\n" in source
    (folder / "__init__.py").write_text(
        source.replace("    def __init__(self):\n        super().__init__(Path(__file__).parent)\n", ""),
        encoding="utf-8",
    )
    assert load_task("colour", tmp_path).folder == folder


def test_the_default_reward_is_the_headline_of_each_record():
    task = load_generation_task("intent")
    bound = task.bound(task.settings_of({}, task.examples))
    record = bound.examples[0]
    right, wrong = (bound.parse(bound.target(each), record) for each in (record, bound.examples[1]))
    records = [record, record, record]
    rewards = bound.reward(records, [right, wrong, InvalidOutput("?", "no label")], RewardContext(measure="accuracy"))
    assert rewards == [1.0, 0.0, INVALID]
    with pytest.raises(UsageError, match="'kappa' has no value per record"):
        bound.reward(records[:1], [right], RewardContext(measure="kappa"))


def test_a_judgment_is_rewarded_by_its_distance_from_the_grade():
    task = load_generation_task("judgment")
    record = {**task.examples[0], "grade": 3}
    outputs = [task.parse(text, record) for text in ("3", "2", "0", "nine")]
    assert task.reward([record] * 4, outputs, RewardContext()) == [1.0, pytest.approx(2 / 3), 0.0, INVALID]


def test_candidates_by_default_are_the_target():
    task = load_generation_task("judgment")
    (made,) = task.candidates(task.examples[:1], task.folder, RewardContext())
    assert made == {"reference": task.target(task.examples[0])}
