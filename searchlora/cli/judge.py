"""`searchlora judge` and `judge-card`: LLM judges and their agreement with people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from searchlora.cli.options import (
    AllowCircularOption,
    CardScaleOption,
    CorpusOption,
    EngineOptions,
    MapOption,
    PoolOptions,
    SeedOption,
    ShardOptions,
    StoreOptions,
    TopicsOption,
    argument,
    corpus_of,
    option,
    parse_grades,
    parse_named_files,
    shard_done,
    takes,
)

if TYPE_CHECKING:
    from searchlora.experiments.judge.merge import JudgeResult


class JudgeOptions(NamedTuple):
    """The judge, with the names of the verb's parameters."""

    adapter: Annotated[str | None, argument("ADAPTER", "Judge: name, name@3 or name@alias; or use --base.")] = None
    base: Annotated[
        str | None, option("--base MODEL", "Base model to use as a zero-shot judge, without an adapter.")
    ] = None
    teacher: Annotated[
        str | None,
        option("--teacher MODEL", "With --server: the service's name of a model to use as a zero-shot judge."),
    ] = None
    task: Annotated[
        str | None, option("--task TASK", "Task whose output is a grade. Default: the task of the adapter.")
    ] = None
    settings: Annotated[
        Path | None,
        option("--settings FOLDER", "Without an adapter: dataset folder that holds the grades and the guideline."),
    ] = None
    generate: Annotated[
        bool,
        option(
            "--generate", "Generate the grade as text instead of scoring the grades; an invalid output gives no grade."
        ),
    ] = False
    allow_circular: AllowCircularOption = False


@takes(JudgeOptions)
@takes(PoolOptions, "pool")
@takes(StoreOptions, "stored")
@takes(EngineOptions, "engine")
@takes(ShardOptions, "sharding")
def judge(
    topics: TopicsOption,
    corpus: CorpusOption,
    out: Annotated[Path, option("--out FILE", "Qrels to write, with a card beside them.")],
    options: JudgeOptions,
    pool: PoolOptions,
    stored: StoreOptions,
    engine: EngineOptions,
    sharding: ShardOptions,
    columns: MapOption = [],
) -> None:
    """Grade pairs of query and passage with an LLM, and write qrels that are marked as made by an LLM.

    The same command continues an interrupted run. Several processes or machines that share a folder grade one shard
    each.
    """
    from searchlora.cli.terminal import progress_bars
    from searchlora.experiments.judge.command import judge as verb

    with progress_bars() as steps:
        judged = verb(
            topics,
            corpus_of(corpus, columns),
            out,
            **options._asdict(),
            **pool._asdict(),
            **stored.given(),
            engine=engine.read(),
            sharding=sharding.read(),
            steps=steps,
        )
    if judged is None:
        typer.echo(shard_done(sharding.shard, out))
    else:
        print_judged(judged, out)


def print_judged(judged: JudgeResult, out: Path) -> None:
    """Print what a judge wrote."""
    for system, reason in judged.circular.items():
        typer.echo(f"CIRCULAR: {system}: {reason}")
    for doubt in judged.doubts:
        typer.echo(f"Note: {doubt}")
    grades = ", ".join(f"{count} of grade {grade}" for grade, count in judged.grades.items())
    invalid = f"; {judged.invalid} answers were no grade ({out}.invalid.jsonl)" if judged.invalid else ""
    typer.echo(f"Wrote {sum(judged.grades.values())} judgments of {judged.card.judge} to {out}: {grades}{invalid}")


class StatisticsOptions(NamedTuple):
    """What is measured of the judges, and how, with the names of the verb's parameters."""

    topics: Annotated[
        Path | None, option("--topics FILE", "Topics file, to detect a judge that was trained on these topics.")
    ] = None
    allow_circular: AllowCircularOption = False
    correction: Annotated[str, option("--correction NAME", "Correction over pairs of judges: holm or bh.")] = "holm"
    resamples: Annotated[int, option("--resamples N", "Bootstrap resamples.", min=100)] = 10_000
    seed: SeedOption = 0


@takes(StatisticsOptions)
def judge_card(
    human: Annotated[Path, option("--human FILE", "Qrels by people.")],
    judges: Annotated[list[str], option("--judge NAME=FILE", "Qrels by a judge; repeatable.")],
    out: Annotated[Path, option("--out FOLDER", "Folder for judge_card.json, judge_card.md and .html.")],
    options: StatisticsOptions,
    scale: CardScaleOption = None,
    relevant: Annotated[
        int | None,
        option("--relevant GRADE", "Lowest grade that is relevant. Default: that of the judge's card, else 2."),
    ] = None,
    raters: Annotated[list[str], option("--rater NAME=FILE", "Qrels of one person; repeatable.")] = [],
    since: Annotated[
        Path | None, option("--since FILE", "Earlier judge_card.json; exits with 1 if the kappa of a judge has fallen.")
    ] = None,
) -> None:
    """Measure agreement of LLM judges with human judgments: kappa, error and bias, with intervals."""
    from searchlora.eval.formatting import figure
    from searchlora.eval.judge.cards_from_files import judge_cards, kappa_changes, write
    from searchlora.files import check_writable

    check_writable(*(out / f"judge_card.{kind}" for kind in ("json", "md", "html")))
    result = judge_cards(
        human,
        parse_named_files(judges, "judges"),
        scale=parse_grades(scale) if scale is not None else None,
        relevant=relevant,
        raters=parse_named_files(raters, "raters"),
        **options._asdict(),
    )
    for card in result.cards:
        kappa = card.figures["kappa"]
        for reason in card.circular:
            typer.echo(f"CIRCULAR: {card.judge}: {reason}")
        typer.echo(
            f"{card.judge}: kappa {figure(kappa.value, kappa.low, kappa.high)}, {kappa.n} pairs of"
            f" {kappa.queries} queries"
        )
        for note in card.notes:
            typer.echo(f"  {note}")
    if result.comparison is not None:
        differences = result.comparison.differences
        significant = sum(difference.p_corrected <= 0.05 for difference in differences)
        typer.echo(f"{significant} of {len(differences)} pairs of judges differ ({options.correction}, 0.05).")
    changes = kappa_changes(result, since) if since is not None else []
    typer.echo(f"Wrote {', '.join(map(str, write(result, out)))}")
    for change in changes:
        typer.echo(f"{change.judge}: kappa since {since} {figure(change.difference, change.low, change.high, '+')}")
    if any(change.high < 0 for change in changes):
        typer.echo("Refused: the kappa of a judge has fallen.", err=True)
        raise typer.Exit(1)
