"""`searchlora grade`, `clicks` and `merge-qrels`: judgments by people, from clicks, and from several sources."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from searchlora.cli.options import (
    CorpusOption,
    MapOption,
    PoolOptions,
    ScaleOption,
    SeedOption,
    TopicsOption,
    argument,
    corpus_of,
    example,
    option,
    parse_grade_map,
    parse_grades,
    parse_numbers,
    takes,
)

if TYPE_CHECKING:
    from searchlora.eval.judgments.clicks import ClickJudgments
    from searchlora.eval.trec import Qrels

app = typer.Typer(help="Collect judgments from people in a browser, and export them.", no_args_is_help=True)

#: Positions of a result page that are printed.
_PRINTED_POSITIONS = 20


class SessionOptions(NamedTuple):
    """How pairs are distributed, with the names of the session's parameters."""

    overlap: Annotated[int, option("--overlap N", "Raters per pair.")] = 2
    seed: Annotated[int, option("--seed N", "Random seed of each rater's order.")] = 0


class AddressOptions(NamedTuple):
    """Where a server listens."""

    host: Annotated[str, option("--host HOST", "Address to listen on; 0.0.0.0 accepts other machines.")] = "127.0.0.1"
    port: Annotated[int, option("--port PORT", "Port; 0 selects a free one.", min=0, max=65535)] = 8765


@app.command(
    epilog=example("searchlora grade serve --topics topics.jsonl --corpus docs.jsonl --guideline guide.md --out grades")
)
@takes(PoolOptions, "pool")
@takes(SessionOptions)
@takes(AddressOptions, "at")
def serve(
    topics: TopicsOption,
    corpus: CorpusOption,
    guideline: Annotated[Path, option("--guideline FILE", "Markdown; lines such as '* 3: Perfect' define the grades.")],
    out: Annotated[Path, option("--out FOLDER", "Folder for ratings.jsonl; an existing file is continued.")],
    pool: PoolOptions,
    options: SessionOptions,
    at: AddressOptions,
    columns: MapOption = [],
    scale: ScaleOption = "0,1,2,3",
    rater: Annotated[
        list[str],
        option("--rater NAME", "Name of a permitted rater; repeatable. Default: any, at most 5 new names per client."),
    ] = [],
) -> None:
    """Serve a page on which people grade pairs, until Ctrl+C."""
    from searchlora.cli.terminal import warnings_on_stderr
    from searchlora.experiments.judge.pairs import load_texts, pairs_to_judge
    from searchlora.server.grading.app import serve as run_server
    from searchlora.server.grading.guideline import read_guideline
    from searchlora.server.grading.ratings_log import RatingsLog
    from searchlora.server.grading.session import Session
    from searchlora.server.http import address, bind, is_loopback

    rules = read_guideline(guideline, parse_grades(scale))
    pooled = pairs_to_judge(*pool)
    judged = load_texts(pooled, topics, corpus_of(corpus, columns))
    with warnings_on_stderr():
        log = RatingsLog(out)
    if log.repaired:
        typer.echo(f"warning: {log.repaired}", err=True)
    try:
        session = Session(judged, rules, log, **options._asdict(), raters=rater or None)
        with bind(*at) as listening:
            typer.echo(
                f"{len(judged)} pairs of {len(pooled)} topics, {options.overlap} raters each; grades go to {log.path}."
            )
            if not is_loopback(at.host):
                typer.echo(
                    "warning: everyone who reaches this address can read the passages and grade under any name.",
                    err=True,
                )
            typer.echo(f"Open {address(listening)} to grade. Ctrl+C stops; the next start continues.")
            run_server(session, listening, at.host)
    finally:
        log.close()


@app.command(epilog=example("searchlora grade export --ratings grades/ratings.jsonl --out judged"))
def export(
    ratings: Annotated[Path, option("--ratings FILE", "The ratings.jsonl that `grade serve` wrote.")],
    out: Annotated[Path, option("--out FOLDER", "Folder for the qrels and the agreement.")],
    rule: Annotated[
        str, option("--rule RULE", "majority, median, highest or lowest; ties go to the lower.")
    ] = "majority",
    seed: SeedOption = 0,
) -> None:
    """Write merged qrels, qrels per rater, and the agreement of the raters."""
    from datetime import UTC, datetime

    from searchlora.cli.terminal import warnings_on_stderr
    from searchlora.eval.formatting import interval
    from searchlora.eval.judge.rater_report import write_ratings
    from searchlora.eval.judgments.ratings import read_ratings
    from searchlora.files import file_sha256

    with warnings_on_stderr():
        exported = write_ratings(
            read_ratings(ratings),
            out,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            made_from={"ratings": file_sha256(ratings)},
            rule=rule,
            seed=seed,
        )
    typer.echo(
        f"Wrote {out}: {exported.pairs} pairs of {len(exported.raters)} raters, {exported.shared} by two or more."
    )
    if exported.alpha is not None:
        ends = interval(exported.alpha.low, exported.alpha.high)
        typer.echo(f"Krippendorff's alpha {exported.alpha.value:.3f} {ends}, n = {exported.alpha.n} pairs.")


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


def merge_qrels(
    human: Annotated[
        Path, argument("HUMAN", "Qrels by people (this declares it, if they have no card); they take precedence.")
    ],
    other: Annotated[Path, argument("OTHER", "Qrels from an LLM or from clicks, for pairs without a human grade.")],
    out: Annotated[Path, option("--out FILE", "Qrels to write, with a card beside them.")],
    source: Annotated[
        Literal["llm", "clicks"] | None, option("--source llm|clicks", "Source of OTHER if it has no card.")
    ] = None,
    scale: Annotated[
        str | None, option("--scale GRADES", "Grades of the scale, for example 0,1,2,3; others are invalid.")
    ] = None,
    grades: Annotated[
        str | None, option("--grades MAP", "Grades of OTHER on the human scale, for example 0=0,1=2.")
    ] = None,
    calibrate: Annotated[
        Literal["isotonic"] | None,
        option("--calibrate isotonic", "Calibration of OTHER, fitted on pairs with both grades."),
    ] = None,
) -> None:
    """Merge judgments from an LLM or from clicks with human judgments; the human grade takes precedence."""
    from searchlora.eval.formatting import figure
    from searchlora.experiments.merge_qrels import merge_files as verb

    result = verb(
        human,
        other,
        out,
        source=source,
        scale=None if scale is None else parse_grades(scale),
        grades=None if grades is None else parse_grade_map(grades, "--grades"),
        calibrate=calibrate,
    )
    merged, same, kappa = result.merged, result.merged.same, result.merged.kappa
    typer.echo(f"Wrote {merged.human} human and {merged.other} other judgments to {out} ({merged.rule})")
    if merged.invalid:
        typer.echo(f"{merged.invalid} of the other judgments have a grade outside the scale and were left out")
    if same is None or kappa is None:
        typer.echo("No pair has both judgments, so their agreement is unknown")
    else:
        typer.echo(
            f"Pairs with both judgments ({same.n}, {same.queries} topics): the same grade in"
            f" {figure(same.value, same.low, same.high)}, kappa {figure(kappa.value, kappa.low, kappa.high)}"
        )


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
