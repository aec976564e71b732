"""`searchlora adapters`: the adapter store."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from searchlora.cli.options import (
    AdapterArgument,
    BaseOption,
    JsonOption,
    StoreOption,
    TasksOption,
    argument,
    example,
    option,
)
from searchlora.errors import printable

if TYPE_CHECKING:
    from searchlora.adapters.listing import Entry

app = typer.Typer(help="List, verify, alias, compare, copy and export stored adapters.", no_args_is_help=True)

_VersionArgument = Annotated[str, argument("ADAPTER", "Exact version, name@3.")]
_NameArgument = Annotated[str, argument("NAME", "Adapter name, without a version.")]
_AliasArgument = Annotated[str, argument("ALIAS", "Alias, for example production.")]
_ReasonOption = Annotated[str | None, option("--reason REASON", "Reason, recorded in the alias history.")]


@app.command("list", epilog=example("searchlora adapters list --store store"))
def list_(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List every version with its aliases, task, base and measures."""
    from rich.markup import escape
    from rich.table import Table

    from searchlora.adapters import Store
    from searchlora.adapters import list as verb
    from searchlora.cli.terminal import print_json, table_console

    entries = verb(store)
    if as_json:
        print_json([_entry_json(entry) for entry in entries])
        return
    if not entries:
        typer.echo(f"There is no adapter in {Store.of(store).place}.")
        return
    table = Table("adapter", "aliases", "task", "base", "stored", "measured")
    for entry in entries:
        aliases = ", ".join(f"{alias}{_alias_marks(entry, alias)}" for alias in entry.aliases)
        if entry.summary is None:
            table.add_row(
                *map(escape, (printable(entry.reference), aliases, f"broken: {printable(entry.problem or '')}"))
            )
            continue
        cells = (
            entry.reference,
            aliases,
            entry.summary.task,
            entry.summary.base.name,
            entry.summary.created[:16].replace("T", " "),
            _measured(entry),
        )
        table.add_row(*map(escape, cells))
    table_console(140).print(table)


