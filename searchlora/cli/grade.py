"""`searchlora grade`: which pairs people grade first, the page on which they do, and what they graded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from searchlora.cli.options import (
    CorpusOption,
    MapOption,
    PoolOptions,
    ScaleOption,
    SeedOption,
    TopicsOption,
    corpus_of,
    example,
    option,
    parse_grades,
    takes,
)

app = typer.Typer(help="Collect judgments from people in a browser, and export them.", no_args_is_help=True)


class SessionOptions(NamedTuple):
    """How pairs are distributed, with the names of the session's parameters."""

    overlap: Annotated[int, option("--overlap N", "Raters per pair.")] = 2
    seed: Annotated[int, option("--seed N", "Random seed of each rater's order.")] = 0


@app.command(epilog=example("searchlora grade queue --judged llm.txt --human people.txt --out queue.jsonl"))
def queue(
    judged: Annotated[
        list[Path],
        option("--judged QRELS", "Grades of an LLM judge, from `judge`; repeatable, for disagreements of several."),
    ],
    out: Annotated[Path, option("--out FILE", "Pairs to write, JSONL, the most doubtful first.")],
    human: Annotated[list[Path], option("--human QRELS", "Human grades: their pairs are left out; repeatable.")] = [],
    top: Annotated[int | None, option("--top N", "Number of pairs at most.", min=1)] = None,
) -> None:
    """Write the pairs that people should grade first: a judge is unsure of them, or judges disagree."""
    from searchlora.eval.judge.grading_queue import grading_queue, write_queue
    from searchlora.eval.judge.labels import check_human, check_judge

    for path in judged:
        check_judge(path)
    for path in human:
        check_human(path)
    waiting = grading_queue(judged, human=human, top=top)
    write_queue(waiting, out)
    disputed = sum(each.disagreement > 0 for each in waiting)
    typer.echo(f"{len(waiting):,} pairs, {disputed:,} of them with different grades.")
    typer.echo(f"Wrote {out}. Grade them: searchlora grade serve --pairs {out} --as-listed")


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
    as_listed: Annotated[
        bool, option("--as-listed", "Show --pairs in their order, from `grade queue`. Default: at random.")
    ] = False,
    rater: Annotated[
        list[str],
        option("--rater NAME", "Name of a permitted rater; repeatable. Default: any, at most 5 new names per client."),
    ] = [],
) -> None:
    """Serve a page on which people grade pairs, until Ctrl+C."""
    from searchlora.cli.terminal import warnings_on_stderr
    from searchlora.errors import UsageError
    from searchlora.eval.judgments.pooling import iterate_pairs
    from searchlora.experiments.judge.pairs import in_order, load_texts, pairs_to_judge
    from searchlora.server.grading.app import serve as run_server
    from searchlora.server.grading.guideline import read_guideline
    from searchlora.server.grading.ratings_log import RatingsLog
    from searchlora.server.grading.session import Session
    from searchlora.server.http import address, bind, is_loopback

    rules = read_guideline(guideline, parse_grades(scale))
    if as_listed and pool.pairs is None:
        raise UsageError("only a file of pairs has an order", where="--as-listed", fix="Give --pairs.")
    pooled = pairs_to_judge(*pool)
    judged = load_texts(pooled, topics, corpus_of(corpus, columns))
    if as_listed and pool.pairs is not None:
        judged = in_order(judged, iterate_pairs(pool.pairs))
    with warnings_on_stderr():
        log = RatingsLog(out)
    if log.repaired:
        typer.echo(f"warning: {log.repaired}", err=True)
    try:
        session = Session(
            judged,
            rules,
            log,
            overlap=options.overlap,
            seed=options.seed,
            raters=rater or None,
            as_listed=as_listed,
        )
        with bind(*at) as listening:
            raters = f"{options.overlap} rater{'s' if options.overlap > 1 else ''} each"
            typer.echo(f"{len(judged)} pairs of {len(pooled)} topics, {raters}; grades go to {log.path}.")
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
