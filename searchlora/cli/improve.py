"""`searchlora improve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from searchlora.cli.options import (
    DataOption,
    DeviceOption,
    EngineOptions,
    SetOption,
    StoreOption,
    TasksOption,
    argument,
    option,
    takes,
)


@takes(EngineOptions, "engine")
def improve(
    data: DataOption,
    name: Annotated[str, option("--name NAME", "Name in the store; an existing name gets a new version.")],
    engine: EngineOptions,
    adapter: Annotated[
        str | None, argument("[ADAPTER]", "Adapter to improve: name, name@3 or name@alias. Default: the base model.")
    ] = None,
    reward: Annotated[
        str | None,
        option("--reward MEASURE", "Measure to use as the reward, such as nDCG@10. Default: the reward of the task."),
    ] = None,
    rounds: Annotated[
        int | None, option("--rounds N", "Number of rounds; short for --set improve.rounds=N.", min=1)
    ] = None,
    pipeline: Annotated[
        str, option("--pipeline PIPELINE", "Pipeline that retrieves with each rewrite to compute its reward.")
    ] = "bm25",
    recipe: Annotated[Path | None, option("--recipe FILE", "YAML file that overrides the adapter's recipe.")] = None,
    settings: SetOption = [],
    resume: Annotated[bool, option("--resume", "Continue an unfinished run where it stopped.")] = False,
    restart: Annotated[bool, option("--restart", "Discard an unfinished run of this name.")] = False,
    store: StoreOption = None,
    tasks: TasksOption = None,
    _device: DeviceOption = None,
) -> None:
    """Train an adapter on its own best outputs, as the task's reward ranks them. Needs no reference outputs."""
    from searchlora.adapters.store import Store
    from searchlora.cli.terminal import progress_bars
    from searchlora.experiments.improve.command import improve as verb

    given = {"improve.reward": reward, "improve.rounds": rounds}
    overrides = [*settings, *(f"{key}={value}" for key, value in given.items() if value is not None)]
    with progress_bars() as steps:
        stored = verb(
            adapter,
            data,
            name,
            recipe=recipe,
            overrides=overrides,
            pipeline=pipeline,
            resume=resume,
            restart=restart,
            engine=engine.read(),
            store=Store(store),
            tasks=tasks,
            steps=steps,
        )
    about = stored.manifest.training["improve"]
    before = about["start"].get("reward", about["start"].get("unchanged"))
    for each in about["rounds"]:
        winners, validation = each["winners"], each["validation"]
        typer.echo(
            f"Round {each['round']}: validation reward {validation['reward']:.4f}, {winners['rows']} rows trained on, "
            f"{winners['skipped']} skipped, {sum(each['seconds'].values()):.0f} s"
        )
    if before is not None and before >= stored.manifest.training["best"]["reward"]:
        typer.echo(f"No round has a higher validation reward than what it started from, {before:.4f}.")
    if "left out" in about:
        typer.echo(f"Left out: {about['left out']}.")
    typer.echo(f"Stored {stored.reference} (round {about['chosen round']}) in {stored.path}")
    typer.echo(f"Report: {stored.path / 'improve.md'}")
