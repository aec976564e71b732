"""`searchlora demo`."""

from __future__ import annotations

from pathlib import Path

import typer


def demo(
    out: Path = typer.Option(Path("demo"), "--out", help="Folder for shop, datasets, store and reports."),
    every: bool = typer.Option(False, "--all", help="Every task that reads the shop, and one page with all of them."),
) -> None:
    """The whole way once, on the made shop: data, QLoRA training, evaluation by retrieval, report."""
    from searchlora.cli.bars import bars
    from searchlora.cli.tables import show
    from searchlora.experiments.demo import demo as one
    from searchlora.experiments.demo import demo_all

    with bars() as steps:
        if every:
            found = demo_all(out, say=typer.echo, steps=steps)
            evaluated, report = {name: each.evaluated for name, each in found.tasks.items()}, found.report
        else:
            single = one(out, say=typer.echo, steps=steps)
            evaluated, report = {"": single.evaluated}, single.report
    for name, each in evaluated.items():
        if name:
            typer.echo(f"\n{name}")
        show(each.comparison)
    typer.echo("Made data: the figures show that the way works, not how good an adapter is on a real shop.")
    typer.echo(f"Report: {report}")
