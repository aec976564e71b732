"""`searchlora evaluate`, `experiment` and `promote`: offline evaluation and the decision on an alias."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from searchlora.cli.options import (
    AcceptChangesOption,
    AdapterArgument,
    AllowCircularOption,
    DataOption,
    DecisionFiles,
    EngineOptions,
    EvaluationOptions,
    StoreOptions,
    argument,
    option,
    takes,
)

if TYPE_CHECKING:
    from searchlora.experiments.evaluation_result import EvaluationResult


class ComparisonOptions(NamedTuple):
    """What else `evaluate` measures."""

    compare_with: Annotated[list[str], option("--compare-with ADAPTER", "Another adapter to compare; repeatable.")] = []
    models: Annotated[
        list[Path], option("--compare-with-encoder FOLDER", "Another encoder to compare; repeatable.")
    ] = []
    allow_circular: AllowCircularOption = False
    limit: Annotated[int | None, option("--limit N", "Use the first N records.", min=1)] = None
    unconstrained: Annotated[
        bool, option("--unconstrained", "Also evaluate the base and the adapter without the output grammar.")
    ] = False


@takes(EvaluationOptions, "rows")
@takes(ComparisonOptions, "compared")
@takes(StoreOptions, "stored")
@takes(EngineOptions, "engine")
def evaluate(
    adapter: AdapterArgument,
    data: DataOption,
    out: Annotated[Path, option("--out FOLDER", "Folder for outputs, evaluation.json and report.html.")],
    rows: EvaluationOptions,
    compared: ComparisonOptions,
    stored: StoreOptions,
    engine: EngineOptions,
    stemmer: Annotated[
        str | None, option("--stemmer LANGUAGE", "Snowball stemmer of BM25, for example english.")
    ] = None,
) -> None:
    """Compare an adapter with its base model and the task's baselines, and write a report with intervals."""
    from searchlora.cli.terminal import print_comparison, progress_bars
    from searchlora.experiments.evaluate import evaluate as verb
    from searchlora.experiments.reports import write_evaluation
    from searchlora.pipelines.config import bm25_settings

    options = rows.read(
        limit=compared.limit,
        retrieval=bm25_settings(stemmer=stemmer),
        unconstrained=compared.unconstrained,
        allow_circular=compared.allow_circular,
        cache_dir=out / "outputs",
    )
    with progress_bars() as steps:
        evaluated = verb(
            adapter,
            data,
            options,
            compare_with=compared.compare_with,
            models=compared.models,
            engine=engine.read(),
            **stored.given(),
            steps=steps,
        )
    print_comparison(evaluated.comparison)
    _warn(evaluated)
    if evaluated.reused:
        typer.echo(f"Outputs taken from {out / 'outputs'}: {', '.join(evaluated.reused)}.")
    typer.echo(f"Report: {write_evaluation(evaluated, out)}")


@takes(DecisionFiles, "files")
@takes(StoreOptions, "stored")
@takes(EngineOptions, "engine")
def experiment(
    file: Annotated[Path, argument("FILE", "YAML file: systems, topics, qrels, measures, baseline, policy.")],
    out: Annotated[Path, option("--out FOLDER", "Folder for runs, figures and report.html.")],
    files: DecisionFiles,
    stored: StoreOptions,
    engine: EngineOptions,
    since: Annotated[
        Path | None, option("--since FILE", "Earlier experiment.json whose inputs must be the same.")
    ] = None,
    accept_changes: AcceptChangesOption = False,
    allow_circular: AllowCircularOption = False,
) -> None:
    """Compare systems over topics, with intervals and paired tests. Exits with 1 if a policy rule is broken."""
    from searchlora.cli.terminal import print_comparison, print_rules, progress_bars
    from searchlora.experiments.experiment import experiment as verb
    from searchlora.experiments.reports import write_decision, write_experiment
    from searchlora.experiments.spec import read_experiment
    from searchlora.files import check_writable

    check_writable(files.junit, files.summary, out / "report.html")
    spec = read_experiment(file)
    with progress_bars() as steps:
        result = verb(
            spec,
            out,
            since=since,
            accept_changes=accept_changes,
            allow_circular=allow_circular,
            engine=engine.read(),
            **stored.given(),
            steps=steps,
        )
    print_comparison(result.comparison)
    if result.reused:
        typer.echo(f"Runs taken from {out / 'runs'}: {', '.join(result.reused)}.")
    write_decision(result.spec.name, result.comparison, result.results, junit=files.junit, summary=files.summary)
    typer.echo(f"Report: {write_experiment(result, out)}")
    if result.results:
        print_rules(result.results)
    if result.refused:
        broken = sum(not rule.passed for rule in result.results)
        typer.echo(f"Refused: {broken} of {len(result.results)} rules are broken.", err=True)
        raise typer.Exit(1)


