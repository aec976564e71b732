"""Plugin discovery."""

from __future__ import annotations

import logging
import sys

import pytest

from searchlora import plugins
from searchlora.errors import RecipeError, RenderError, UsageError
from searchlora.outputs import InvalidOutput
from searchlora.prompts import messages
from searchlora.records import Hit
from searchlora.rewards import INVALID, RewardContext, rank_reward, retrieval_rewards
from searchlora.scaffold import new_task
from searchlora.task import EvaluationInput, load_generation_task, load_task, load_tasks, task_names
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


def test_unknown_and_repeated_names_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no task 'colours'\. Known tasks: .*rewriting"):
        load_task("colours")
    (tmp_path / "rewriting").mkdir()
    (tmp_path / "rewriting" / "__init__.py").write_text("task = 1\n", encoding="utf-8")
    with pytest.raises(UsageError, match="two tasks called 'rewriting'"):
        load_task("rewriting", tmp_path)
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


# Plugins that clash or cannot be imported block no command that does not ask for them


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Writes the metadata of a distribution with entry points, as an installer would do."""
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._warn.cache_clear()

    def write(name: str, *points: str) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text("[searchlora.tasks]\n" + "".join(f"{each}\n" for each in points))

    return write


def test_a_built_in_task_keeps_its_name_and_a_warning_names_both_distributions(install, caplog):
    install("evil-tasks", "rewriting = evil:task")
    with caplog.at_level(logging.WARNING):
        assert type(load_task("rewriting")).__name__ == "RewritingTask"
        load_task("intent")
    (record,) = caplog.records
    assert "evil-tasks 1.0 has another plugin 'rewriting'; that of searchlora" in record.getMessage()


def test_two_plugins_of_one_name_are_an_error_where_that_name_is_asked_for(install, tmp_path):
    install("one-tasks", "season = one:task")
    install("other-tasks", "season = other:task")
    assert load_task("rewriting").name == "rewriting"
    with pytest.raises(
        UsageError, match=r"(one|other)-tasks 1.0 and (one|other)-tasks 1.0 have a plugin 'season' each"
    ):
        load_task("season")
    with pytest.raises(UsageError, match="there is a task 'season' already"):
        new_task("season", "label", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "says"),
    [
        ("season = no_such_module:task", "cannot be imported .ModuleNotFoundError"),
        ("season = exiting:task", "cannot be imported .SystemExit"),
        ("season = os:path", "does not export a searchlora Task"),
        ("season = !!!", "cannot be imported"),
        ("season = searchlora.tasks.intent:task", "is named 'intent'"),
    ],
)
def test_a_broken_plugin_blocks_no_other_task(install, tmp_path, cli, point, says):
    (tmp_path / "exiting.py").write_text("raise SystemExit(0)\n")
    install("season-tasks", point)
    skipped: list[UsageError] = []
    assert "rewriting" in load_tasks(skipped=skipped.append)
    assert len(skipped) == 1
    assert "season" in task_names()
    with pytest.raises(UsageError, match=says):
        load_task("season")
    listed = cli("tasks", "list", "--json")
    assert listed.code == 0 and "warning: entry point season" in listed.err and '"rewriting"' in listed.out
    (tmp_path / "t.csv").write_text("query,rewrite\nsofa,couch\n")
    assert cli("data", "inspect", tmp_path / "t.csv").code == 0
    assert cli("data", "formats", "intent").code == 0
    assert cli("tasks", "show", "season").code == 2


def test_a_task_whose_files_are_damaged_does_not_block_the_list(cli, tmp_path):
    package = tmp_path / "tasks" / "colour"
    called = cli("tasks", "new", "colour", "--kind", "label", "--out", package.parent)
    assert called.code == 0, called.err
    (package / "record.schema.json").write_text("[" * 1000)
    listed = cli("tasks", "list", "--tasks", package.parent)
    assert listed.code == 0 and "warning: the task 'colour' cannot be described" in listed.err
    shown = cli("tasks", "show", "colour", "--tasks", package.parent)
    assert shown.code == 1 and "record.schema.json: is not JSON" in shown.err


# Rewards of queries by what they retrieve

QRELS = {"1": {"d3": 2, "d1": 1}, "2": {"d9": 1}, "3": {"d1": 0}}


class Retriever:
    """Documents d1 to d200 for every query; counts the queries."""

    def __init__(self):
        self.searched = []

    def search(self, queries, k):
        self.searched += queries
        ids = [f"d{n}" for n in range(1, 201)]
        return [[Hit(d, float(-n)) for n, d in enumerate(ids[:k] if q == "up" else ids[::-1][:k])] for q in queries]


def test_the_rank_reward_falls_from_two_to_zero():
    assert [rank_reward(rank) for rank in (1, 10, 100, 101, None)] == [2.0, 1.0, 0.0, 0.0, 0.0]
    values = [rank_reward(rank) for rank in range(1, 101)]
    assert values == sorted(values, reverse=True) and len(set(values)) == 100
    assert rank_reward(55) == pytest.approx(0.5)


def test_a_query_is_rewarded_by_the_rank_of_its_first_relevant_document():
    retriever = Retriever()
    context = RewardContext([retriever.search], QRELS)
    topics, queries = ["1", "2", "1", "3", "2"], ["up", "up", "down", "up", InvalidOutput("", "empty")]
    assert retrieval_rewards(topics, queries, context) == [2.0, pytest.approx(2 - 8 / 9), 0.0, None, INVALID]
    assert retriever.searched == ["up", "down"]  # equal queries once


def test_the_lowest_relevant_grade_counts():
    context = RewardContext([Retriever().search], QRELS, relevant=2)
    assert retrieval_rewards(["1", "2"], ["up", "up"], context) == [pytest.approx(2 - 2 / 9), None]


def test_a_measure_of_ir_measures_replaces_the_rank_reward():
    context = RewardContext([Retriever().search], QRELS, measure="MRR@10")
    assert retrieval_rewards(["1", "2", "2"], ["up", "up", "down"], context) == [1.0, pytest.approx(1 / 9), 0.0]
    with pytest.raises(UsageError, match="not a measure"):
        retrieval_rewards(["1"], ["up"], RewardContext([Retriever().search], QRELS, measure="nonsense"))
