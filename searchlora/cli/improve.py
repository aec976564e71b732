"""`searchlora improve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from searchlora.cli.options import (
    DataOption,
    EngineOptions,
    RestartOption,
    SetOption,
    StoreOptions,
    argument,
    option,
    takes,
)


@takes(StoreOptions, "stored")
@takes(EngineOptions, "engine")
def improve(
    data: DataOption,
    name: Annotated[str, option("--name NAME", "Name in the store; an existing name gets a new version.")],
    stored: StoreOptions,
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
    settings: SetOption = [],
    pipeline: Annotated[
        list[str],
        option(
            "--pipeline PIPELINE",
            "Pipeline that retrieves with each rewrite to compute its reward. Repeatable: the mean of their rewards.",
        ),
    ] = ["bm25"],
    index: Annotated[
        Path | None,
        option("--index FOLDER", "Index folder of the dataset's corpus.jsonl. Default: it is indexed for this run."),
    ] = None,
    recipe: Annotated[Path | None, option("--recipe FILE", "YAML file that overrides the adapter's recipe.")] = None,
    resume: Annotated[bool, option("--resume", "Continue an unfinished run where it stopped.")] = False,
    restart: RestartOption = False,
) -> None:
    """Train an adapter on its own best outputs, as the task's reward ranks them. Needs no reference outputs."""
    from searchlora.cli.terminal import progress_bars
    from searchlora.experiments.improve.command import improve as verb
    from searchlora.experiments.options import TrainingOptions

    given = {"improve.reward": reward, "improve.rounds": rounds}
    overrides = [*settings, *(f"{key}={value}" for key, value in given.items() if value is not None)]
    with progress_bars() as steps:
        best = verb(
            adapter,
            data,
            name,
            TrainingOptions(overrides, recipe=recipe, resume=resume, restart=restart),
            pipeline=pipeline,
            index=index,
            **stored.given(),
            engine=engine.read(),
            steps=steps,
        )
    about = best.manifest.training["improve"]
    before = about["start"].get("reward", about["start"].get("unchanged"))
    for round in about["rounds"]:
        winners, validation = round["winners"], round["validation"]
        typer.echo(
            f"Round {round['round']}: validation reward {validation['reward']:.4f}, {winners['rows']} rows trained on, "
            f"{winners['skipped']} skipped, {sum(round['seconds'].values()):.0f} s"
        )
    if before is not None and before >= best.manifest.training["best"]["reward"]:
        typer.echo(f"No round has a higher validation reward than what it started from, {before:.4f}.")
    if "left out" in about:
        typer.echo(f"Left out: {about['left out']}.")
    typer.echo(f"Stored {best.reference} (round {about['chosen round']}) in {best.path}")
    typer.echo(f"Report: {best.path / 'improve.md'}")
