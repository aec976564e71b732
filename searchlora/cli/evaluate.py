"""`searchlora evaluate`."""

from __future__ import annotations

from pathlib import Path

import typer


def evaluate(
    adapter: str = typer.Argument(help="name, name@3 or name@alias."),
    data: Path = typer.Option(..., "--data", help="A dataset folder."),
    out: Path = typer.Option(..., "--out", help="Folder for outputs, evaluation.json and report.html."),
    beside: list[str] = typer.Option([], "--beside", help="A further adapter to compare with, several times."),
    model: list[Path] = typer.Option(
        [], "--beside-encoder", help="An encoder's folder to compare with, several times."
    ),
    split: str = typer.Option("test", "--split"),
    qrels: Path | None = typer.Option(None, "--qrels", help="Judgments instead of the dataset's own."),
    allow_circular: bool = typer.Option(
        False, "--allow-circular", help="Go on though the judge had a part in a system; the figures are marked."
    ),
    limit: int | None = typer.Option(None, "--limit", help="The first so many records."),
    unconstrained: bool = typer.Option(
        False, "--unconstrained", help="Ask base and adapter once more without holding them to the task's form."
    ),
    stemmer: str | None = typer.Option(None, "--stemmer", help="english: Snowball stemming in BM25."),
    backend: str = typer.Option(
        "bm25s",
        "--backend",
        help="bm25s (lucene), or rank-bm25 (robertson).",
    ),
    store: Path | None = typer.Option(None, "--store", help="The adapter store; SEARCHLORA_STORE or ./store."),
    tasks: Path | None = typer.Option(None, "--tasks", help="A folder of task plugins of your own."),
) -> None:
    """Compare an adapter with its base and the task's baselines, with intervals, and write a report."""
    from searchlora.adapters.store import Store
    from searchlora.cli.bars import bars
    from searchlora.cli.tables import show
    from searchlora.experiments.evaluate import evaluate as verb
    from searchlora.experiments.report import write
    from searchlora.pipelines.config import bm25_settings

    with bars() as steps:
        found = verb(
            adapter,
            data,
            beside=beside,
            models=model,
            split=split,
            limit=limit,
            qrels=qrels,
            allow_circular=allow_circular,
            unconstrained=unconstrained,
            retrieval=bm25_settings(backend=backend, stemmer=stemmer),
            store=Store(store),
            keep=out / "outputs",
            steps=steps,
            tasks=tasks,
        )
    show(found.comparison)
    if found.reused:
        typer.echo(f"Outputs taken from {out / 'outputs'}: {', '.join(found.reused)}.")
    typer.echo(f"Report: {write(found, out)}")
