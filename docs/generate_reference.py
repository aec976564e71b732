"""Reference pages written from the code: `python docs/generate_reference.py` writes `docs/reference/*.md`.

`--check` writes nothing and fails where a page is not what the code says.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from searchlora.key_tables import key_rows

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate_reference.py; change the code instead. -->\n"


def cli() -> str:
    """Every command with its arguments and options."""
    import typer.main

    from searchlora.cli.app import app

    root = typer.main.get_command(app)
    parts = ["# Command line\n", NOTE, f"{_text(root.help)}\n", "`searchlora COMMAND --help` prints the same text.\n"]
    for path, command in _commands(root, ()):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
        usage = " ".join(["searchlora", *path, *(_metavar(each) for each in arguments), "[OPTIONS]" if options else ""])
        parts.append(f"## searchlora {' '.join(path)}\n")
        parts.append(f"{_text(command.help)}\n")
        parts.append(f"```text\n{usage.strip()}\n```\n")
        if arguments or options:
            rows = [(f"`{_metavar(each)}`", each.help, "required" if each.required else "") for each in arguments]
            rows += [(_flag(each), each.help, _default(each)) for each in options]
            parts.append(_table(("argument or option", "meaning", "default"), rows))
        if command.epilog:
            parts.append(f"```text\n{_example(command.epilog)}\n```\n")
    return "\n".join(parts)


def _example(epilog: str) -> str:
    """The command of an epilog such as `Example: searchlora demo`."""
    return inspect.cleandoc(inspect.cleandoc(epilog.replace("\b", "")).removeprefix("Example:"))


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, child in command.commands.items():
        if hasattr(child, "commands"):
            yield from _commands(child, (*path, name))
        elif not child.hidden:
            yield (*path, name), child


def _metavar(parameter: Any) -> str:
    """The name of a value; an optional argument stands in brackets."""
    name = str(parameter.metavar or parameter.name.upper())
    optional = parameter.param_type_name == "argument" and not parameter.required and not name.startswith("[")
    return f"[{name}]" if optional else name


def _flag(option: Any) -> str:
    names = ", ".join(option.opts)
    return f"`{names}`" if option.is_flag else f"`{names} {option.metavar or 'VALUE'}`"


def _default(option: Any) -> str:
    if option.required:
        return "required"
    default = option.default
    if default in (None, "", [], ()) or default is False or callable(default):
        return ""
    return f"`{' '.join(map(str, default)) if isinstance(default, list | tuple) else default}`"


def recipe() -> str:
    """Every key of both kinds of recipe."""
    from searchlora.recipe import EncoderRecipe, Recipe

    return "\n".join(
        [
            "# Recipe keys\n",
            NOTE,
            "A recipe is a YAML file with everything that training needs besides data. Each task has one; `--recipe`\n"
            "and `--set` are laid over it. An unknown key, or a value out of range, is refused.\n",
            "## LLM tasks\n",
            _model_table(Recipe),
            "## Encoder tasks\n",
            _model_table(EncoderRecipe),
        ]
    )


def pipeline() -> str:
    """Every key of every kind of stage."""
    from searchlora.inference.settings import LocalSettings, ServerSettings, VllmSettings
    from searchlora.pipelines.config import CorpusSettings, PipelineFile
    from searchlora.pipelines.stages.kinds import stage_classes

    parts = [
        "# Pipeline keys\n",
        NOTE,
        "A pipeline is a YAML file:\n",
        '```yaml title="pipeline.yaml"\n'
        "name: rewrite_bm25\n"
        "parameters:            # values for $NAME below, changed by --set NAME=VALUE\n"
        "  adapter: shop-rewriter\n"
        "stages:\n"
        "  - adapter: {name: $adapter}\n"
        "  - bm25: {k: 100}\n```\n",
        "A stage is a mapping with one key, its kind. The keys of the file:\n",
        _model_table(PipelineFile),
    ]
    own = {kind: model for kind, model in stage_classes().items() if model.__module__.startswith("searchlora.")}
    for kind, model in {**own, "corpus": CorpusSettings}.items():
        parts += [f"## {kind}\n", f"{_text(inspect.getdoc(model))}\n", _model_table(model)]
    parts += [
        "## engine\n",
        "Where adapters are computed: in this process, by a server, or by a vLLM that this process starts. Without\n"
        "`kind`, settings with a `url` are of a server. At the top of a file it is the default of every adapter\n"
        "stage; `--engine` replaces it.\n",
    ]
    kinds = {"local": LocalSettings, "server": ServerSettings, "vllm": VllmSettings}
    for name, engine in kinds.items():
        summary = _text((inspect.getdoc(engine) or "").split("\n\n")[0])
        parts += [f"### engine, {name}\n", f"{summary}\n", _model_table(engine)]
    return "\n".join(parts)


def _model_table(model: Any) -> str:
    return _table(("key", "type", "default", "meaning"), key_rows(model))


def dataset_options() -> str:
    """Every `--option` of every format of the built-in tasks."""
    from searchlora.task import load_tasks

    parts = [
        "# Dataset options\n",
        NOTE,
        "`searchlora data build TASK SOURCE --format FORMAT --option NAME=VALUE` passes options to the reader of the\n"
        "source format. `--option` is repeatable; an unknown name is refused. `searchlora data formats TASK` prints\n"
        "the same for any task, also your own. A *column* is the name of a column of the source, a *file* is a path.\n"
        "The dataset card keeps the options of its build. Options of training are [recipe keys](recipe.md).\n",
    ]
    built_in = {n: task for n, task in load_tasks().items() if type(task).__module__.startswith("searchlora.tasks.")}
    for name, task in sorted(built_in.items()):
        formats = [(each.name, each.description) for each in task.formats.values()]
        parts += [f"## {name}\n", _table(("format", "source"), [(f"`{key}`", text) for key, text in formats])]
        found: dict[tuple[str, Any], list[str]] = {}
        for format in task.formats.values():
            for key, option in format.options.items():
                found.setdefault((key, option), []).append(format.name)
        rows = [
            (
                f"`{key}`",
                "all" if len(names) == len(formats) else ", ".join(f"`{each}`" for each in names),
                option.type,
                "required" if option.required else option.default or "",
                option.meaning,
            )
            for (key, option), names in found.items()
        ]
        if rows:
            parts.append(_table(("option", "formats", "type", "default", "meaning"), rows))
    return "\n".join(parts)


def errors() -> str:
    """Every error class, by what it is about."""
    import searchlora.errors as module

    parts = [
        "# Errors\n",
        NOTE,
        "Every error that searchlora raises on purpose derives from `SearchloraError`. Its message says what is\n"
        "wrong, where, and what to do. The command line prints it and exits with the code below; `--debug` shows\n"
        "the traceback.\n",
    ]
    rows = []
    for name, error in vars(module).items():
        if inspect.isclass(error) and issubclass(error, module.SearchloraError):
            parent = error.__bases__[0].__name__
            rows.append(
                (
                    f"`{name}`",
                    f"`{parent}`",
                    str(error.exit_code),
                    _text((inspect.getdoc(error) or "").split("\n\n")[0]),
                )
            )
    parts.append(_table(("error", "is a", "exit code", "meaning"), rows))
    return "\n".join(parts)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_text(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _text(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").strip()


def http() -> str:
    """The server's own page, which stands beside its code."""
    text = (FOLDER.parents[1] / "searchlora" / "server" / "api" / "README.md").read_text(encoding="utf-8")
    text = text.replace("../../../docs/", "../")  # links from where the page stands now
    return f"# HTTP API\n\n{NOTE}{text.partition(chr(10))[2]}"


