"""`tasks new` writes plugins that pass their own tests and go through the commands."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from searchlora.errors import UsageError
from searchlora.scaffold import KINDS, new_task
from searchlora.task import load_tasks
from tests.child_scripts import run_script

PYTEST = "import sys; from pytest import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one generated task of each kind."""
    folder = tmp_path_factory.mktemp("own_tasks")
    for kind in KINDS:
        new_task(f"my_{kind}", kind, folder)
    return folder


def test_every_kind_is_complete_and_without_placeholders(folder):
    tasks = load_tasks(folder)
    for kind in KINDS:
        assert f"my_{kind}" in tasks
        files = {
            file.name: file.read_text(encoding="utf-8") for file in (folder / f"my_{kind}").iterdir() if file.is_file()
        }
        expected = {"__init__.py", "task.py", f"test_my_{kind}.py", "record.schema.json", "recipe.yaml", "README.md"}
        expected |= {"examples.jsonl"} | ({"prompt.jinja"} if kind != "encoder" else set())
        assert set(files) == expected
        for name, text in files.items():
            assert "$" not in text.replace("$schema", "").replace("+$", ""), name


def test_generated_code_passes_the_linters(folder):
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--line-length", "120", "--target-version", "py311", str(folder)]
    for command in (
        [*ruff, "check", "--select", "E,F,I,UP,B", "--ignore", "B905", *options],
        [*ruff, "format", "--check", *options],
    ):
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
def test_the_generated_tests_pass(folder, monkeypatch):
    folders = [folder / f"my_{kind}" for kind in KINDS]
    monkeypatch.chdir(folder)
    ran = run_script(PYTEST, "-q", "-p", "no:cacheprovider", *folders)
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert f"{3 * len(KINDS)} passed" in ran.stdout


def test_a_generated_task_is_shown_and_listed(cli, tmp_path):
    tasks = tmp_path / "own"
    written = cli("tasks", "new", "product_type", "--kind", "label", "--out", tasks)
    assert written.code == 0, written.err
    assert "Next: pytest" in written.out
    shown = json.loads(cli("tasks", "show", "product_type", "--tasks", tasks, "--json").out)
    assert (shown["type"], shown["writes"], shown["record"]["label"]) == ("prompted", "product_type", True)
    listed = cli("tasks", "list", "--tasks", tasks)
    assert "product_type" in listed.out and "rewriting" in listed.out


@pytest.mark.parametrize(
    ("name", "kind", "problem"),
    [
        ("Bad", "text", "'Bad' is not a task name"),
        ("class", "text", "'class' is not a task name"),
        ("a" * 41, "text", "is not a task name"),
        ("x\n", "text", "is not a task name"),
        ("rewriting", "text", "there is a task 'rewriting' already"),
        ("mine", "poem", "there is no kind 'poem'"),
        ("my_text", "text", "exists already"),
    ],
)
def test_an_invalid_name_or_kind_is_refused(folder, name, kind, problem):
    with pytest.raises(UsageError, match=problem):
        new_task(name, kind, folder)
    with pytest.raises(UsageError, match="cannot be written"):
        new_task("mine", "text", folder / "my_text" / "task.py")


def test_tasks_show_lists_options_and_recipe(cli):
    shown = cli("tasks", "show", "intent").out
    assert "--option labels=…" in shown and "learning_rate: 0.0005" in shown
    names = [entry["name"] for entry in json.loads(cli("tasks", "list", "--json").out)]
    assert names == ["embedding", "intent", "judgment", "rag_answer", "rewriting"]
