"""The whole command tree: value names, help texts, examples, headings, completion, and JSON of list and show verbs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer.main

from searchlora.adapters.manifest import MANIFEST
from searchlora.adapters.store import Store
from searchlora.cli.app import app
from searchlora.cli.options import use_device
from searchlora.errors import UsageError
from searchlora.inference.settings import LocalSettings
from tests.factories import first_word, random_adapter

ROOT = typer.main.get_command(app)

#: Placeholders that say nothing about the value.
TYPE_NAMES = {"TEXT", "PATH", "INTEGER", "FLOAT", "STR", "INT", "BOOLEAN", "DIRECTORY"}


def walk(command, *path):
    """Every command below, groups included, with its path."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, *path, name)


TREE = {" ".join(path): command for path, command in walk(ROOT)}
LEAVES = {path: command for path, command in TREE.items() if not hasattr(command, "commands")}


@pytest.mark.parametrize("path", TREE)
def test_every_command_has_a_help_text_and_an_example_that_parses(path):
    command = TREE[path]
    assert command.help and command.help.splitlines()[0].endswith("."), path
    lines = command.epilog.splitlines()
    assert lines[:2] == ["\b", "Example:"]
    examples = [shlex.split(line) for line in lines[2:]]
    assert examples
    for program, *words in examples:
        assert program == "searchlora"
        assert words[: len(path.split())] == path.split()
        leaf = max((leaf for leaf in LEAVES if words[: len(leaf.split())] == leaf.split()), key=len)
        LEAVES[leaf].make_context(leaf, words[len(leaf.split()) :])  # raises for an unknown or missing option


@pytest.mark.parametrize("path", LEAVES)
def test_every_value_has_a_descriptive_name_and_a_help_text(path):
    for parameter in LEAVES[path].params:
        if parameter.name in ("help", "install_completion", "show_completion"):
            continue
        assert parameter.help, (path, parameter.name)
        if not getattr(parameter, "is_flag", False):
            assert parameter.metavar, (path, parameter.name)
            assert parameter.metavar not in TYPE_NAMES, (path, parameter.name)


def test_options_of_one_name_have_one_value_name():
    names = {}
    for path, command in LEAVES.items():
        for parameter in command.params:
            if not getattr(parameter, "is_flag", False):
                for option in (each for each in parameter.opts if each.startswith("--")):
                    names.setdefault(option, {}).setdefault(parameter.metavar, []).append(path)
    assert names["--data"].pop("FOLDER[=WEIGHT]") == ["train"]  # of several datasets
    assert names["--data"].keys() == names["--store"].keys() == names["--tasks"].keys() == {"FOLDER"}
    assert names["--set"].keys() == {"KEY=VALUE"}
    assert names["--recipe"].keys() == {"FILE"}


def test_every_verb_that_computes_adapters_takes_the_same_engine_options():
    verbs = ["run", "search", "tune", "evaluate", "experiment", "promote", "judge", "improve", "demo"]
    wanted = ("--engine", "--server", "--api-key-env")
    options = {
        verb: {option: (parameter.metavar, parameter.help) for parameter in LEAVES[verb].params
               for option in parameter.opts if option in wanted}
        for verb in verbs
    }  # fmt: skip
    assert options["evaluate"].keys() == set(wanted)
    assert all(each == options["evaluate"] for each in options.values())
    local = {f"--{name.replace('_', '-')}" for name in LocalSettings.model_fields} - {"--kind", "--max-prompt-tokens"}
    served = {option for parameter in LEAVES["serve"].params for option in parameter.opts}
    assert local <= served


def test_help_lists_all_commands_by_job(cli):
    called = cli("--help")
    assert called.code == 0
    headings = re.findall(r"^(\w+):$", called.out, re.MULTILINE)
    assert headings == ["Options", "Start", "Data", "Train", "Evaluate", "Judgments", "Store", "Serve"]
    for name in ROOT.commands:
        assert re.search(rf"^  {name} ", called.out, re.MULTILINE), name
    assert "--install-completion" in called.out


@pytest.mark.slow
def test_the_shell_completes_commands_and_options():
    def completions(words):
        script = Path(sys.executable).with_name("searchlora")
        env = os.environ | {"_SEARCHLORA_COMPLETE": "complete_bash", "COMP_WORDS": words}
        env["COMP_CWORD"] = str(len(words.split(" ")) - 1)
        return subprocess.run([script], env=env, capture_output=True, text=True, check=False).stdout.split()

    assert completions("searchlora ev") == ["evaluate", "events"]
    assert completions("searchlora adapters sh") == ["show"]
    assert "--recipe" in completions("searchlora train --re")


