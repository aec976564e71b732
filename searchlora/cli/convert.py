"""`searchlora convert`: qrels, runs and topics between file formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from searchlora.cli.options import JudgmentsSourceOption, argument, example, option, parse_numbers

if TYPE_CHECKING:
    from searchlora.eval.formats.base import Kind

app = typer.Typer(help="Convert qrels, runs and topics between formats.", no_args_is_help=True)

_SourceArgument = Annotated[Path, argument("IN", "File to read, or a BEIR folder.")]
_TargetArgument = Annotated[Path, argument("OUT", "File to write.")]
_FromOption = Annotated[str | None, option("--from FORMAT", "Format of IN. Default: detected from the content.")]
_ToOption = Annotated[str | None, option("--to FORMAT", "Format of OUT. Default: from its file extension.")]


@app.command(epilog=example("searchlora convert qrels qrels.txt qrels.parquet"))
def qrels(
    source: _SourceArgument,
    target: _TargetArgument,
    from_: _FromOption = None,
    to: _ToOption = None,
    thresholds: Annotated[
        str | None,
        option(
            "--thresholds NUMBERS",
            "Thresholds that turn ratings into grades, such as 0.25,0.5,0.75; the grade is the number reached.",
        ),
    ] = None,
    topics: Annotated[
        Path | None,
        option(
            "--topics FILE", "Topics file, needed for quepid and opensearch, which store query texts instead of ids."
        ),
    ] = None,
    judgments_source: JudgmentsSourceOption = None,
) -> None:
    """Convert judgments with their card. Formats: trec, beir, jsonl, parquet, ranx, quepid, opensearch."""
    from searchlora.eval.formats import read_topics
    from searchlora.eval.judgments.converting import convert_qrels
    from searchlora.eval.judgments.sources import check_source

    read_from, write_to = _formats("qrels", source, from_, target, to)
    known = read_topics(topics) if topics is not None else None
    numbers = None if thresholds is None else parse_numbers(thresholds, "--thresholds")
    declared = None if judgments_source is None else check_source(judgments_source, "--judgments-source")
    converted = convert_qrels(source, target, read_from, write_to, thresholds=numbers, topics=known, declared=declared)
    _report(source, read_from, target, write_to, _counts(converted, "judgments"))


@app.command(epilog=example("searchlora convert run bm25.trec bm25.parquet"))
def run(
    source: _SourceArgument,
    target: _TargetArgument,
    from_: _FromOption = None,
    to: _ToOption = None,
    tag: Annotated[str, option("--tag NAME", "Name of the run, the last column of a TREC run.")] = "searchlora",
    topics: Annotated[
        Path | None,
        option("--topics FILE", "Topics file, for a snapshot of Quepid, which stores query texts instead of ids."),
    ] = None,
) -> None:
    """Convert runs. Formats: trec, jsonl, parquet, ranx; a snapshot of quepid is read."""
    from searchlora.eval.formats import read_topics
    from searchlora.eval.judgments.converting import convert_run

    read_from, write_to = _formats("run", source, from_, target, to)
    known = read_topics(topics) if topics is not None else None
    converted = convert_run(source, target, read_from, write_to, tag=tag, topics=known)
    _report(source, read_from, target, write_to, _counts(converted, "documents"))


@app.command(epilog=example("searchlora convert topics topics.xml topics.jsonl"))
def topics(
    source: _SourceArgument,
    target: _TargetArgument,
    from_: _FromOption = None,
    to: _ToOption = None,
    columns: Annotated[
        list[str], option("--map FIELD=FIELD", "Field of IN that becomes another one: query=rewrite. Repeatable.")
    ] = [],
) -> None:
    """Convert topics. Formats: trec, beir, jsonl, parquet, csv."""
    from searchlora.eval.formats import read_topics, write_topics
    from searchlora.files import parse_field_map

    read_from, write_to = _formats("topics", source, from_, target, to)
    converted = read_topics(source, read_from, parse_field_map(columns))
    write_topics(target, converted, write_to)
    fields = dict.fromkeys(name for topic in converted.values() for name in topic)
    _report(source, read_from, target, write_to, f"{len(converted)} topics with {', '.join(fields)}")


def _formats(kind: Kind, source: Path, from_: str | None, target: Path, to: str | None) -> tuple[str, str]:
    """The names of the input and output formats, detected from the files where they are not given."""
    from searchlora.eval.formats import format_for_name, format_of_file

    return from_ or format_of_file(source, kind).name, to or format_for_name(target, kind).name


def _counts(rows: Mapping[str, Mapping[str, Any]], what: str) -> str:
    return f"{len(rows)} topics, {sum(map(len, rows.values()))} {what}"


def _report(source: Path, read_from: str, target: Path, write_to: str, counts: str) -> None:
    typer.echo(f"Read {source} ({read_from}): {counts}.")
    typer.echo(f"Wrote {target} ({write_to}).")