def serve() -> str:
    """Every setting of the server."""
    from searchlora.server.api.config import settings_by_key

    rows = []
    for key, (_, setting, default) in settings_by_key().items():
        flag = setting.option or f"--{key.replace('_', '-')}"
        written = "" if default in (None, (), False) else f"`{default}`"
        rows.append((f"`{key}`", f"`{flag} {setting.metavar}`".replace(" `", "`"), setting.help, written))
    return "\n".join(
        [
            "# Server settings\n",
            NOTE,
            "`searchlora serve --config FILE` reads these keys from a YAML file. Each is also an option, which\n"
            "overrides the file. An option that is repeatable is a list in the file. Paths are relative to the\n"
            "working directory. An unknown key, or a value out of range, is refused.\n",
            _table(("key", "option", "meaning", "default"), rows),
        ]
    )


PAGES = {
    "cli": cli,
    "dataset-options": dataset_options,
    "recipe": recipe,
    "pipeline": pipeline,
    "errors": errors,
    "http": http,
    "serve": serve,
}


def main(check: bool = False) -> int:
    """Write the pages, or name those that are out of date."""
    old = []
    for name, page in PAGES.items():
        file, text = FOLDER / f"{name}.md", page().rstrip() + "\n"
        if check and (not file.is_file() or file.read_text(encoding="utf-8") != text):
            old.append(file.name)
        if not check:
            file.write_text(text, encoding="utf-8")
    if old:
        print(f"out of date: {', '.join(old)}; run python docs/generate_reference.py", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
