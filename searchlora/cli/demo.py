"""`searchlora demo`."""

from __future__ import annotations

from pathlib import Path

import typer


def demo(
    out: Path = typer.Option(Path("demo"), "--out", help="Folder for shop, dataset, store and report."),
) -> None:
    """The whole way once, on the made shop: data, QLoRA training, evaluation by retrieval, report."""
    from searchlora.cli.bars import bars
    from searchlora.cli.tables import show
    from searchlora.experiments.demo import demo as verb

    with bars() as steps:
        found = verb(out, say=typer.echo, steps=steps)
    show(found.evaluated.comparison)
    typer.echo("Made data: the figures show that the way works, not how good an adapter is on a real shop.")
    typer.echo(f"Report: {found.report}")
