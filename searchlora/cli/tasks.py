"""`searchlora tasks`: list and describe task plugins, and write a new one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from searchlora.cli.options import JsonOption, TaskArgument, TasksOption, argument, example, option

if TYPE_CHECKING:
    from searchlora.task import Task

app = typer.Typer(help="List and describe tasks, and write a new one.", no_args_is_help=True)


@app.command("list", epilog=example("searchlora tasks list", "searchlora tasks list --tasks my_tasks --json"))
def list_(tasks: TasksOption = None, as_json: JsonOption = False) -> None:
    """List every task with its base model, formats and output."""
    from rich.table import Table

    from searchlora.cli.terminal import print_json, table_console, usable_tasks, warn_of

    described = []
    for task in usable_tasks(tasks):
        try:
            described.append(_described(task))
        except Exception as error:  # its code or its files may have any fault; the others are listed
            warn_of(f"the task '{task.name}' cannot be described ({error})")
    if as_json:
        print_json(described)
        return
    table = Table("task", "type", "what it does", "base", "formats")
    for entry in described:
        formats = ", ".join(entry["formats"])
        table.add_row(entry["name"], entry["type"], entry["summary"], str(entry["recipe"].get("base", "")), formats)
    table_console(140).print(table)


@app.command(epilog=example("searchlora tasks show intent"))
def show(task: TaskArgument, tasks: TasksOption = None, as_json: JsonOption = False) -> None:
    """Describe a task: fields, formats with their options, default settings and recipe."""
    import yaml

    from searchlora.cli.terminal import print_json
    from searchlora.task import load_task

    entry = _described(load_task(task, tasks))
    if as_json:
        print_json(entry)
        return
    typer.echo(f"{entry['name']} (version {entry['version']}, {entry['type']}): {entry['summary']}")
    typer.echo(f"folder      {entry['folder']}")
    typer.echo(f"record      {', '.join(_marked(entry['record']))}   (* required)")
    if "reads" in entry:
        reads = ", ".join(f"{field} <- {source}" for field, source in entry["reads"].items())
        typer.echo(f"pipeline    reads {reads}; writes {entry['writes']}")
    typer.echo("\nformats")
    for name, format in entry["formats"].items():
        typer.echo(f"  {name:<16}{format['description']}")
        for key, meaning in format["options"].items():
            typer.echo(f"  {'':<16}  --option {key}=…  {meaning}")
    for heading in ("settings", "recipe"):
        if entry[heading]:
            typer.echo(f"\n{heading}")
            lines = yaml.safe_dump(entry[heading], sort_keys=False, allow_unicode=True, width=110).splitlines()
            typer.echo("\n".join(f"  {line}" for line in lines))


@app.command(epilog=example("searchlora tasks new product_type --kind label --out my_tasks"))
def new(
    name: Annotated[str, argument("NAME", "Task name: lower-case letters, digits, underscores.")],
    kind: Annotated[str, option("--kind KIND", "Output: text, label, labels, grade, json, cited or encoder.")],
    out: Annotated[Path, option("--out FOLDER", "Folder of task plugins, for --tasks.")],
) -> None:
    """Generate a task plugin: a folder with schema, prompt, recipe, examples, card, code and a passing test."""
    from searchlora.scaffold import new_task

    folder = new_task(name, kind, out)
    typer.echo(f"Wrote {folder}:")
    for file in sorted(folder.iterdir()):
        typer.echo(f"  {file.name}")
    typer.echo(f"\nNext: pytest {folder}")
    typer.echo(f"      searchlora tasks show {name} --tasks {out}")
    typer.echo(f"      searchlora data build {name} records.jsonl --format native --out data/{name} --tasks {out}")
    typer.echo(f"The steps from there to a stored adapter are in {folder / 'README.md'}.")


def _described(task: Task) -> dict[str, Any]:
    """A task as JSON values."""
    from searchlora.task import EncoderTask, GenerationTask

    schema = task.record_schema
    entry: dict[str, Any] = {
        "name": task.name,
        "version": task.version,
        "type": "encoder" if isinstance(task, EncoderTask) else "prompted",
        "summary": _summary(task),
        "folder": str(task.folder),
        "record": {name: name in schema.get("required", []) for name in schema.get("properties", {})},
        "formats": {
            name: {
                "description": format.description,
                "options": {name: str(option) for name, option in format.options.items()},
            }
            for name, format in task.formats.items()
        },
        "settings": dict(task.default_settings),
        "recipe": dict(task.default_recipe),
    }
    if isinstance(task, GenerationTask):
        entry |= {"reads": dict(task.reads), "writes": task.writes}
    return entry


def _summary(task: Task) -> str:
    """The first line of the docstring of the task's class, if it has one of its own."""
    return (type(task).__dict__.get("__doc__") or "").strip().partition("\n")[0]


def _marked(fields: dict[str, bool]) -> list[str]:
    return [f"{name}*" if required else name for name, required in fields.items()]
