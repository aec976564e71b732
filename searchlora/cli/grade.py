"""`searchlora grade`: which pairs people label first, the page on which they do, and what their labels decide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from searchlora.cli.options import (
    CardScaleOption,
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

if TYPE_CHECKING:
    from searchlora.eval.judge.few_labels import FewLabels
    from searchlora.eval.judge.label_plan import LabelPlan

app = typer.Typer(help="Collect judgments from people in a browser, and export them.", no_args_is_help=True)


class SessionOptions(NamedTuple):
    """How pairs are distributed, with the names of the session's parameters."""

    overlap: Annotated[int | None, option("--overlap N", "Raters per pair. Default: 2, or 1 with a label plan.")] = None
    seed: Annotated[int, option("--seed N", "Random seed of each rater's order.")] = 0


@app.command(
    epilog=example("searchlora grade plan --candidate dense.trec --baseline bm25.trec --judged llm.txt --out plan.json")
)
def plan(
    candidate: Annotated[Path, option("--candidate FILE", "Run that may replace the baseline.")],
    baseline: Annotated[Path, option("--baseline FILE", "Run that the candidate is compared with.")],
    out: Annotated[Path, option("--out FILE", "Label plan to write, JSON.")],
    judged: Annotated[
        Path | None, option("--judged QRELS", "Grades of an LLM judge; the better they are, the fewer labels it takes.")
    ] = None,
    scale: CardScaleOption = None,
    measure: Annotated[
        str | None,
        option("--measure MEASURE", "SDCG(max_rel=3)@10, P@10 or P(rel=2)@5. Default: SDCG@10 of the highest grade."),
    ] = None,
    margin: Annotated[
        float, option("--margin X", "Difference that the candidate must exceed; below 0: by which it may be worse.")
    ] = 0.0,
    topics: Annotated[
        Path | None, option("--topics FILE", "Topics: rows with id and query. Default: those with results in a run.")
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Choose which pairs people label first, so that few labels decide between two runs."""
    from searchlora.eval.formats import read_run, read_topics
    from searchlora.eval.judge.label_plan import LabelPlan
    from searchlora.eval.judge.labels import check_judge, read_labels
    from searchlora.eval.judge.scale import scale_of

    if judged is not None:
        check_judge(judged)
    graded = scale_of([judged] if judged is not None else [], parse_grades(scale) if scale is not None else None)
    labels = read_labels(judged) if judged is not None else None
    if labels is not None and measure is None:
        graded.check_assumed(str(judged), labels)
    runs = read_run(candidate), read_run(baseline)
    planned = LabelPlan.of(
        *runs,
        measure or f"SDCG(max_rel={max(graded.grades)})@10",
        labels,
        names=(str(candidate), str(baseline)),
        topics=list(read_topics(topics)) if topics is not None else None,
        margin=margin,
        seed=seed,
    )
    planned.write(out)
    if alone := len(runs[0].keys() ^ runs[1].keys()):
        typer.echo(f"warning: {alone} topics are in one of the runs only; the other counts 0 there.", err=True)
    print_plan(planned, out)


def print_plan(planned: LabelPlan, out: Path) -> None:
    """Print what a label plan holds, and what to do with it."""
    known = sum(pair.judged is not None for pair in planned.pairs)
    typer.echo(
        f"{planned.measure}, {planned.candidate} minus {planned.baseline}: {len(planned.pairs):,} pairs of "
        f"{len(planned.topics):,} topics can change it, {known:,} have a grade of the judge."
    )
    typer.echo(f"Wrote {out}. Label its pairs in their order: searchlora grade serve --plan {out}")


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


@app.command(epilog=example("searchlora grade decide --plan plan.json --ratings grades/ratings.jsonl"))
def decide(
    plan: Annotated[Path, option("--plan FILE", "Label plan, from `grade plan`.")],
    ratings: Annotated[Path | None, option("--ratings FILE", "The ratings.jsonl that `grade serve` wrote.")] = None,
    qrels: Annotated[Path | None, option("--qrels FILE", "Human qrels, from another tool, instead of ratings.")] = None,
    rule: Annotated[
        str, option("--rule RULE", "Of several ratings: majority, median, highest or lowest; ties go to the lower.")
    ] = "majority",
    overlap: Annotated[
        int, option("--overlap N", "Raters that a pair needs to count, as for `grade serve`.", min=1)
    ] = 1,
) -> None:
    """Print what the labels decide so far. The interval holds at every label, so look as often as you like."""
    from searchlora.cli.terminal import warnings_on_stderr
    from searchlora.errors import UsageError
    from searchlora.eval.formats import read_qrels
    from searchlora.eval.judge.few_labels import LabelWatch
    from searchlora.eval.judge.label_plan import LabelPlan
    from searchlora.eval.judge.labels import check_human
    from searchlora.eval.judgments.ratings import labels, read_ratings

    if (ratings is None) == (qrels is None):
        raise UsageError("the labels are ratings or qrels", fix="Give one of --ratings and --qrels.")
    watch = LabelWatch(LabelPlan.read(plan))
    if ratings is not None:
        with warnings_on_stderr():
            known = watch.after(labels(read_ratings(ratings), rule, overlap=overlap))
    elif qrels is not None:
        check_human(qrels)
        grades = read_qrels(qrels)
        known = watch.after({(topic, document): grade for topic in grades for document, grade in grades[topic].items()})
    print_few_labels(watch.plan, known)
    if known.decision == "open" and known.labels < known.pairs:
        pair = watch.plan.pairs[known.labels]
        typer.echo(f"The next pair: topic {pair.topic}, document {pair.document}. Labels of later pairs wait for it.")


def print_few_labels(plan: LabelPlan, known: FewLabels) -> None:
    """Print an estimate from few labels, and what it decides."""
    from searchlora.eval.formatting import figure

    typer.echo(
        f"{plan.measure}, {plan.candidate} minus {plan.baseline}:"
        f" {figure(known.difference, known.low, known.high, '+')}, n = {known.topics} topics,"
        f" {known.labels} of {known.pairs} pairs labelled."
    )
    typer.echo(known.outlook)


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
    plan: Annotated[
        Path | None,
        option("--plan FILE", "Label plan, from `grade plan`, instead of a pool: its order, until it is decided."),
    ] = None,
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
    from searchlora.eval.judge.few_labels import LabelWatch
    from searchlora.eval.judge.label_plan import LabelPlan
    from searchlora.eval.judgments.pooling import iterate_pairs
    from searchlora.eval.judgments.ratings import labels
    from searchlora.experiments.judge.pairs import in_order, load_texts, pairs_to_judge
    from searchlora.server.grading.app import serve as run_server
    from searchlora.server.grading.guideline import read_guideline
    from searchlora.server.grading.ratings_log import RatingsLog
    from searchlora.server.grading.session import Session
    from searchlora.server.http import address, bind, is_loopback

    rules = read_guideline(guideline, parse_grades(scale))
    if plan is not None and (pool.runs or pool.pairs):
        raise UsageError("a label plan names the pairs", fix="Leave out --pool and --pairs, or --plan.")
    if as_listed and pool.pairs is None:
        raise UsageError("only a file of pairs has an order", where="--as-listed", fix="Give --pairs.")
    watch = None if plan is None else LabelWatch(LabelPlan.read(plan))
    pooled = pairs_to_judge(*pool) if watch is None else watch.plan.by_topic()
    judged = load_texts(pooled, topics, corpus_of(corpus, columns))
    overlap = options.overlap
    if watch is not None:
        watch.plan.check_scale(tuple(rules.scale))
        judged = in_order(judged, ((pair.topic, pair.document) for pair in watch.plan.pairs))
    elif as_listed and pool.pairs is not None:
        judged = in_order(judged, iterate_pairs(pool.pairs))
    if overlap is None:
        overlap = 2 if watch is None else 1
    with warnings_on_stderr():
        log = RatingsLog(out)
    if log.repaired:
        typer.echo(f"warning: {log.repaired}", err=True)
    try:
        session = Session(
            judged,
            rules,
            log,
            overlap=overlap,
            seed=options.seed,
            raters=rater or None,
            watch=watch,
            as_listed=as_listed,
        )
        with bind(*at) as listening:
            raters = f"{overlap} rater{'s' if overlap > 1 else ''} each"
            typer.echo(f"{len(judged)} pairs of {len(pooled)} topics, {raters}; grades go to {log.path}.")
            if not is_loopback(at.host):
                typer.echo(
                    "warning: everyone who reaches this address can read the passages and grade under any name.",
                    err=True,
                )
            typer.echo(f"Open {address(listening)} to grade. Ctrl+C stops; the next start continues.")
            run_server(session, listening, at.host)
        if watch is not None:
            print_few_labels(watch.plan, watch.after(labels(log.ratings, overlap=overlap)))
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
