"""`searchlora clicks`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from searchlora.eval.judgments.clicks import ClickJudgments
    from searchlora.eval.trec import Qrels

_POSITIONS = 20  # shown


def clicks(
    log: Path = typer.Argument(help="The click log: a row for each document shown; .jsonl, .csv, .tsv or .parquet."),
    out: Path = typer.Option(..., "--out", help="The qrels file; its card and figures are written beside it."),
    query: str = typer.Option("query", "--query-column", help="The column with the query."),
    document: str = typer.Option("document", "--document-column", help="The column with the document's id."),
    position: str = typer.Option("position", "--position-column", help="The column with the position, from 1."),
    clicked: str = typer.Option("clicked", "--clicked-column", help="The column that is 1 or true where clicked."),
    topics: Path | None = typer.Option(
        None, "--topics", help="Topics to judge, by their queries. Without: each query, its id as in a URL (red+shoes)."
    ),
    minimum: int = typer.Option(10, "--minimum", help="Impressions that a pair needs to be judged."),
    thresholds: str = typer.Option(
        "0.5,1,2", "--thresholds", help="Clicks over expected clicks, rising; the grade is how many are reached."
    ),
) -> None:
    """Make judgments from clicks, corrected for position: a second-class source, marked as such."""
    from datetime import UTC, datetime

    from searchlora.cli.bars import bars
    from searchlora.data.files import check_file
    from searchlora.data.formats.clicks import read_clicks
    from searchlora.data.meter import Meter, metered
    from searchlora.errors import UsageError
    from searchlora.eval.files import file_sha256
    from searchlora.eval.judgments.card import check_new
    from searchlora.eval.judgments.clicks import ClickCounts, details_path, write_click_qrels

    try:
        cuts = [float(each) for each in thresholds.split(",")]
    except ValueError:
        raise UsageError(f"'{thresholds}' are not numbers between commas", where="--thresholds") from None
    columns = {"query": query, "document": document, "position": position, "clicked": clicked}
    check_new(out)
    check_file(log)
    wanted = None if topics is None else _queries(topics)
    counts = ClickCounts()
    with bars() as steps, metered(Meter(log.stat().st_size, steps("Reading the log"))) as meter:
        for impression in read_clicks(log, columns):
            counts.add(impression)
            meter.rows = counts.rows
    found = counts.judge(minimum=minimum, thresholds=cuts)
    inputs = {path.name: file_sha256(path) for path in (log, topics) if path is not None}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    qrels = write_click_qrels(out, found, created=now, topics=wanted, made_from=inputs)
    _show(found, qrels)
    typer.echo(f"Wrote {out} and {details_path(out)}, of source clicks: a second class beside human grades.")


def _queries(topics: Path) -> dict[str, str]:
    from searchlora.eval.formats import read_topics

    return {topic: str(fields["query"]) for topic, fields in read_topics(topics).items()}


def _show(found: ClickJudgments, qrels: Qrels) -> None:
    from collections import Counter

    judged = len(found.judgments)
    typer.echo(f"{found.rows:,} rows, {found.pairs:,} pairs of query and document")
    typer.echo("position   impressions     clicks    rate  95% interval")
    for each in found.positions[:_POSITIONS]:
        figures = f"{each.impressions:>13,} {each.clicks:>10,}   {each.rate:.3f}  {each.low:.3f}–{each.high:.3f}"
        typer.echo(f"{each.position:>8} {figures}")
    if len(found.positions) > _POSITIONS:
        typer.echo(f"{len(found.positions) - _POSITIONS:>8} more positions")
    typer.echo(f"{found.pairs - judged:,} pairs shown less than {found.minimum} times have no judgment")
    grades = Counter(grade for row in qrels.values() for grade in row.values())
    for grade in range(len(found.thresholds) + 1):
        typer.echo(f"grade {grade}: {grades[grade]:>10,} pairs")
    typer.echo(f"{grades.total():,} judgments of {len(qrels):,} topics. Rule: {found.rule}.")
