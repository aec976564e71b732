"""Options that error messages name: each exists, on each of the verbs that the message can come from."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from searchlora.task import load_tasks
from tests.cli.test_commands import LEAVES

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("searchlora", "tasks", "pipelines", "eval")

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
_READER_OPTION = re.compile(r"--option ([a-z_]+)")

#: Lines that name options of other programs, or CSS variables.
_OTHERS = re.compile(r"pip install|vLLM with|var\(--")

_EVALUATIONS = ("evaluate", "promote")
_CORPUS = ("run", "search", "judge", "grade serve")

#: Module -> option -> the verbs that show the message. A new message with an option needs an entry.
RAISED_BY: dict[str, dict[str, tuple[str, ...]]] = {
    "eval/judge/cards_from_files.py": {"--allow-circular": ("judge-card", "prediction-powered")},
    "eval/judge/prediction_powered_runs.py": {"--run": ("prediction-powered",)},
    "pipelines/config.py": {"--api-key-env": ("run", "search"), "--set": ("run", "search", "pipelines validate")},
    "pipelines/pipeline.py": {"--corpus": ("run", "search")},
    "searchlora/adapters/operations.py": {"--force": ("adapters alias",)},
    "searchlora/adapters/store.py": {"--force": ("adapters remove",)},
    "searchlora/data/building.py": dict.fromkeys(("--limit", "--corpus", "--qrels"), ("data build",)),
    "searchlora/data/collection.py": {"--map": _CORPUS},
    "searchlora/data/formats/conversations.py": {"--option": ("data build",)},
    "searchlora/data/formats/judged_collections.py": {"--option": ("data build",)},
    "searchlora/data/formats/judged_pairs.py": {"--option": ("data build",)},
    "searchlora/data/splits.py": {"--on-leak": ("data build",)},
    "searchlora/data/validation.py": {"--allow-rejects": ("data build",)},
    "searchlora/experiments/encoder_evaluation_run.py": dict.fromkeys(("--corpus", "--qrels"), ("data build",)),
    "searchlora/experiments/encoder_train.py": {
        "--out": ("train",),
        **dict.fromkeys(("--corpus", "--qrels"), ("data build",)),
    },
    "searchlora/experiments/experiment.py": dict.fromkeys(("--accept-changes", "--out"), ("experiment",)),
    "searchlora/experiments/judge/command.py": {"--generate": ("judge",)},
    "searchlora/experiments/judge/llm_judge.py": dict.fromkeys(("--settings", "--task"), ("judge",)),
    "searchlora/experiments/mixing.py": {"--source": ("mix-qrels",)},
    "searchlora/experiments/promote.py": {"--force": ("promote",)},
    "searchlora/experiments/prompted_evaluate.py": {"--unconstrained": ("evaluate",)},
    "searchlora/experiments/run.py": {"--out": ("run",)},
    "searchlora/experiments/training_runs.py": dict.fromkeys(("--resume", "--restart"), ("train",)),
    "searchlora/files/atomic.py": {"--out": ("data build", "experiment", "adapters export", "demo")},
    "searchlora/files/field_map.py": {"--map": _CORPUS},
    "searchlora/inference/remote/server_models.py": {"--base": ("serve",)},
    "searchlora/recipe.py": {"--set": ("train",)},
    "searchlora/scaffold/__init__.py": {"--kind": ("tasks new",)},
    "searchlora/server/api/encoders.py": {"--encoder": ("serve",)},
    "searchlora/server/api/middleware.py": {"--name": ("serve",)},
    "searchlora/server/api/serve.py": {"--trusted-proxy": ("serve",)},
    "searchlora/server/grading/app.py": {"--host": ("grade serve",)},
    "searchlora/server/grading/guideline.py": {"--scale": ("grade serve",)},
    "searchlora/server/grading/session.py": dict.fromkeys(("--overlap", "--rater"), ("grade serve",)),
    "searchlora/server/http.py": dict.fromkeys(("--port", "--host"), ("serve", "grade serve")),
    "searchlora/task.py": {"--tasks": ("train", "data build", *_EVALUATIONS, "judge", "run", "serve")},
    "searchlora/training/callbacks.py": {"--restart": ("train",)},
    "searchlora/training/training_run.py": {"--resume": ("train",)},
    **{
        f"tasks/{module}.py": {"--option": ("data build",)}
        for module in (
            *("embedding/collections", "embedding/dataset", "intent/dataset", "intent/settings", "intent/task"),
            *("judgment/dataset", "judgment/guideline", "judgment/task"),
            *("rag_answer/distractors", "rag_answer/settings", "rewriting/dataset"),
        )
    },
}


def _options_of(verb: str) -> set[str]:
    return {name for parameter in LEAVES[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}


def _texts(file: Path) -> Iterator[str]:
    """The text constants of a module without its docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def _messages() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            if any(part.is_symlink() for part in file.parents):
                continue  # the packages that are linked into searchlora
            for text in _texts(file):
                if _OPTION.search(text) and not _OTHERS.search(text):
                    yield file.relative_to(ROOT).as_posix(), text


MESSAGES = sorted(set(_messages()))


def test_messages_are_found():
    assert len(MESSAGES) > 60
    assert ("searchlora/experiments/mixing.py", "Give --source llm or clicks.") in MESSAGES


@pytest.mark.parametrize(("module", "text"), [each for each in MESSAGES if "/cli/" not in each[0]])
def test_a_message_names_options_of_the_verbs_that_show_it(module, text):
    for option in _OPTION.findall(text):
        verbs = RAISED_BY.get(module, {}).get(option)
        assert verbs, f"add {module} and {option} to RAISED_BY, with the verbs that show {text!r}"
        for verb in verbs:
            assert option in _options_of(verb), f"`searchlora {verb}` has no {option}: {text!r}"


@pytest.mark.parametrize(("module", "text"), [each for each in MESSAGES if "/cli/" in each[0]])
def test_a_text_of_the_command_line_names_options_that_exist(module, text):
    known = {option for verb in LEAVES for option in _options_of(verb)} | {"--debug", "--help"}
    unknown = set(_OPTION.findall(text)) - known
    assert not unknown, f"{module}: {text!r}"


@pytest.mark.parametrize("module", sorted(RAISED_BY))
def test_every_entry_of_the_table_has_a_message(module):
    named = {option for file, text in MESSAGES if file == module for option in _OPTION.findall(text)}
    assert named == RAISED_BY[module].keys(), module


def test_messages_name_options_of_dataset_formats_that_exist():
    known = {option for task in load_tasks().values() for form in task.formats.values() for option in form.options}
    for module, text in MESSAGES:
        assert set(_READER_OPTION.findall(text)) <= known, (module, text)