@takes(EvaluationOptions, "rows")
@takes(DecisionFiles, "files")
@takes(StoreOptions, "stored")
@takes(EngineOptions, "engine")
def promote(
    adapter: Annotated[str, argument("ADAPTER", "Candidate version, name@3.")],
    to: Annotated[str, option("--to ALIAS", "Alias to move, for example production.")],
    policy: Annotated[Path, option("--policy FILE", "YAML file of rules.")],
    data: DataOption,
    rows: EvaluationOptions,
    files: DecisionFiles,
    stored: StoreOptions,
    engine: EngineOptions,
    force: Annotated[
        str | None, option("--force REASON", "Move the alias even if the policy refuses; the reason is recorded.")
    ] = None,
    reason: Annotated[
        str | None,
        option(
            "--reason REASON",
            "Why the policy is not that of the last decision on the alias; the reason is recorded.",
        ),
    ] = None,
    accept_changes: AcceptChangesOption = False,
    events: Annotated[
        str | None,
        option("--events PLACE", "What `serve --events` names, for a policy with `interleaving`: what users prefer."),
    ] = None,
    out: Annotated[Path | None, option("--out FOLDER", "Folder for outputs, report.html and figures.")] = None,
) -> None:
    """Move an alias to a version if it meets the policy; otherwise exit with 1. Either decision is recorded."""
    from searchlora.cli.terminal import print_comparison, print_rules, progress_bars
    from searchlora.experiments.options import DecisionOptions
    from searchlora.experiments.promote import promote as verb
    from searchlora.experiments.reports import write_decision, write_evaluation
    from searchlora.files import check_writable

    check_writable(files.junit, files.summary, out / "report.html" if out is not None else None)
    with progress_bars() as steps:
        promotion = verb(
            adapter,
            to,
            policy,
            data,
            decision=DecisionOptions(force, reason, accept_changes, events),
            evaluation=rows.read(cache_dir=out / "outputs" if out is not None else None),
            engine=engine.read(),
            **stored.given(),
            steps=steps,
        )
    evaluated, results = promotion.evaluated, promotion.results
    print_comparison(evaluated.comparison)
    _warn(evaluated)
    print_rules(results)
    title = f"{evaluated.adapter.reference} to {to}"
    write_decision(title, evaluated.comparison, results, force or "", junit=files.junit, summary=files.summary)
    if out is not None:
        typer.echo(f"Report: {write_evaluation(evaluated, out, rules=results, forced=force or '')}")
    if promotion.refused:
        broken = sum(not rule.passed for rule in results)
        typer.echo(f"Refused: {broken} of {len(results)} rules are broken; '{to}' is unchanged.", err=True)
        raise typer.Exit(1)
    typer.echo(str(promotion.move))


def _warn(evaluated: EvaluationResult) -> None:
    """Print which baselines are better, and which learned from too few rows."""
    for loss in evaluated.losses:
        typer.echo(f"warning: {loss}. Use the baseline, or train a better adapter.", err=True)
    for warning in evaluated.learned.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for note in evaluated.learned.notes:
        typer.echo(f"note: {note}", err=True)
