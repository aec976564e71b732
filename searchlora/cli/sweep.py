"""`searchlora sweep`."""

from __future__ import annotations

from typing import Annotated

import typer

from searchlora.cli.options import DataOption, RecipeOptions, SplitOption, StoreOptions, TaskArgument, option, takes


@takes(RecipeOptions, "recipe")
@takes(StoreOptions, "stored")
def sweep(
    task: TaskArgument,
    data: DataOption,
    name: Annotated[str, option("--name NAME", "Prefix of the adapters' names.")],
    grid: Annotated[list[str], option("--grid KEY=VALUES", "Values of a recipe key: lora.r=1,4,16; repeatable.")],
    recipe: RecipeOptions,
    stored: StoreOptions,
    split: SplitOption = "validation",
    limit: Annotated[int | None, option("--limit N", "Evaluate the first N records only.", min=1)] = None,
) -> None:
    """Train every combination of recipe values, and compare the best one with each other one.

    The same command continues an interrupted sweep. Exits with 1 if a trial fails.
    """
    from searchlora.cli.terminal import progress_bars
    from searchlora.eval.tables import to_markdown
    from searchlora.experiments.options import EvaluationOptions
    from searchlora.experiments.sweep import sweep as verb

    rows = EvaluationOptions(split, limit)
    with progress_bars() as steps:
        trials, comparison = verb(
            task, data, name, grid, recipe.read(), evaluation=rows, **stored.given(), log=typer.echo, steps=steps
        )
    typer.echo(to_markdown(comparison))
    if any(trial.error for trial in trials):
        raise typer.Exit(1)