@pytest.mark.slow
def test_list_and_show_verbs_print_one_json_document(cli, tmp_path, tiny_base):
    store = Store(tmp_path / "store")
    assert json.loads(cli("adapters", "list", "--store", store.root, "--json").out) == []
    task = first_word(tmp_path / "task")
    for seed in (1, 2):
        random_adapter(store, "first", task, tiny_base, tmp_path / f"made{seed}", seed=seed)
    cli("adapters", "alias", "first@1", "production", "--reason", "first release", "--store", store.root)
    entries = json.loads(cli("adapters", "list", "--store", store.root, "--json").out)
    assert [(entry["adapter"], entry["aliases"]) for entry in entries] == [("first@1", ["production"]), ("first@2", [])]
    assert {entry["base"] for entry in entries} == {store.get("first").manifest.base.name}
    shown = json.loads(cli("adapters", "show", "first@production", "--store", store.root, "--json").out)
    assert (shown["manifest"]["version"], "golden" in shown["manifest"]) == (1, False)
    assert [(move["alias"], move["to"], move["reason"]) for move in shown["history"]] == [
        ("production", 1, "first release")
    ]
    difference = json.loads(cli("adapters", "diff", "first@1", "first@2", "--store", store.root, "--json").out)
    assert (difference["first"], difference["second"]) == ("first@1", "first@2")
    manifest = store.get("first@2").path / MANIFEST
    manifest.chmod(0o644)
    manifest.write_text("{", encoding="utf-8")
    broken = json.loads(cli("adapters", "list", "--store", store.root, "--json").out)[1]
    assert broken["adapter"] == "first@2" and MANIFEST in broken["problem"]
    formats = json.loads(cli("data", "formats", "rewriting", "--json").out)
    assert {"native", "pairs"} <= {entry["name"] for entry in formats}


@pytest.mark.slow
def test_the_made_shop_is_reported_line_by_line(cli, tmp_path):
    called = cli("data", "shop", "--out", tmp_path / "shop", "--products", "600", "--queries", "100")
    lines = called.out.splitlines()
    assert lines[0] == f"Wrote {tmp_path / 'shop'}"
    assert re.fullmatch(r"products +600", lines[1])
    (records,) = (line for line in lines if line.startswith("records"))
    splits = {name: int(count) for name, count in re.findall(r"(train|validation|test) (\d+)", records)}
    assert int(records.split()[1]) == sum(splits.values()) == 100
    assert "{" not in called.out


def test_the_module_is_the_command_line():
    command = [sys.executable, "-m", "searchlora", "pipelines", "list", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "bm25" in {each["name"] for each in json.loads(ended.stdout)}


# `--device` restricts a command to the CPU or to one GPU before a library looks for GPUs


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Changes of the environment end with the test."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


def test_verbs_that_compute_take_a_device():
    for verb in ("train", "evaluate", "experiment", "promote", "judge", "run", "search", "serve"):
        assert any("--device" in parameter.opts for parameter in LEAVES[verb].params), verb


def test_the_cpu_hides_every_gpu():
    assert use_device(None) is None and "CUDA_VISIBLE_DEVICES" not in os.environ
    assert use_device("cpu") == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", "CPU", "cuda:1,cuda:2", ""])
def test_another_name_is_refused(device):
    with pytest.raises(UsageError, match=r"--device.*is not a device.*cpu, cuda or cuda:N"):
        use_device(device)


def test_a_number_counts_the_gpus_that_the_user_allows(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert use_device("cuda:1") == "cuda:1"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with pytest.raises(UsageError, match="lists 2 GPUs"):
        use_device("cuda:2")


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch sees a GPU")
def test_a_command_refuses_a_gpu_that_is_not_there(refused, tmp_path):
    complaint = refused("train", "rewriting", "--data", tmp_path, "--name", "a", "--device", "cuda")
    assert "sees no such GPU" in complaint
    assert "--device cpu" in complaint


@pytest.mark.slow
def test_a_command_on_the_cpu_sees_no_gpu():
    script = (
        "import sys, atexit, os; from searchlora.cli import main;"
        "sys.argv = ['searchlora', 'search', 'bm25', 'tent', '--corpus', 'none.jsonl', '--device', 'cpu'];"
        "atexit.register(lambda: print(repr(os.environ['CUDA_VISIBLE_DEVICES']), 'torch' in sys.modules)); main()"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout.strip() == "'' False"
    assert "none.jsonl" in ended.stderr
