"""`searchlora run`."""

from __future__ import annotations

from pathlib import Path

import typer


def run(
    pipeline: str = typer.Argument(help="A YAML file, or the name of a ready pipeline."),
    queries: Path = typer.Option(..., "--queries", help="JSON lines with id, query and what stages read, or TSV."),
    corpus: Path = typer.Option(..., "--corpus", help="JSON lines with id, text and title."),
    out: Path = typer.Option(..., "--out", help="The TREC run to write."),
    settings: list[str] = typer.Option([], "--set", help="parameter=value of the pipeline, several times."),
    server: str | None = typer.Option(None, "--server", help="URL of the server that adapters are asked of."),
    api_key_env: str | None = typer.Option(None, "--api-key-env", help="The variable that holds the server's key."),
    store: Path | None = typer.Option(None, "--store", help="The adapter store; SEARCHLORA_STORE or ./store."),
    tasks: Path | None = typer.Option(None, "--tasks", help="A folder of task plugins of your own."),
) -> None:
    """Take queries through a pipeline and write a TREC run; its tag names the pinned adapter versions."""
    from searchlora.adapters.store import Store
    from searchlora.cli.bars import bars
    from searchlora.errors import UsageError
    from searchlora.experiments.run import run as verb
    from searchlora.pipelines.config import engine_settings

    if api_key_env and not server:
        raise UsageError("there is no server for the key", where="--api-key-env", fix="Give --server, too.")
    engine = engine_settings(url=server, api_key_env=api_key_env) if server else None
    with bars() as steps:
        tag, count = verb(
            pipeline,
            queries,
            corpus,
            out,
            overrides=settings,
            engine=engine,
            store=Store(store),
            tasks=tasks,
            steps=steps,
        )
    typer.echo(f"Wrote {count} topics as {tag} to {out}")
