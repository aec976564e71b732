"""`searchlora convert`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from searchlora.eval.formats.contract import Kind

app = typer.Typer(help="Convert qrels, runs and topics from one format into another.", no_args_is_help=True)

SOURCE = typer.Argument(metavar="IN", help="The file to read, or a BEIR folder.")
TARGET = typer.Argument(metavar="OUT", help="The file to write.")
FROM = typer.Option(None, "--from", help="The format of IN; told from the file when left out.")
TO = typer.Option(None, "--to", help="The format of OUT; told from the ending of its name when left out.")


@app.command()
def qrels(
    source: Path = SOURCE,
    target: Path = TARGET,
    from_: str | None = FROM,
    to: str | None = TO,
    thresholds: str | None = typer.Option(
        None, "--thresholds", help="0.25,0.5,0.75: a rating becomes the number of thresholds that it reaches."
    ),
    topics: Path | None = typer.Option(
        None, "--topics", help="The topics, for quepid and opensearch, which know queries by their text only."
    ),
) -> None:
    """Judgments: trec, beir, jsonl, parquet, ranx, quepid, opensearch."""
    from searchlora.eval.formats import read_topics
    from searchlora.eval.judgments.card import convert_qrels

    read_from, write_to = _formats("qrels", source, from_, target, to)
    known = read_topics(topics) if topics is not None else None
    found = convert_qrels(source, target, read_from, write_to, thresholds=_numbers(thresholds), topics=known)
    _tell(source, read_from, target, write_to, _counts(found, "judgments"))


@app.command()
def run(
    source: Path = SOURCE,
    target: Path = TARGET,
    from_: str | None = FROM,
    to: str | None = TO,
    tag: str = typer.Option("searchlora", "--tag", help="The name of the run, which a TREC run has on every line."),
) -> None:
    """Runs: trec, jsonl, parquet, ranx."""
    from searchlora.eval.judgments.card import convert_run

    read_from, write_to = _formats("run", source, from_, target, to)
    found = convert_run(source, target, read_from, write_to, tag=tag)
    _tell(source, read_from, target, write_to, _counts(found, "documents"))


@app.command()
def topics(
    source: Path = SOURCE,
    target: Path = TARGET,
    from_: str | None = FROM,
    to: str | None = TO,
) -> None:
    """Topics: trec, beir, jsonl, parquet, csv."""
    from searchlora.eval.formats import read_topics, write_topics

    read_from, write_to = _formats("topics", source, from_, target, to)
    found = read_topics(source, read_from)
    write_topics(target, found, write_to)
    fields = dict.fromkeys(name for topic in found.values() for name in topic)
    _tell(source, read_from, target, write_to, f"{len(found)} topics with {', '.join(fields)}")


def _formats(kind: Kind, source: Path, from_: str | None, target: Path, to: str | None) -> tuple[str, str]:
    """The names of the format to read and of that to write, told from the files where they are not given."""
    from searchlora.eval.formats import format_for_name, format_of_file

    return from_ or format_of_file(source, kind).name, to or format_for_name(target, kind).name


def _numbers(text: str | None) -> Sequence[float] | None:
    from searchlora.errors import UsageError

    try:
        return None if text is None else [float(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(f"'{text}' are not numbers with commas between them", where="--thresholds") from None


def _counts(rows: Mapping[str, Mapping[str, Any]], what: str) -> str:
    return f"{len(rows)} topics, {sum(map(len, rows.values()))} {what}"


def _tell(source: Path, read_from: str, target: Path, write_to: str, counts: str) -> None:
    typer.echo(f"Read {source} ({read_from}): {counts}.")
    typer.echo(f"Wrote {target} ({write_to}).")
