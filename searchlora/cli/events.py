"""`searchlora events`: figures, exports and replays of what a server has recorded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from searchlora.cli.options import JsonOption, PeriodOptions, argument, example, option, parse_key_values, takes
from searchlora.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from searchlora.events.export import Search
    from searchlora.events.shadow_figures import Shadow
    from searchlora.events.summary import EventSummary, Ratio

app = typer.Typer(help="Sum up, export and replay the searches that a server has recorded.", no_args_is_help=True)

PlaceArgument = Annotated[
    str, argument("PLACE", "What `serve --events` names: a folder, or postgresql://user@host/database.")
]

#: Queries that are printed.
_SHOWN = 10


@app.command(epilog=example("searchlora events stats events/ --since 7d"))
@takes(PeriodOptions, "period")
def stats(place: PlaceArgument, period: PeriodOptions, as_json: JsonOption = False) -> None:
    """Print how often users choose a hit, and what each stage took and failed at, per pipeline."""
    from dataclasses import asdict

    from searchlora.cli.terminal import print_json
    from searchlora.events.summary import summaries

    with opened(place) as log:
        found, counts = summaries(searches_of(log, period)), log.counts()
    if as_json:
        print_json({"pipelines": {name: asdict(each) for name, each in found.items()}, "counts": counts})
        return
    if not found:
        typer.echo("There are no searches.")
    for name, summary in found.items():
        _print_summary(name, summary)
    for name, n in counts.items():
        typer.echo(f"{name}: {n:,} in all")


@app.command(epilog=example("searchlora events export events/ --form querylog --out log.jsonl"))
@takes(PeriodOptions, "period")
def export(
    place: PlaceArgument,
    form: Annotated[
        str,
        option(
            "--form FORM",
            "events; querylog, clicks or judgments, for `data build` and `searchlora clicks`; ubi-queries or"
            " ubi-events, OpenSearch's User Behavior Insights.",
        ),
    ],
    out: Annotated[Path, option("--out FILE", "JSONL file to write.")],
    period: PeriodOptions,
) -> None:
    """Write searches and clicks as JSONL for other commands and tools."""
    from searchlora.events.export import FORMS
    from searchlora.events.export import export as verb

    if form not in FORMS:
        raise UsageError(f"'{form}' is not a form", where="--form", fix=f"Give one of {', '.join(FORMS)}.")
    with opened(place) as log:
        rows = verb(searches_of(log, period), form, out)
    typer.echo(f"Wrote {rows:,} rows to {out}.")


@app.command(epilog=example("searchlora events shadow events/ --since 7d"))
@takes(PeriodOptions, "period")
def shadow(place: PlaceArgument, period: PeriodOptions, as_json: JsonOption = False) -> None:
    """Print how often the candidates of `serve --shadow` fail and change the hits, and how long they take."""
    from dataclasses import asdict

    from searchlora.cli.terminal import print_json
    from searchlora.events.shadow_figures import TOP, shadow_figures

    with opened(place) as log:
        found = shadow_figures(_shadows(log, period))
    if as_json:
        print_json({name: asdict(each) for name, each in found.items()})
        return
    if not found:
        typer.echo("There are no shadow searches.")
    for name, each in found.items():
        typer.echo(f"{name}: {each.n:,} searches")
        typer.echo(f"  failed               {_ratio(each.failed)}, live {_ratio(each.live_failed)}")
        typer.echo(f"  another first {TOP}     {_ratio(each.changed)}")
        typer.echo(f"  median milliseconds  {each.milliseconds:.0f}, live {each.live_milliseconds:.0f}")


@app.command(epilog=example("searchlora events failures events/ --since 7d --out failures.jsonl"))
@takes(PeriodOptions, "period")
def failures(
    place: PlaceArgument,
    period: PeriodOptions,
    out: Annotated[Path, option("--out FILE", "Queries to write, JSONL, for people or `data label`.")],
    top: Annotated[int | None, option("--top N", "Number of queries at most.", min=1)] = None,
) -> None:
    """Write the queries that went wrong most often: no hits, or invalid, skipped or undecided outputs."""
    from searchlora.events.failures import failed_queries, write_failed

    with opened(place) as log:
        found = failed_queries(searches_of(log, period), top)
    write_failed(found, out)
    for query in found[:_SHOWN]:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in query.reasons.most_common())
        typer.echo(f"{len(query.failed):>5} users  {query.query}: {reasons}")
    typer.echo(f"Wrote {len(found):,} queries to {out}.")


@app.command(epilog=example("searchlora events interleaving events/"))
@takes(PeriodOptions, "period")
def interleaving(place: PlaceArgument, period: PeriodOptions, as_json: JsonOption = False) -> None:
    """Print which of two interleaved pipelines users prefer. The interval holds at every look."""

    from searchlora.cli.terminal import print_json
    from searchlora.events.interleaving import preferences

    with opened(place) as log:
        found = preferences(searches_of(log, period))
    if as_json:
        print_json([each.to_json(a, b) for (a, b), each in found.items()])
        return
    if not found:
        typer.echo("There are no interleaved searches.")
    for (a, b), each in found.items():
        typer.echo(
            f"{each.wins_b:,} users prefer {b}, {each.wins_a:,} {a}, {each.ties:,} neither, in"
            f" {each.searches:,} searches. Share of {b}: {each.share:.3f} ({each.low:.3f} to {each.high:.3f})."
        )
        better = {"A": a, "B": b}.get(each.decision)
        typer.echo(f"Users prefer {better}." if better else "Not decided yet.")


@app.command(
    epilog=example(
        "searchlora events replay events/ --server http://localhost:8000 --slot shop-rewriter=shop-rewriter@2"
    )
)
@takes(PeriodOptions, "period")
def replay(
    place: PlaceArgument,
    server: Annotated[str, option("--server URL", "Server to send the searches to; it does not record them.")],
    period: PeriodOptions,
    to_pipeline: Annotated[
        str | None, option("--to-pipeline NAME", "Pipeline to search with. Default: the one of each search.")
    ] = None,
    slots: Annotated[
        list[str], option("--slot NAME=VERSION", "Slot to change: off, base, or a version of its adapter; repeatable.")
    ] = [],
    limit: Annotated[int | None, option("--limit N", "Send the first N searches.", min=1)] = None,
    concurrency: Annotated[int, option("--concurrency N", "Searches in flight.", min=1)] = 4,
    speed: Annotated[
        float | None, option("--speed X", "Times as fast as they came. Default: as fast as the server answers.")
    ] = None,
    api_key_env: Annotated[
        str | None, option("--api-key-env VARIABLE", "Environment variable that holds the API key of the server.")
    ] = None,
    out: Annotated[Path | None, option("--out FILE", "JSONL file for the hits of each search, then and now.")] = None,
) -> None:
    """Send recorded searches to a server again, and print how their hits and times have changed."""
    from itertools import islice

    from searchlora.events.replay import Replayed, replay_figures
    from searchlora.events.replay import replay as verb
    from searchlora.events.shadow_figures import TOP
    from searchlora.files import atomic_text, check_writable, json_line
    from searchlora.http_client import HttpClient, api_key

    if speed is not None and not speed > 0:
        raise UsageError(f"the speed is {speed:g}", where="--speed", fix="Give a number above 0.")
    changed = parse_key_values(slots, "--slot")
    if out is not None:
        check_writable(out)
    rows: list[Replayed] = []
    with opened(place) as log:
        searches = islice(searches_of(log, period), limit)
        client = HttpClient(server, api_key=api_key(api_key_env, server))
        sent = verb(searches, client, pipeline=to_pipeline, slots=changed, concurrency=concurrency, speed=speed)
        try:
            rows.extend(sent)
        except KeyboardInterrupt:  # what was sent is not lost
            typer.echo(f"Interrupted after {len(rows):,} searches.", err=True)
            if not rows:
                raise
    if out is not None:
        with atomic_text(out) as file:
            file.writelines(json_line(row.to_json()) for row in rows)
    found = replay_figures(rows)
    typer.echo(
        f"{found.n:,} searches, {found.failed:,} failed. Other documents among the first {TOP}: share"
        f" {_ratio(found.changed)}."
    )
    typer.echo(f"Median {found.after_ms:.0f} ms, when recorded {found.before_ms:.0f} ms.")
    if found.failed:
        typer.echo(f"The first failure: {next(row.error for row in rows if row.error is not None)}", err=True)


def parse_time(text: str, where: str, now: datetime | None = None) -> float:
    """A time in seconds since 1970: ISO 8601 (UTC without a zone), or days or hours ago.

    Examples:
        >>> parse_time("1970-01-02", "--since")
        86400.0
        >>> parse_time("24h", "--since", datetime(1970, 1, 2, tzinfo=UTC))
        0.0
    """
    try:
        if text[-1:] in ("d", "h"):
            ago = timedelta(**{"days" if text[-1] == "d" else "hours": float(text[:-1])})
            return ((now or datetime.now(UTC)) - ago).timestamp()
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        fix = "For example 2026-11-30, 2026-11-30T12:00, 7d or 24h."
        raise UsageError(f"'{text}' is not a time", where=where, fix=fix) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def opened(place: str) -> Any:
    """The log at a place, which must exist, closed at the end of the block."""
    from contextlib import closing

    from searchlora.events.log import EventLog

    return closing(EventLog(place, create=False))


def searches_of(log: Any, period: PeriodOptions) -> Iterator[Search]:
    """The searches of a period, oldest first, with what users did."""
    for event, feedback in log.searches(*_seconds(period)):
        if period.pipeline in (None, event["pipeline"]):
            yield event, feedback


def _shadows(log: Any, period: PeriodOptions) -> Iterator[Shadow]:
    for live, versions, shadow in log.shadows(*_seconds(period)):
        if period.pipeline in (None, live["pipeline"]):
            yield live, versions, shadow


def _seconds(period: PeriodOptions) -> tuple[float | None, float | None]:
    since = None if period.since is None else parse_time(period.since, "--since")
    return since, None if period.until is None else parse_time(period.until, "--until")


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())


def _print_summary(name: str, summary: EventSummary) -> None:
    typer.echo(f"{name}: {summary.searches:,} searches of {summary.users:,} users")
    if summary.outcomes:
        typer.echo(f"  outcomes          {_counts(summary.outcomes)}")
    for version, how in summary.unserved.items():
        typer.echo(f"  {version} did not answer: {_counts(how)}")
    if not summary.searches:
        return
    typer.echo(f"  a hit was chosen  {_ratio(summary.chosen)}")
    typer.echo(f"  no hits           {_ratio(summary.no_hits)}")
    if summary.actions:
        typer.echo(f"  on hits           {_counts(summary.actions)}")
    if summary.not_shown:
        typer.echo(f"  on other documents, left out: {summary.not_shown:,}")
    typer.echo(f"  milliseconds      median {summary.p50_ms:.0f}, 95% {summary.p95_ms:.0f}, 99% {summary.p99_ms:.0f}")
    for label, stage in summary.stages.items():
        flags = "".join(f", {flag} {n:,}" for flag, n in stage.flags.items())
        typer.echo(f"  {label}: {stage.n:,} searches, median {stage.p50_ms:.1f} ms, 95% {stage.p95_ms:.1f} ms{flags}")
