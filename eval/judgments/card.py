"""Provenance cards of qrels and run files, stored as `<file>.card.json` beside them.

A card holds the sha256 of its file, so that it never describes a file that was changed. Grades without a card are of
unknown source.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats.beir import qrels_file
from searchlora.eval.formatting import write_json
from searchlora.eval.judgments.sources import SOURCES, UNKNOWN, Source
from searchlora.eval.trec import Qrels, write_qrels
from searchlora.files import atomic_text, file_sha256, numbered_lines, parse_json

SCHEMA_VERSION = 1

_Card = TypeVar("_Card", "JudgmentsCard", "RunCard", "_StoredQueries")


@dataclass(frozen=True)
class JudgmentsCard:
    """Provenance of a qrels file.

    Attributes:
        source: Who or what graded.
        created: Time of creation, ISO 8601.
        judge: The LLM judge, pinned: `name@3`, or `base NAME` for a zero-shot base; None without a judge.
        judge_lineage: References of the judge and of all its ancestors.
        base: Name of the judge's base model.
        engine: The engine that computed the grades (`Engine.engine_id`).
        prompt_hash: sha256 of the judge's prompt template.
        judge_queries: `lineage.query_hash` of each query that the judge was trained on; None if unknown. Stored in a
            file of its own beside the card.
        counts: Source -> number of judgments.
        invalid: Number of invalid answers of the judge; they are rows of `invalid_path` and not in the qrels.
        rule: How grades were derived or merged.
        probabilities: Name of the file beside the qrels with the probability of each grade.
        made_from: Name of each input file -> its sha256, of a corpus together with the map of its columns.
        qrels_sha256: Set when the card is written.
        scale: The grades that the judge can give, ascending; empty if unknown.
        relevant: The lowest grade that the judge's guideline counts as relevant; None if unknown.
        served: Models that the service says it used, where it names others than `base`.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    source: Source
    created: str
    judge: str | None = None
    judge_lineage: tuple[str, ...] = ()
    base: str | None = None
    prompt_hash: str | None = None
    judge_queries: tuple[str, ...] | None = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    invalid: Annotated[int, Field(ge=0)] = 0
    rule: str | None = None
    probabilities: str | None = None
    made_from: Mapping[str, str] = field(default_factory=dict)
    qrels_sha256: str = ""
    engine: str | None = None
    scale: tuple[int, ...] = ()
    relevant: int | None = None
    served: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunCard:
    """Provenance of a run file.

    Attributes:
        system: Name of the system in tables.
        created: Time of creation, ISO 8601.
        adapters: Pinned references of the adapters of its pipeline.
        lineage: References of those adapters and of all their ancestors, and `base NAME` of each bare encoder.
        bases: Names of the base models of the adapters, and of the encoders.
        pipeline: Name and pinned stages of the pipeline.
        run_sha256: Set when the card is written.
        unknown_sources: Names of the sources of hits that have no card: which models produced them is unknown.
        engines: The engines that computed the adapter stages, see `Engine.engine_id`.
        ranking_queries: Hashes of the queries from which a ranking model learned.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    system: str
    created: str
    adapters: tuple[str, ...] = ()
    lineage: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    pipeline: str | None = None
    run_sha256: str = ""
    unknown_sources: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    ranking_queries: tuple[str, ...] = ()


def card_path(path: str | Path) -> Path:
    """Path of the card of a qrels or run file."""
    return Path(f"{path}.card.json")


def has_card(path: str | Path) -> bool:
    """Whether a qrels file, or another file with grades, has a card; the card of a run does not count."""
    file = card_path(qrels_file(Path(path)))
    if not file.is_file():
        return False
    try:
        values = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True  # `read_card` says what is wrong with it
    return not (isinstance(values, dict) and "run_sha256" in values)


def is_sidecar(path: Path) -> bool:
    """Whether a file belongs to the card of the file beside it, so that it holds no judgments of its own."""
    endings = (".card.json", ".judge-queries.txt", ".invalid.jsonl", ".answers.jsonl")
    of_rows = (".clicks.jsonl", ".probabilities.jsonl")
    return path.name.endswith((*endings, *of_rows))


def invalid_path(path: str | Path) -> Path:
    """Path of a judge's invalid answers: `qrels.txt` -> `qrels.txt.invalid.jsonl`."""
    return Path(f"{path}.invalid.jsonl")


