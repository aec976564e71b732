"""`searchlora train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer


def train(
    task: str = typer.Argument(help="The task, for example rewriting."),
    data: Path = typer.Option(..., "--data", help="A dataset folder, as `data build` writes it."),
    name: str = typer.Option(..., "--name", help="Of the adapter in the store; a new version if it exists."),
    base: str | None = typer.Option(None, "--base", help="Base model: hub id, folder, GGUF file or catalogue name."),
    recipe: Path | None = typer.Option(None, "--recipe", help="A YAML file laid over the task's own recipe."),
    settings: list[str] = typer.Option([], "--set", help="For example lora.r=8; may be given several times."),
    resume: bool = typer.Option(False, "--resume", help="Go on from the last checkpoint of an unfinished run."),
    restart: bool = typer.Option(False, "--restart", help="Throw an unfinished run of this name away."),
    out: Path | None = typer.Option(None, "--out", help="For an encoder: train all weights, write the model here."),
    store: Path | None = typer.Option(None, "--store", help="The adapter store; SEARCHLORA_STORE or ./store."),
    tasks: Path | None = typer.Option(None, "--tasks", help="A folder of task plugins of your own."),
) -> None:
    """Train an adapter, check it and put it into the store."""
    from searchlora.adapters.store import Store
    from searchlora.cli.bars import bars
    from searchlora.experiments.train import train as verb

    how: dict[str, Any] = {"base": base, "recipe": recipe, "overrides": settings, "resume": resume, "restart": restart}
    if out is not None:
        from searchlora.experiments.encoder_train import train_full_model
        from searchlora.task import load_encoder_task

        with bars() as steps:
            plugin = load_encoder_task(task, tasks)
            model = train_full_model(plugin, data, name, out, store=Store(store), steps=steps, **how)
        typer.echo(f"Wrote {model.path}: {model.bytes / 1e6:.1f} MB")
        return
    with bars() as steps:
        stored = verb(
            task,
            data,
            name,
            store=Store(store),
            tasks=tasks,
            steps=steps,
            **how,
        )
    best = stored.manifest.metrics
    typer.echo(f"Stored {stored.reference} in {stored.path}")
    typer.echo("Validation: " + ", ".join(f"{key} {value:.4g}" for key, value in best.items()))
