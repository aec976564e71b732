"""`searchlora clicks` and `convert`: judgments from clicks, and from other formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from searchlora.cli.options import JudgmentsSourceOption, argument, option, parse_numbers

if TYPE_CHECKING:
    from searchlora.eval.judgments.clicks import ClickJudgments
    from searchlora.eval.trec import Qrels

#: Positions of a result page that are printed.
_PRINTED_POSITIONS = 20


def clicks(
    log: Annotated[Path, argument("LOG", "Click log, one row per shown document: .jsonl, .csv, .tsv or .parquet.")],
    out: Annotated[Path, option("--out FILE", "Qrels to write, with a card and the click statistics beside them.")],
    query: Annotated[str, option("--query-column COLUMN", "Column of the query.")] = "query",
    document: Annotated[str, option("--document-column COLUMN", "Column of the document id.")] = "document",
    position: Annotated[str, option("--position-column COLUMN", "Column of the position, from 1.")] = "position",
    clicked: Annotated[str, option("--clicked-column COLUMN", "Column that is 1 or true for a click.")] = "clicked",
    topics: Annotated[
        Path | None, option("--topics FILE", "Topics to judge. Default: every query; its id is the URL-encoded query.")
    ] = None,
    minimum: Annotated[int, option("--minimum N", "Impressions required to judge a pair.")] = 10,
    thresholds: Annotated[
        str,
        option(
            "--thresholds NUMBERS",
            "Ratios of clicks to expected clicks, in increasing order, one for each grade above 0.",
        ),
    ] = "0.5,1,2",
) -> None:
    """Derive judgments from clicks, corrected for position bias. Their card names clicks as the source."""
    from datetime import UTC, datetime

    from searchlora.cli.terminal import progress_bars
    from searchlora.data.formats.clicks import read_clicks
    from searchlora.eval.judgments.card import check_new
    from searchlora.eval.judgments.clicks import ClickCounts, details_path, write_click_qrels
    from searchlora.files import ReadProgress, check_file, file_sha256, track_reads

    ratios = parse_numbers(thresholds, "--thresholds")
    columns = {"query": query, "document": document, "position": position, "clicked": clicked}
    check_new(out)
    check_file(log)
    queries = None if topics is None else _queries(topics)
    counts = ClickCounts()
    with progress_bars() as steps, track_reads(ReadProgress(log.stat().st_size, steps("Reading the log"))) as meter:
        for impression in read_clicks(log, columns):
            counts.add(impression)
            meter.rows = counts.rows
    judgments = counts.judge(minimum=minimum, thresholds=ratios)
    inputs = {path.name: file_sha256(path) for path in (log, topics) if path is not None}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    qrels = write_click_qrels(out, judgments, created=now, topics=queries, made_from=inputs)
    _print_clicks(judgments, qrels)
    typer.echo(f"Wrote {out} and {details_path(out)}, source: clicks.")


def convert(
    source: Annotated[Path, argument("IN", "Qrels: TREC, BEIR, JSONL, or an export of Quepid or OpenSearch.")],
    target: Annotated[Path, argument("OUT", "File to write.")],
    to: Annotated[Literal["trec", "opensearch"], option("--to FORMAT", "Format of OUT: trec or opensearch.")] = "trec",
    thresholds: Annotated[
        str | None,
        option(
            "--thresholds NUMBERS",
            "Thresholds that turn ratings into grades, such as 0.25,0.5,0.75; the grade is the number reached.",
        ),
    ] = None,
    topics: Annotated[
        Path | None,
        option("--topics FILE", "Topics, for Quepid and OpenSearch, which store query texts."),
    ] = None,
    judgments_source: JudgmentsSourceOption = None,
) -> None:
    """Convert qrels with their card, for evaluation tools or OpenSearch's Search Relevance Workbench."""
    from searchlora.eval.formats import read_topics
    from searchlora.eval.judgments.converting import convert_qrels
    from searchlora.eval.judgments.sources import check_source

    converted = convert_qrels(
        source,
        target,
        to_opensearch=to == "opensearch",
        thresholds=None if thresholds is None else parse_numbers(thresholds, "--thresholds"),
        topics=None if topics is None else read_topics(topics),
        declared=None if judgments_source is None else check_source(judgments_source, "--judgments-source"),
    )
    typer.echo(f"Wrote {target}: {len(converted)} topics, {sum(map(len, converted.values()))} judgments.")


def _queries(topics: Path) -> dict[str, str]:
    from searchlora.eval.formats import read_topics

    return {topic: str(fields["query"]) for topic, fields in read_topics(topics).items()}


def _print_clicks(judgments: ClickJudgments, qrels: Qrels) -> None:
    from collections import Counter

    judged = len(judgments.judgments)
    typer.echo(f"{judgments.rows:,} rows, {judgments.pairs:,} pairs of query and document")
    typer.echo("position   impressions     clicks    rate  95% interval")
    for row in judgments.positions[:_PRINTED_POSITIONS]:
        figures = f"{row.impressions:>13,} {row.clicks:>10,}   {row.rate:.3f}  {row.low:.3f}–{row.high:.3f}"
        typer.echo(f"{row.position:>8} {figures}")
    if len(judgments.positions) > _PRINTED_POSITIONS:
        typer.echo(f"{len(judgments.positions) - _PRINTED_POSITIONS:>8} more positions")
    typer.echo(f"{judgments.pairs - judged:,} pairs with fewer than {judgments.minimum} impressions have no judgment")
    grades = Counter(grade for row in qrels.values() for grade in row.values())
    for grade in range(len(judgments.thresholds) + 1):
        typer.echo(f"grade {grade}: {grades[grade]:>10,} pairs")
    typer.echo(f"{grades.total():,} judgments of {len(qrels):,} topics. Rule: {judgments.rule}.")
