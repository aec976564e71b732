"""`searchlora grade`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from searchlora.cli.named import grades

app = typer.Typer(help="Let people grade query-passage pairs in their browsers, and export it.", no_args_is_help=True)


@app.command()
def serve(
    topics: Path = typer.Option(..., "--topics", help="The queries."),
    corpus: Path = typer.Option(..., "--corpus", help="The passages: rows with id, text and perhaps title."),
    guideline: Path = typer.Option(..., "--guideline", help="Markdown; lines such as '* 3: Perfect' name the grades."),
    out: Path = typer.Option(..., "--out", help="Folder for ratings.jsonl; what is there is gone on with."),
    pairs: Path | None = typer.Option(None, "--pairs", help="Lines 'topic document', qrels lines, or JSONL."),
    runs: list[Path] = typer.Option([], "--runs", help="Runs to make the pairs from, several times."),
    depth: int = typer.Option(10, "--depth", help="How many documents of each run and topic."),
    scale: str = typer.Option("0,1,2,3", "--scale", help="The grades, from 0 to 9."),
    overlap: int = typer.Option(2, "--overlap", help="How many raters per pair."),
    host: str = typer.Option("127.0.0.1", "--host", help="Another address lets other machines in."),
    port: int = typer.Option(8765, "--port", min=0, max=65535, help="0: any free one."),
    seed: int = typer.Option(0, "--seed", help="Of the order in which each rater gets the pairs."),
) -> None:
    """Serve the grading page until Ctrl+C."""
    from searchlora.experiments.judge.pairs import wanted_pairs, with_texts
    from searchlora.server.grading.app import serve as run_server
    from searchlora.server.grading.guideline import read_guideline
    from searchlora.server.grading.ratings_log import RatingsLog
    from searchlora.server.grading.session import Session, blind_pairs
    from searchlora.server.http import address, bind, is_loopback

    rules = read_guideline(guideline, grades(scale))
    pool = wanted_pairs(runs, depth, pairs)
    about = blind_pairs(with_texts(pool, topics, corpus))
    with _warnings_told():
        log = RatingsLog(out)
    if log.repaired:
        typer.echo(f"warning: {log.repaired}", err=True)
    try:
        session = Session(about, rules, log, overlap=overlap, seed=seed)
        with bind(host, port) as listening:
            typer.echo(f"{len(about)} pairs of {len(pool)} topics, {overlap} raters each; grades go to {log.path}.")
            if not is_loopback(host):
                typer.echo(
                    "warning: whoever reaches this address can read the passages and grade under any name.", err=True
                )
            typer.echo(f"Open {address(listening)} to grade. Ctrl+C stops; starting again goes on.")
            run_server(session, listening, host)
    finally:
        log.close()


@app.command()
def export(
    ratings: Path = typer.Option(..., "--ratings", help="The ratings.jsonl of `grade serve`."),
    out: Path = typer.Option(..., "--out", help="Folder for the qrels and the agreement."),
    rule: str = typer.Option("majority", "--rule", help="majority, median, highest or lowest; ties go to the lower."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the resampling of topics."),
) -> None:
    """Write merged qrels, qrels of each rater, and how far the raters agree."""
    from datetime import UTC, datetime

    from searchlora.eval.files import file_sha256
    from searchlora.eval.formatting import interval
    from searchlora.eval.judgments.rater_report import write_ratings
    from searchlora.eval.judgments.ratings import read_ratings

    with _warnings_told():
        found = write_ratings(
            read_ratings(ratings),
            out,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            made_from={"ratings": file_sha256(ratings)},
            rule=rule,
            seed=seed,
        )
    typer.echo(f"Wrote {out}: {found.pairs} pairs of {len(found.raters)} raters, {found.shared} by two or more.")
    if found.alpha is not None:
        ends = interval(found.alpha.low, found.alpha.high)
        typer.echo(f"Krippendorff's alpha {found.alpha.value:.3f} {ends}, n = {found.alpha.n} pairs.")


@contextmanager
def _warnings_told() -> Iterator[None]:
    """Warnings of the readers as lines on stderr, without the line of code that gave them."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    for warning in said:
        typer.echo(f"warning: {warning.message}", err=True)
