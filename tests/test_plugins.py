"""Plugins that clash or cannot be imported block no command that does not ask for them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from searchlora import plugins
from searchlora.errors import UsageError
from searchlora.task import load_task, load_tasks, task_names


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


def test_two_plugins_of_one_name_are_an_error_where_that_name_is_asked_for(install):
    install("one-tasks", "season = one:task")
    install("other-tasks", "season = other:task")
    assert load_task("rewriting").name == "rewriting"
    with pytest.raises(
        UsageError, match=r"(one|other)-tasks 1.0 and (one|other)-tasks 1.0 have a plugin 'season' each"
    ):
        load_task("season")


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


def test_an_installed_name_is_taken_for_a_new_task(install, tmp_path: Path):
    from searchlora.scaffold import new_task

    install("season-tasks", "season = no_such_module:task")
    with pytest.raises(UsageError, match="there is a task 'season' already"):
        new_task("season", "label", tmp_path / "out")
