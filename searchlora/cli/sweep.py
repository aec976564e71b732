"""`searchlora sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from searchlora.cli.options import (
    DataOption,
    EngineOptions,
    JsonOption,
    RecipeOptions,
    SplitOption,
    StoreOptions,
    TaskArgument,
    option,
    takes,
)


@takes(RecipeOptions, "recipe")
@takes(EngineOptions, "engine")
@takes(StoreOptions, "stored")
def sweep(
    task: TaskArgument,
    data: DataOption,
    name: Annotated[str, option("--name NAME", "Prefix of the adapters' names.")],
    grid: Annotated[
        list[str], option("--grid KEY=VALUES", "Values of a recipe key, for example lora.r=1,4,16; repeatable.")
    ],
    recipe: RecipeOptions,
    engine: EngineOptions,
    stored: StoreOptions,
    split: SplitOption = "validation",
    limit: Annotated[int | None, option("--limit N", "Evaluate the first N records only.", min=1)] = None,
    out: Annotated[Path | None, option("--out FOLDER", "Folder for table, JSON and plots.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train every combination of recipe values, and compare quality, parameters, memory and time.

    The same command continues an interrupted sweep. Exits with 1 if a trial fails.
    """
    import json

    from searchlora.cli.terminal import progress_bars
    from searchlora.eval.formatting import to_plain
    from searchlora.experiments.options import EvaluationOptions
    from searchlora.experiments.reports import sweep_json, sweep_markdown, write_sweep
    from searchlora.experiments.sweep import sweep as verb

    swept = verb(
        task,
        data,
        name,
        grid,
        recipe.read(),
        evaluation=EvaluationOptions(split, limit, cache_dir=out / "outputs" if out is not None else None),
        engine=engine.read(),
        **stored.given(),
        log=lambda text: typer.echo(text, err=as_json),
        bars=progress_bars,
    )
    typer.echo(json.dumps(to_plain(sweep_json(swept)), indent=2) if as_json else sweep_markdown(swept))
    if out is not None:
        typer.echo(f"Report: {write_sweep(swept, out)}", err=as_json)
    if swept.failed:
        raise typer.Exit(1)