def write_judgments(
    path: str | Path, qrels: Qrels, card: JudgmentsCard, write: Callable[[Path, Qrels], None] = write_qrels
) -> JudgmentsCard:
    """Write a qrels file and its card; returns the card with the hash of the file.

    The card is written before the qrels: after a kill in between, `read_card` reports a changed file, and LLM grades
    are never taken for human ones.
    """
    target = Path(path)
    with _draft(target) as draft:
        write(draft, qrels)
        return _written(target, card, file_sha256(draft))


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """A file beside the target that replaces it at the end of the block, after the card is written."""
    draft = target.with_name(f".new-{target.name}")
    try:
        yield draft
        draft.replace(target)
    except DataError as error:
        if error.where != str(draft):
            raise
        raise DataError(error.what, where=str(target), fix=error.fix) from None
    finally:
        with suppress(OSError):  # the target may have no folder
            draft.unlink()


def finished_card(draft: Mapping[str, Any], graded: int, invalid: int, served: Iterable[str] = ()) -> JudgmentsCard:
    """The card of an LLM's grades when they are complete.

    Args:
        draft: The card before, as JSON.
        graded, invalid: Numbers of valid and of invalid answers.
        served: The card's, in any order.
    """
    card = TypeAdapter(JudgmentsCard).validate_json(json.dumps(draft))
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(card, created=created, counts={"llm": graded}, invalid=invalid, served=tuple(sorted(served)))


@contextmanager
def card_first(path: str | Path, card: JudgmentsCard) -> Iterator[tuple[Path, Callable[[], JudgmentsCard]]]:
    """Write a file of graded rows and its card, the card first, as `write_judgments` does.

    Yields:
        The draft to write, and the function that writes the card when the draft is complete and returns it with the
        hash. At the end of the block the draft becomes the file.
    """
    target = Path(path)
    with _draft(target) as draft:
        yield draft, lambda: _written(target, card, file_sha256(draft))


def check_new(path: str | Path) -> None:
    """Raise `UsageError`, before a long computation, if a file of judgments exists."""
    if Path(path).exists():
        raise UsageError("already exists", where=str(path), fix="Judgments are not overwritten; give another file.")


def write_card(path: str | Path, card: JudgmentsCard) -> JudgmentsCard:
    """Write the card of an existing qrels file; returns it with the hash of the file. Raises `DataError`."""
    return _written(Path(path), card, file_sha256(path))


def read_card(path: str | Path) -> JudgmentsCard | None:
    """The card of a qrels file or BEIR folder; None without one, so that the source of its grades is unknown."""
    path = qrels_file(Path(path))
    values = _read(JudgmentsCard, path)
    if values is None:
        return None
    queries = values.pop("judge_queries")
    card = _checked(JudgmentsCard, path, values)
    if card.source == "human" and (others := _other_graders(card)):
        raise _malformed(path, f"its source is 'human', and it names {others}")
    _check_hash(path, card.qrels_sha256)
    if queries is None:
        return replace(card, judge_queries=None)
    stored = _checked(_StoredQueries, path, queries, "judge_queries")
    return replace(card, judge_queries=_read_queries(path, stored))


def _other_graders(card: JudgmentsCard) -> str:
    """What in a card says that others than people graded; empty: nothing."""
    if card.judge is not None or card.judge_lineage:
        return f"the judge {card.judge or card.judge_lineage[0]}"
    return ", ".join(f"grades of {source}" for source in card.counts if source in SOURCES and source != "human")


def source_of(path: str | Path, declared: Source | None = None) -> Source:
    """The source of the grades of a qrels file, from its card or else as declared; without both it is unknown."""
    path = qrels_file(Path(path))
    card = read_card(path)
    if card is None:
        return declared or UNKNOWN
    if declared is not None and declared != card.source:
        raise UsageError(
            f"its card says that the judgments are '{card.source}', not '{declared}'",
            where=str(path),
            fix="Leave the declared source out; what the card says counts.",
        )
    return card.source


