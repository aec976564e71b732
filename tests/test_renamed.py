"""Old names of keys and options are accepted with a warning that names the new one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from searchlora import task
from searchlora.cli.renamed_options import RENAMED_COMMANDS, RENAMED_OPTIONS, with_new_options
from searchlora.errors import UsageError
from searchlora.renamed import RenamedWarning, with_new_keys


def test_an_old_key_is_renamed_with_a_warning():
    with pytest.warns(RenamedWarning, match="p.yaml: 'constant' is now 'rrf_k'"):
        assert with_new_keys({"constant": 60}, {"constant": "rrf_k"}, "p.yaml") == {"rrf_k": 60}


def test_an_old_key_beside_its_new_one_is_an_error():
    with pytest.raises(UsageError, match="both are given"):
        with_new_keys({"constant": 60, "rrf_k": 60}, {"constant": "rrf_k"})


def test_old_names_of_python_are_their_new_ones():
    with pytest.warns(RenamedWarning, match="'prompted' is now 'generation_task'"):
        assert task.prompted is task.generation_task
    assert not hasattr(task, "absent")


@pytest.mark.parametrize(
    ("command", "old", "new"), [(c, old, new) for c, names in RENAMED_OPTIONS.items() for old, new in names.items()]
)
def test_an_old_option_is_its_new_one(command, old, new):
    from typer.main import get_command

    from searchlora.cli.app import app

    known = get_command(app)
    for part in command.split():
        known = known.commands[part]
    options = {name for parameter in known.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert new in options and old not in options
    with pytest.warns(RenamedWarning, match=f"'{old}' is now '{new}'"):
        assert with_new_options([*command.split(), f"{old}=1"]) == [*command.split(), f"{new}=1"]


@pytest.mark.parametrize(("old", "new"), RENAMED_COMMANDS.items())
def test_an_old_command_is_its_new_one(old, new):
    from typer.main import get_command

    from searchlora.cli.app import app

    commands = get_command(app).commands
    assert new in commands and old not in commands
    with pytest.warns(RenamedWarning, match=f"'{old}' is now '{new}'"):
        assert with_new_options([old, "--help"]) == [new, "--help"]


def test_what_follows_a_double_dash_is_not_renamed():
    assert with_new_options(["evaluate", "--", "--beside"]) == ["evaluate", "--", "--beside"]


def test_a_command_warns_on_stderr_in_one_line():
    command = [sys.executable, "-m", "searchlora", "evaluate", "absent@1", "--beside", "x@1", "--data", "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "searchlora: '--beside' is now '--compare-with'; the next release will not accept '--beside'." in done.stderr
    assert "renamed.py" not in done.stderr
