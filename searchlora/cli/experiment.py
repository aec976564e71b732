"""`searchlora experiment`."""

from __future__ import annotations

from pathlib import Path

import typer


def experiment(
    file: Path = typer.Argument(help="A YAML file: systems, topics, qrels, measures, baseline, policy."),
    out: Path = typer.Option(..., "--out", help="Folder for runs, figures and report.html."),
    since: Path | None = typer.Option(None, "--since", help="An earlier experiment.json; its inputs must be these."),
    accept_changes: bool = typer.Option(False, "--accept-changes", help="Inputs other than the earlier result's."),
    allow_circular: bool = typer.Option(False, "--allow-circular", help="A judge that had a part in a system."),
    junit: Path | None = typer.Option(None, "--junit", help="A JUnit XML file with a test case per rule."),
    summary: Path | None = typer.Option(None, "--summary", help="A Markdown file for a pull request."),
    store: Path | None = typer.Option(None, "--store", help="The adapter store; SEARCHLORA_STORE or ./store."),
    tasks: Path | None = typer.Option(None, "--tasks", help="A folder of task plugins of your own."),
) -> None:
    """Compare systems over topics, with intervals and paired tests; exit 1 where the policy refuses the candidate."""
    from searchlora.adapters.store import Store
    from searchlora.cli.bars import bars
    from searchlora.cli.rules import show_rules
    from searchlora.cli.tables import show
    from searchlora.eval.files import check_writable
    from searchlora.experiments.experiment import experiment as verb
    from searchlora.experiments.results import write, write_decision

    check_writable(junit, summary, out / "report.html")
    with bars() as steps:
        found = verb(
            file,
            out,
            since=since,
            accept_changes=accept_changes,
            allow_circular=allow_circular,
            store=Store(store),
            tasks=tasks,
            steps=steps,
        )
    show(found.comparison)
    if reused := [name for name, run in found.runs.items() if run.reused]:
        typer.echo(f"Runs taken from {out / 'runs'}: {', '.join(reused)}.")
    write_decision(found.spec.name, found.comparison, found.results, junit=junit, summary=summary)
    typer.echo(f"Report: {write(found, out)}")
    if found.results:
        show_rules(found.results)
    if found.refused:
        broken = sum(not result.passed for result in found.results)
        typer.echo(f"Refused: {broken} of {len(found.results)} rules are broken.", err=True)
        raise typer.Exit(1)
