"""`searchlora adapters`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from searchlora.adapters.store import Entry, Store

app = typer.Typer(help="The adapter store: list, check, name, compare, move and merge adapters.", no_args_is_help=True)

_STORE = typer.Option(None, "--store", help="The adapter store; SEARCHLORA_STORE or ./store.")
_REFERENCE = typer.Argument(help="name, name@3 or name@alias.")


def _store(path: Path | None) -> Store:
    from searchlora.adapters.store import Store

    return Store(path)


@app.command("list")
def list_(store: Path | None = _STORE) -> None:
    """Every version, with its aliases."""
    from rich.console import Console
    from rich.table import Table

    entries = _store(store).list()
    if not entries:
        typer.echo(f"There is no adapter in {_store(store).root}.")
        return
    table = Table("adapter", "aliases", "task", "base", "stored", "measured")
    for entry in entries:
        reference = f"{entry.name}@{entry.version}"
        aliases = ", ".join(f"{alias}{_how(entry, alias)}" for alias in entry.aliases)
        if entry.manifest is None:
            table.add_row(reference, aliases, f"broken: {entry.problem}")
            continue
        figures = [f"{key} {value:.3f}" for key, value in list(entry.manifest.metrics.items())[:2]]
        table.add_row(
            reference,
            aliases,
            entry.manifest.task,
            entry.manifest.base.name,
            entry.manifest.created[:16].replace("T", " "),
            ", ".join(figures),
        )
    Console(width=None if Console().is_terminal else 140).print(table)


def _how(entry: Entry, alias: str) -> str:
    """What is to be known of how an alias came to a version."""
    said = [mark for mark, found in (("BY FORCE", entry.forced), ("by hand", entry.by_hand)) if alias in found]
    return f" ({', '.join(said)})" if said else ""


@app.command()
def show(reference: str = _REFERENCE, store: Path | None = _STORE) -> None:
    """The manifest of a version, as JSON, without its golden renders, and the moves of its aliases."""
    from searchlora.adapters import show as verb

    typer.echo(verb(reference, store=_store(store)).model_dump_json(indent=2, exclude={"golden"}))
    for move in _store(store).history(reference.partition("@")[0]):
        typer.echo(str(move))


@app.command()
def verify(
    reference: str = _REFERENCE,
    base: str | None = typer.Option(None, "--base", help="Where its base is, if not under the manifest's name."),
    store: Path | None = _STORE,
    tasks: Path | None = typer.Option(None, "--tasks", help="A folder of task plugins of your own."),
) -> None:
    """The full load check: hashes, base, keys, delta, golden renders and logits."""
    from searchlora.adapters import verify as verb

    found = verb(reference, base=base, store=_store(store), tasks=tasks)
    typer.echo(f"{found.reference} passes the load check.")


@app.command()
def alias(
    reference: str = typer.Argument(help="name@3: the version that the alias shall mean."),
    to: str = typer.Argument(help="The alias, for example production."),
    reason: str | None = typer.Option(None, "--reason"),
    store: Path | None = _STORE,
) -> None:
    """Let an alias mean a version."""
    from searchlora.adapters import alias as verb

    typer.echo(str(verb(reference, to, reason=reason, store=_store(store))))


@app.command()
def rollback(
    name: str = typer.Argument(help="The adapter's name."),
    to: str = typer.Argument(help="The alias."),
    reason: str | None = typer.Option(None, "--reason"),
    store: Path | None = _STORE,
) -> None:
    """Let an alias mean what it meant before."""
    from searchlora.adapters import rollback as verb

    typer.echo(str(verb(name, to, reason=reason, store=_store(store))))


@app.command()
def diff(a: str = _REFERENCE, b: str = _REFERENCE, store: Path | None = _STORE) -> None:
    """What differs between two versions: recipe, data, base, measures, weights."""
    from searchlora.adapters import diff as verb

    typer.echo(str(verb(a, b, store=_store(store))))


@app.command()
def remove(
    reference: str = typer.Argument(help="name@3."),
    force: bool = typer.Option(False, "--force", help="Even if an alias means it."),
    store: Path | None = _STORE,
) -> None:
    """Take a version out of the store for good; its number is never used again."""
    from searchlora.adapters import remove as verb

    typer.echo(f"Removed {verb(reference, force=force, store=_store(store))}")


@app.command()
def merge(
    references: list[str] = typer.Argument(help="Two or more adapters of one base and task."),
    name: str = typer.Option(..., "--name", help="Of the new adapter."),
    weights: str = typer.Option("", "--weights", help="As many numbers, for example 0.5,0.5; equal if not given."),
    method: str = typer.Option("cat", "--method", help="cat (exact, larger rank), linear, ties or dare_ties."),
    base: str | None = typer.Option(None, "--base", help="Where the base is, if not under the manifest's name."),
    store: Path | None = _STORE,
    tasks: Path | None = typer.Option(None, "--tasks", help="A folder of task plugins of your own."),
) -> None:
    """Combine adapters into a new one."""
    from searchlora.adapters import merge as verb
    from searchlora.errors import UsageError

    try:
        shares = [float(weight) for weight in weights.split(",")] if weights else None
    except ValueError:
        raise UsageError(f"'{weights}' are no numbers", where="--weights") from None
    stored = verb(references, name, weights=shares, method=method, base=base, tasks=tasks, store=_store(store))
    typer.echo(f"Stored {stored.reference}")


@app.command()
def export(
    reference: str = _REFERENCE,
    out: Path = typer.Option(..., "--out", help="The folder to write; it must not exist."),
    store: Path | None = _STORE,
) -> None:
    """Merge an adapter into a fresh copy of its base, as bf16 safetensors, and say what merging changed."""
    from searchlora.adapters import export as verb

    typer.echo(str(verb(reference, out, store=_store(store))))


@app.command()
def push(
    reference: str = _REFERENCE,
    url: str = typer.Argument(help="A folder, or an fsspec address such as s3://bucket/adapters or hf://user/name."),
    store: Path | None = _STORE,
) -> None:
    """Copy a version out of the store."""
    from searchlora.adapters import push as verb

    typer.echo(verb(reference, url, store=_store(store)))


@app.command()
def pull(
    url: str = typer.Argument(help="Where `push` put it."),
    name: str | None = typer.Option(None, "--name", help="Under another name than it has."),
    base: str | None = typer.Option(None, "--base", help="Where its base is, if not under the manifest's name."),
    tasks: Path | None = typer.Option(None, "--tasks", help="A folder of task plugins of your own."),
    store: Path | None = _STORE,
) -> None:
    """Copy a version into the store, if its files are what its manifest says and it passes the load check."""
    from searchlora.adapters import pull as verb

    typer.echo(str(verb(url, name=name, base=base, tasks=tasks, store=_store(store))))