@app.command(epilog=example("searchlora adapters show shop-rewriter@production"))
def show(reference: AdapterArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Print a version's manifest without its golden records, and the history of its aliases."""
    from searchlora.adapters import Store
    from searchlora.adapters import show as verb
    from searchlora.cli.terminal import print_json

    manifest = verb(reference, store=store).model_dump_json(indent=2, exclude={"golden"})
    history = Store.of(store).history(reference.partition("@")[0])
    if as_json:
        print_json(
            {
                "manifest": json.loads(manifest),
                "history": [move.model_dump(mode="json", by_alias=True) for move in history],
            }
        )
        return
    typer.echo(manifest)
    for move in history:
        typer.echo(move.with_author)


@app.command(
    epilog=example("searchlora adapters path shop-rewriter@3", "searchlora adapters path shop-rewriter@3 --of base")
)
def path(
    reference: AdapterArgument,
    of: Annotated[
        Literal["adapter", "base"],
        option("--of adapter|base", "adapter: folder for AutoPeftModel; base: folder of the base model."),
    ] = "adapter",
    base: BaseOption = None,
    store: StoreOption = None,
) -> None:
    """Print the folder of the adapter, as PEFT's AutoPeftModel loads it, or the folder of its base model."""
    from searchlora.adapters import base_path
    from searchlora.adapters import path as verb

    typer.echo(str((verb if of == "adapter" else base_path)(reference, base=base, store=store)))


@app.command(epilog=example("searchlora adapters verify shop-rewriter@3"))
def verify(
    reference: AdapterArgument, base: BaseOption = None, store: StoreOption = None, tasks: TasksOption = None
) -> None:
    """Run the full load check: hashes, base, keys, delta, golden renders and logits."""
    from searchlora.adapters import verify as verb

    stored = verb(reference, base=base, store=store, tasks=tasks)
    typer.echo(f"{stored.reference} passes the load check.")


@app.command(epilog=example("searchlora adapters alias shop-rewriter@3 production --reason 'first release'"))
def alias(
    reference: _VersionArgument,
    to: _AliasArgument,
    reason: _ReasonOption = None,
    force: Annotated[
        str | None,
        option("--force REASON", "Move the alias by hand even if a policy decides about it; the reason is recorded."),
    ] = None,
    weights: Annotated[
        str | None,
        option("--weights LIST", "Let versions share the requests, for example 3=.9,4=.1; ADAPTER is then a name."),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Point an alias to a version, or several. An alias that a policy has decided about needs --force."""
    from searchlora.adapters import alias as verb
    from searchlora.adapters.alias_weights import parse_weights

    shares = parse_weights(weights) if weights is not None else None
    typer.echo(str(verb(reference, to, reason=reason, force=force, weights=shares, store=store)))


@app.command(epilog=example("searchlora adapters rollback shop-rewriter production"))
def rollback(name: _NameArgument, to: _AliasArgument, reason: _ReasonOption = None, store: StoreOption = None) -> None:
    """Point an alias back to its previous version."""
    from searchlora.adapters import rollback as verb

    typer.echo(str(verb(name, to, reason=reason, store=store)))


@app.command(epilog=example("searchlora adapters diff shop-rewriter@2 shop-rewriter@3"))
def diff(a: AdapterArgument, b: AdapterArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show what differs between two versions: recipe, data, base, measures."""
    from searchlora.adapters import diff as verb
    from searchlora.cli.terminal import print_json

    difference = verb(a, b, store=store)
    if as_json:
        print_json(asdict(difference))
    else:
        typer.echo(str(difference))


@app.command(epilog=example("searchlora adapters remove shop-rewriter@1"))
def remove(
    reference: _VersionArgument,
    force: Annotated[bool, option("--force", "Remove the version even if an alias points to it.")] = False,
    store: StoreOption = None,
) -> None:
    """Remove a version permanently; its number is never used again."""
    from searchlora.adapters import remove as verb

    typer.echo(f"Removed {verb(reference, force=force, store=store)}")


@app.command(epilog=example("searchlora adapters export shop-rewriter@3 --out merged"))
def export(
    reference: AdapterArgument,
    out: Annotated[Path, option("--out FOLDER", "Folder to write; it must not exist.")],
    base: BaseOption = None,
    store: StoreOption = None,
) -> None:
    """Merge an adapter into a copy of its base as bf16 safetensors, and report the numerical change."""
    from searchlora.adapters import export as verb

    typer.echo(str(verb(reference, out, base=base, store=store)))


@app.command(epilog=example("searchlora adapters push shop-rewriter@3 s3://bucket/adapters"))
def push(
    reference: AdapterArgument,
    url: Annotated[str, argument("URL", "Folder or fsspec URL: s3://bucket/adapters, hf://user/name.")],
    store: StoreOption = None,
) -> None:
    """Copy a version to a folder or URL."""
    from searchlora.adapters import push as verb

    typer.echo(verb(reference, url, store=store))


@app.command(epilog=example("searchlora adapters pull s3://bucket/adapters --name shop-rewriter"))
def pull(
    url: Annotated[str, argument("URL", "Folder or URL that `push` copied the version to.")],
    name: Annotated[str | None, option("--name NAME", "Name in the store. Default: its own name.")] = None,
    base: BaseOption = None,
    tasks: TasksOption = None,
    sha256: Annotated[
        str | None, option("--sha256 HASH", "Refuse a version with another hash than this, which `push` printed.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Copy a version from a folder or URL into the store, if its hashes and its load check pass."""
    from searchlora.adapters import pull as verb

    typer.echo(str(verb(url, name=name, base=base, tasks=tasks, sha256=sha256, store=store)))


def _alias_marks(entry: Entry, alias: str) -> str:
    """How an alias was moved, where that was not a passed policy."""
    marks = [mark for mark, aliases in (("BY FORCE", entry.forced), ("by hand", entry.by_hand)) if alias in aliases]
    return f" ({', '.join(marks)})" if marks else ""


def _measured(entry: Entry) -> str:
    """The latest evaluation, with the baselines that are better; else the measures of the training run."""
    if entry.evaluation is not None and entry.evaluation.value is not None:
        record = entry.evaluation
        warning = f"; LOSES TO {', '.join(record.loses_to)}" if record.loses_to else ""
        return f"{record.measure} {record.value:.3f} ({record.split}, n = {record.n}){warning}"
    figures = [
        f"{key} {value:.3f}"
        for key, value in (entry.summary.metrics.items() if entry.summary is not None else ())
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return ", ".join(figures[:2])


def _entry_json(entry: Entry) -> dict[str, object]:
    described: dict[str, object] = {
        "adapter": printable(entry.reference),
        "aliases": list(entry.aliases),
        "forced": sorted(entry.forced),
        "by_hand": sorted(entry.by_hand),
    }
    if entry.summary is None:
        return described | {"problem": entry.problem}
    return described | {
        "task": entry.summary.task,
        "base": entry.summary.base.name,
        "created": entry.summary.created,
        "metrics": entry.summary.metrics,
        "evaluation": entry.evaluation.model_dump(mode="json") if entry.evaluation is not None else None,
    }
