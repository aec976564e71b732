"""`searchlora data`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import typer


class OnLeak(StrEnum):
    """What to do with rows whose input stands in two splits."""

    refuse = "refuse"
    drop = "drop"


app = typer.Typer(help="Build datasets from source files, and look at them.", no_args_is_help=True)


@app.command()
def build(
    task: str = typer.Argument(help="The task, for example rewriting."),
    source: Path = typer.Argument(help="The source file or folder."),
    format: str = typer.Option(..., "--format", help="See `searchlora data formats TASK`."),
    out: Path = typer.Option(..., "--out", help="The dataset folder to write; it must not exist."),
    option: list[str] = typer.Option([], "--option", help="key=value for the format's reader, several times."),
    shares: str = typer.Option("0.8,0.1,0.1", "--shares", help="Of groups in train, validation and test."),
    seed: int = typer.Option(13, "--seed", help="Of the split."),
    limit: int | None = typer.Option(None, "--limit", help="Read so many rows at most."),
    on_leak: OnLeak = typer.Option(OnLeak.refuse, "--on-leak", help="refuse, or drop colliding rows from train."),
    corpus: Path | None = typer.Option(None, "--corpus", help="Documents (id, text, title) to evaluate by retrieval."),
    qrels: Path | None = typer.Option(None, "--qrels", help="TREC judgments of the records' ids for that corpus."),
    relevant: int | None = typer.Option(None, "--relevant", min=1, help="The grade that counts in MRR and Recall; 1."),
    allow_rejects: bool = typer.Option(False, "--allow-rejects", help="Build although rows were rejected."),
    tasks: Path | None = typer.Option(None, "--tasks", help="A folder of task plugins of your own."),
) -> None:
    """Read, validate, split by group, check for leaks, and write train, validation and test with a card."""
    from searchlora.cli.bars import bars
    from searchlora.data.building import build as verb
    from searchlora.errors import UsageError
    from searchlora.task import load_task

    for pair in option:
        if "=" not in pair:
            raise UsageError(f"'{pair}' is not of the form key=value", where="--option")
    options = dict(pair.split("=", 1) for pair in option)
    try:
        train, validation, test = (float(share) for share in shares.split(","))
    except ValueError:
        raise UsageError(f"'{shares}' are not three numbers", where="--shares") from None
    with bars() as steps:
        card = verb(
            load_task(task, tasks),
            source,
            format=format,
            out=out,
            options=options,
            shares=(train, validation, test),
            seed=seed,
            limit=limit,
            on_leak=on_leak.value,
            allow_rejects=allow_rejects,
            corpus=corpus,
            qrels=qrels,
            relevant=relevant,
            progress=steps("Reading"),
        )
    typer.echo(f"Wrote {out}")
    for split, rows in card.rows.items():
        typer.echo(f"{split:<12}{rows:>10,} rows in {card.groups[split]:,} groups")
    for reason, rows in card.rejected.items():
        typer.echo(f"rejected    {rows:>10,} rows: {reason}")
    typer.echo(f"leaks       {card.leaks['found']:>10,} rows, taken out: {card.leaks['taken out']}")
    for what, count in card.report.get("counts", {}).items():
        typer.echo(f"{what}: {count:,}")
    for warning in card.warnings:
        typer.echo(f"warning: {warning}")


@app.command()
def formats(
    task: str = typer.Argument(help="The task."),
    tasks: Path | None = typer.Option(None, "--tasks", help="A folder of task plugins of your own."),
) -> None:
    """List the source formats that a task reads, and their options."""
    from searchlora.task import load_task

    for name, entry in sorted(load_task(task, tasks).formats.items()):
        typer.echo(f"{name:<12} {entry.description}")
        for key, meaning in (entry.options or {}).items():
            typer.echo(f"{'':<12}   --option {key}=…  {meaning}")


@app.command()
def shop(
    out: Path = typer.Option(..., "--out", help="The folder to write; it must not exist."),
    products: int = typer.Option(2000, "--products", help="At least 600."),
    queries: int = typer.Option(2400, "--queries", help="Records of query rewriting, at least 100."),
    seed: int = typer.Option(13, "--seed"),
) -> None:
    """Make the made shop: products, judgments, a help centre and the records of every task from one seed."""
    from searchlora.cli.bars import bars
    from searchlora.shop import make_shop

    with bars() as steps:
        card = make_shop(out, products=products, queries=queries, seed=seed, progress=steps("Making products"))
    typer.echo(f"Wrote {out}: {card.counts}")
