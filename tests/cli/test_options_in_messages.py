"""Options that error messages name: each exists, on each of the verbs that the message can come from."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from searchlora.task import load_tasks
from tests.cli.test_commands import LEAVES, TREE

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("searchlora", "tasks", "pipelines", "eval")

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]")
_READER_OPTION = re.compile(r"--option ([a-z_]+)")

#: Lines that name options of other programs, or CSS variables.
_OTHERS = re.compile(
    r"pip install|vLLM with|of vLLM|--local-dir|var\(--|^--(enable-lora|enforce-eager)$|^--(format|query-gpu)="
)

_CORPUS = ("run", "search", "judge", "grade serve", "data build")

#: Verbs that compute LLM adapters.
_COMPUTING = ("run", "search", "tune", "evaluate", "experiment", "promote", "judge", "improve", "demo")

#: Beginning of a module's path -> the verbs that show its messages; the first that fits counts.
SHOWN_BY: dict[str, tuple[str, ...]] = {
    "eval/judgments/converting.py": ("convert",),
    "eval/judge/cards_from_files.py": ("judge-card",),
    "eval/judge/scale.py": ("judge-card",),
    "eval/policy/decide.py": ("promote",),
    "pipelines/config.py": ("index build", "index load"),
    "pipelines/stages/stage.py": ("index build", "index load"),
    "pipelines/explain.py": ("search",),
    "pipelines/index_build.py": ("index build",),
    "pipelines/pipeline.py": ("run", "search", "ablate"),
    "searchlora/adapters/alias_weights.py": ("adapters alias",),
    "searchlora/adapters/operations.py": ("adapters alias",),
    "searchlora/adapters/store.py": ("adapters remove",),
    "searchlora/data/collection.py": _CORPUS,
    "searchlora/data": ("data build",),
    "searchlora/experiments/row_sample.py": ("data label",),
    "searchlora/experiments/demo_search.py": ("serve",),
    "searchlora/systems/compared.py": ("evaluate", "promote"),
    "searchlora/experiments/encoder_train.py": ("data build",),
    "searchlora/experiments/start.py": ("train",),
    "searchlora/experiments/train.py": ("train",),
    "searchlora/experiments/experiment": ("experiment",),
    "searchlora/experiments/judge": ("judge",),
    "searchlora/events/dataset.py": ("data build",),
    "searchlora/experiments/label.py": ("data label",),
    "searchlora/experiments/task_model.py": ("judge",),
    "searchlora/experiments/learned_baselines.py": ("evaluate", "promote"),
    "searchlora/experiments/options.py": ("train", "improve"),
    "searchlora/experiments/promote.py": ("promote",),
    "searchlora/experiments/run.py": ("run",),
    "searchlora/experiments/sharding.py": ("run", "judge", "data label"),
    "searchlora/experiments/training_runs.py": ("train",),
    "searchlora/experiments/tune_": ("tune",),
    "searchlora/experiments/sweep.py": ("sweep",),
    "searchlora/files/atomic.py": ("data build", "data export", "experiment", "adapters export", "demo"),
    "searchlora/files/text.py": ("data build", "data inspect"),
    "searchlora/files/field_map.py": _CORPUS,
    "searchlora/files/shards.py": ("run", "judge", "data label"),
    "searchlora/http_client.py": _COMPUTING,
    "searchlora/inference/settings.py": _COMPUTING,
    "searchlora/inference/remote/server_models.py": ("serve",),
    "searchlora/inference/remote/service.py": ("judge", "data label"),
    "searchlora/recipe_reading.py": ("train",),
    "searchlora/scaffold": ("tasks new",),
    "searchlora/server/api": ("serve",),
    "searchlora/server/grading": ("grade serve",),
    "searchlora/server/http.py": ("serve", "grade serve"),
    "searchlora/task.py": ("train", "data build", "evaluate", "promote", "judge", "run", "serve"),
    "searchlora/training": ("train",),
    "tasks": ("data build",),
}

#: Messages that send the reader to another verb: module and option -> that verb.
OF_ANOTHER_VERB: dict[tuple[str, str], tuple[str, ...]] = {
    ("eval/judge/scale.py", "--relevant"): ("judge-card",),
    ("eval/judge/grading_queue.py", "--generate"): ("judge",),
    ("searchlora/retrieval/engine_index.py", "--pipeline"): ("index load",),
    ("searchlora/retrieval/index_manifest.py", "--map"): ("index build", "index load"),
    ("searchlora/retrieval/index_manifest.py", "--out"): ("index build",),
    ("searchlora/retrieval/index_folder.py", "--pipeline"): ("index build",),
    ("searchlora/experiments/tune_risk.py", "--split-ratios"): ("data build",),
    ("searchlora/systems/compared.py", "--unconstrained"): ("evaluate",),
    ("searchlora/systems/compared.py", "--corpus"): ("data build",),
    ("searchlora/systems/compared.py", "--qrels"): ("data build",),
    ("searchlora/experiments/options.py", "--force"): ("promote",),
    ("searchlora/experiments/options.py", "--reason"): ("promote",),
    ("searchlora/data/formats/judgments.py", "--rater"): ("judge-card",),
    ("searchlora/data/mixture.py", "--data"): ("train",),
    ("tasks/judgment/task.py", "--data"): ("train",),
}


def _verbs(module: str, option: str, text: str) -> tuple[str, ...]:
    """The verbs that must have an option: one that the message names beside it, or those of its module; or none."""
    for verb in LEAVES:
        if re.search(rf"(searchlora |`){verb}\b", text) and option in _options_of(verb):
            return (verb,)
    by_prefix = next((verbs for prefix, verbs in SHOWN_BY.items() if module.startswith(prefix)), ())
    return OF_ANOTHER_VERB.get((module, option), by_prefix)


def _options_of(verb: str) -> set[str]:
    return {name for parameter in LEAVES[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}


def _texts(source: str) -> Iterator[str]:
    """The text constants of a module without its docstrings."""
    nodes = list(ast.walk(ast.parse(source)))
    documented = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    docstrings = {
        id(node.body[0].value)
        for node in nodes
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def _messages() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            if any(part.is_symlink() for part in file.parents):
                continue  # the packages that are linked into searchlora
            source = file.read_text(encoding="utf-8")
            for text in _texts(source) if "--" in source else ():
                if _OPTION.search(text) and not _OTHERS.search(text):
                    yield file.relative_to(ROOT).as_posix(), text


MESSAGES = sorted(set(_messages()))


def test_messages_are_found():
    assert len(MESSAGES) > 60


#: Options before the verb.
OF_ALL_VERBS = {name for parameter in TREE[""].params for name in parameter.opts} | {"--help"}


def test_messages_name_options_of_the_verbs_that_show_them():
    for module, text in MESSAGES:
        for option in set(_OPTION.findall(text)) - OF_ALL_VERBS if "/cli/" not in module else ():
            verbs = _verbs(module, option, text)
            assert verbs, f"say in SHOWN_BY which verbs show the messages of {module}: {text!r}"
            for verb in verbs:
                assert option in _options_of(verb), f"`searchlora {verb}` has no {option}: {module}: {text!r}"


def test_texts_of_the_command_line_name_options_that_exist():
    known = {option for verb in LEAVES for option in _options_of(verb)} | OF_ALL_VERBS
    for module, text in MESSAGES:
        if "/cli/" in module:
            assert set(_OPTION.findall(text)) <= known, f"{module}: {text!r}"


def test_the_tables_have_no_entry_without_a_module():
    modules = {module for module, _ in MESSAGES}
    for prefix in SHOWN_BY:
        assert (ROOT / prefix).exists() or any(module.startswith(prefix) for module in modules), prefix
    named = {(module, option) for module, text in MESSAGES for option in _OPTION.findall(text)}
    assert OF_ANOTHER_VERB.keys() <= named


def test_messages_name_options_of_dataset_formats_that_exist():
    known = {option for task in load_tasks().values() for form in task.formats.values() for option in form.options}
    for module, text in MESSAGES:
        assert set(_READER_OPTION.findall(text)) <= known, (module, text)
