"""`searchlora monitor`: whether the searches of now are like those before, as a scheduled check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from searchlora.cli.options import JsonOption, argument, option

#: Exit code where an alarm is raised; errors have 1 and 2.
ALARM = 3


def monitor(
    config: Annotated[Path, argument("CONFIG", "YAML file: which events are compared, and with what.")],
    out: Annotated[Path | None, option("--out FILE", "Report to write, JSON.")] = None,
    metrics: Annotated[
        Path | None, option("--metrics FILE", "Metrics to write, for the textfile collector of node_exporter.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare recorded searches with those before: queries, hits, clicks, outputs. Exits with 3 for an alarm."""
    from searchlora.cli.terminal import print_json
    from searchlora.experiments.monitor import monitor as verb
    from searchlora.experiments.monitor import read_config, write_report

    report = verb(read_config(config))
    write_report(report, out, metrics)
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo(f"{report.searches:,} searches now, {report.reference:,} before.")
        for alarm in report.alarms:
            mark = "ALARM" if alarm.raised else "ok"
            typer.echo(f"{mark:>5}  {alarm.test.name}: {alarm.test.finding} (p = {alarm.p:.2g})")
        for reason in report.left_out:
            typer.echo(f"left out: {reason}")
    if report.raised:
        raise typer.Exit(ALARM)