def write_run_card(path: str | Path, card: RunCard) -> RunCard:
    """Write the card of an existing run file; returns it with the hash of the file. Raises `DataError`."""
    return _written_run(Path(path), card, Path(path))


def write_run_with_card(path: str | Path, card: RunCard, write: Callable[[Path], None]) -> RunCard:
    """Write a run file by `write`, and its card before it; returns the card with the hash of the file.

    After a kill in between, `read_run_card` reports a changed or missing file, and a run is never taken for one of
    unknown adapters.
    """
    target = Path(path)
    with _draft(target) as draft:
        write(draft)
        return _written_run(target, card, draft)


def _written_run(target: Path, card: RunCard, run: Path) -> RunCard:
    card = replace(card, run_sha256=file_sha256(run))
    _write(target, asdict(card))
    return card


def read_run_card(path: str | Path) -> RunCard | None:
    """The card of a run file; None without one."""
    values = _read(RunCard, path)
    if values is None:
        return None
    card = _checked(RunCard, path, values)
    _check_hash(path, card.run_sha256)
    return card


@dataclass(frozen=True)
class _StoredQueries:
    """The queries of a judge as its card names them: their number, and the sha256 of the file with their hashes."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    count: int
    sha256: str | None


def _written(path: Path, card: JudgmentsCard, sha256: str) -> JudgmentsCard:
    card = replace(card, qrels_sha256=sha256)
    values = asdict(card)
    queries = _queries_path(path)
    if card.judge_queries:
        with atomic_text(queries) as out:
            out.writelines(f"{query}\n" for query in card.judge_queries)
    else:
        queries.unlink(missing_ok=True)
    if card.judge_queries is not None:
        stored = _StoredQueries(len(card.judge_queries), file_sha256(queries) if card.judge_queries else None)
        values["judge_queries"] = asdict(stored)
    _write(path, values)
    return card


def _write(path: str | Path, values: Mapping[str, Any]) -> None:
    write_json(card_path(path), {"schema_version": SCHEMA_VERSION, **values})


def _read(card: type[_Card], path: str | Path) -> dict[str, Any] | None:
    """The JSON values of a card, all of its fields among them; None without a card."""
    try:
        text = card_path(path).read_text(encoding="utf-8")
        values = parse_json(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _malformed(path, str(error)) from None
    if not isinstance(values, dict) or values.pop("schema_version", None) != SCHEMA_VERSION:
        raise _malformed(path, f"its schema version is not {SCHEMA_VERSION}")
    # A missing lineage would never be found circular.
    if missing := sorted({field_.name for field_ in fields(card)} - values.keys()):
        raise _malformed(path, f"the field '{missing[0]}' is missing")
    return values


def _checked(card: type[_Card], path: str | Path, values: object, name: str = "") -> _Card:
    try:
        return TypeAdapter(card).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = name or str(first["loc"][0])
        raise _malformed(path, f"the field '{place}': {first['msg'][0].lower()}{first['msg'][1:]}") from None


def _check_hash(path: str | Path, expected: str) -> None:
    actual = file_sha256(path)
    if actual != expected:
        raise DataError(
            f"was changed since its card was written (sha256 {actual[:12]}…, expected {expected[:12]}…)",
            where=str(path),
            fix="Restore the file, or write the file and its card again.",
        )


def _queries_path(path: str | Path) -> Path:
    return Path(f"{path}.judge-queries.txt")


def _read_queries(path: str | Path, stored: _StoredQueries) -> tuple[str, ...]:
    if stored.sha256 is None and not stored.count:
        return ()
    file = _queries_path(path)
    if file_sha256(file) != stored.sha256:
        raise _malformed(path, f"{file.name} does not match its sha256")
    return tuple(line.strip() for _, line in numbered_lines(file))


def _malformed(path: str | Path, why: str) -> DataError:
    return DataError(f"is not a card ({why})", where=str(card_path(path)), fix="Write the file and its card again.")
