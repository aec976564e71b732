"""`searchlora promote`."""

from __future__ import annotations

from pathlib import Path

import typer


def promote(
    adapter: str = typer.Argument(help="The candidate, name@3."),
    to: str = typer.Option(..., "--to", help="The alias, for example production."),
    policy: Path = typer.Option(..., "--policy", help="A YAML file of rules."),
    data: Path = typer.Option(..., "--data", help="A dataset folder with a split the candidate did not train on."),
    split: str = typer.Option("test", "--split"),
    qrels: Path | None = typer.Option(None, "--qrels", help="Judgments instead of the dataset's own."),
    force: str | None = typer.Option(None, "--force", help="Move the alias against the policy; the reason, kept."),
    accept_changes: bool = typer.Option(False, "--accept-changes", help="Other data than at the last decision."),
    out: Path | None = typer.Option(None, "--out", help="Folder for outputs, report.html and the figures."),
    junit: Path | None = typer.Option(None, "--junit", help="A JUnit XML file with a test case per rule."),
    summary: Path | None = typer.Option(None, "--summary", help="A Markdown file for a pull request."),
    store: Path | None = typer.Option(None, "--store", help="The adapter store; SEARCHLORA_STORE or ./store."),
    tasks: Path | None = typer.Option(None, "--tasks", help="A folder of task plugins of your own."),
) -> None:
    """Let an alias mean a version if its policy lets it through; exit 1 where it does not. Either is kept for good."""
    from searchlora.adapters.store import Store
    from searchlora.cli.bars import bars
    from searchlora.cli.rules import show_rules
    from searchlora.cli.tables import show
    from searchlora.eval.files import check_writable
    from searchlora.experiments.promote import promote as verb
    from searchlora.experiments.report import write
    from searchlora.experiments.results import write_decision

    check_writable(junit, summary, out / "report.html" if out is not None else None)
    with bars() as steps:
        found = verb(
            adapter,
            to,
            policy,
            data,
            split=split,
            qrels=qrels,
            force=force,
            accept_changes=accept_changes,
            store=Store(store),
            keep=out / "outputs" if out is not None else None,
            tasks=tasks,
            steps=steps,
        )
    show(found.evaluated.comparison)
    show_rules(found.results)
    candidate = found.evaluated.adapter.reference
    title = f"{candidate} to {to}"
    write_decision(title, found.evaluated.comparison, found.results, force or "", junit=junit, summary=summary)
    if out is not None:
        typer.echo(f"Report: {write(found.evaluated, out, rules=found.results, forced=force or '')}")
    if found.refused:
        broken = sum(not result.passed for result in found.results)
        typer.echo(f"Refused: {broken} of {len(found.results)} rules are broken; '{to}' stays where it was.", err=True)
        raise typer.Exit(1)
    typer.echo(str(found.move))
