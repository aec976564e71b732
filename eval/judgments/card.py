"""Provenance cards of qrels and run files, stored as `<file>.card.json` beside them.

A card holds the sha256 of its file, so that it never describes a file that was changed. Grades without a card are of
unknown source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats import Topics, format_for_name, write_qrels, write_run
from searchlora.eval.formats.beir import qrels_file
from searchlora.eval.formatting import write_json
from searchlora.eval.judgments.sources import (
    SOURCES,
    UNKNOWN,
    GradeSources,
    Source,
    open_sources,
    read_sources,
    sources_path,
)
from searchlora.eval.trec import Qrels, Run
from searchlora.files import atomic_text, file_sha256, numbered_lines, parse_json

SCHEMA_VERSION = 1

_Card = TypeVar("_Card", "JudgmentsCard", "RunCard")


@dataclass(frozen=True)
class JudgmentsCard:
    """Provenance of a qrels file.

    Attributes:
        source: Who or what graded: `human`, `llm`, `clicks`, `synthetic`, `unknown`, or `mixed`.
        created: Time of creation, ISO 8601.
        judge: The LLM judge, pinned: `name@3`, or `base NAME` for a zero-shot base; None without a judge.
        judge_lineage: References of the judge and of all its ancestors.
        base: Name of the judge's base model.
        engine: The engine that computed the grades (`Engine.engine_id`); None without a judge, and in cards of earlier
            releases.
        prompt_hash: sha256 of the judge's prompt template.
        judge_queries: `lineage.query_hash` of each query that the judge was trained on; None if unknown. Stored in a
            file of its own beside the card.
        counts: Source -> number of judgments.
        invalid: Number of invalid answers of the judge; they are rows of `invalid_path` and not in the qrels.
        rule: How grades were derived or merged.
        probabilities: Name of the file beside the qrels with the probability of each grade.
        made_from: Name of each input file -> its sha256, of a corpus together with the map of its columns.
        qrels_sha256: sha256 of the qrels file, set when the card is written.
        scale: The grades that the judge can give, ascending; empty without a judge, and in cards of earlier releases.
        relevant: The lowest grade that the judge's guideline counts as relevant; None if unknown.
        grade_sources: sha256 of the file with the source of each grade (`sources_path`); None: all have `source`.
    """

    source: Source
    created: str
    judge: str | None = None
    judge_lineage: tuple[str, ...] = ()
    base: str | None = None
    prompt_hash: str | None = None
    judge_queries: tuple[str, ...] | None = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    invalid: int = 0
    rule: str | None = None
    probabilities: str | None = None
    made_from: Mapping[str, str] = field(default_factory=dict)
    qrels_sha256: str = ""
    engine: str | None = None
    scale: tuple[int, ...] = ()
    relevant: int | None = None
    grade_sources: str | None = None


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
        run_sha256: sha256 of the run file, set when the card is written.
        unknown_sources: Names of the sources of hits that have no card: which models produced them is unknown.
        engines: The engines that computed the adapter stages, see `Engine.engine_id`.
        gate_queries: Hashes of the queries on which the gates of its fusions were fitted.
    """

    system: str
    created: str
    adapters: tuple[str, ...] = ()
    lineage: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    pipeline: str | None = None
    run_sha256: str = ""
    unknown_sources: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    gate_queries: tuple[str, ...] = ()


def card_path(path: str | Path) -> Path:
    """Path of the card of a qrels or run file.

    Examples:
        >>> card_path("qrels.txt").name
        'qrels.txt.card.json'
    """
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
    return path.name.endswith((".card.json", ".sources.jsonl", ".judge-queries.txt", ".invalid.jsonl"))


def invalid_path(path: str | Path) -> Path:
    """Path of a judge's invalid answers: `qrels.txt` -> `qrels.txt.invalid.jsonl`."""
    return Path(f"{path}.invalid.jsonl")


def write_judgments(
    path: str | Path,
    qrels: Qrels,
    card: JudgmentsCard,
    format: str | None = None,
    *,
    topics: Topics | None = None,
    sources: GradeSources | None = None,
) -> JudgmentsCard:
    """Write a qrels file and its card; returns the card with the hash of the file.

    The card is written before the qrels: after a kill in between, `read_card` reports a changed file, and LLM grades
    are never taken for human ones.

    Args:
        format: Name of a qrels format; None: by the extension of `path`.
        topics: Topics, for formats that store queries instead of ids.
        sources: The source of each grade, which is kept if there are several; None: that of the card.

    Raises:
        DataError: when a file cannot be written.
        UsageError: when the extension is not that of a format.
    """
    target = Path(path)
    with _draft(target) as draft:
        write_qrels(draft, qrels, format or format_for_name(target, "qrels").name, topics=topics)
        return _written(target, with_sources(target, card, qrels, sources), file_sha256(draft))


def with_sources(path: str | Path, card: JudgmentsCard, qrels: Qrels, sources: GradeSources | None) -> JudgmentsCard:
    """The card of qrels; where their grades have several sources, the file with the source of each is written."""
    if sources is None or sources.all is not None:
        sources_path(path).unlink(missing_ok=True)
        return replace(card, grade_sources=None)
    with open_sources(sources_path(path)) as writer:
        for topic, grades in qrels.items():
            for document in grades:
                writer.add((topic, document), sources.of(topic, document))
    return replace(card, grade_sources=file_sha256(sources_path(path)))


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


def check_new(path: str | Path) -> None:
    """Check, before a long computation, that new judgments can be written to a path.

    Raises:
        UsageError: when the file exists, or its extension is not that of a qrels format.
    """
    if Path(path).exists():
        raise UsageError("already exists", where=str(path), fix="Judgments are not overwritten; give another file.")
    format_for_name(Path(path), "qrels")


def write_card(path: str | Path, card: JudgmentsCard) -> JudgmentsCard:
    """Write the card of an existing qrels file; returns it with the hash of the file. Raises `DataError`."""
    return _written(Path(path), card, file_sha256(path))


def read_card(path: str | Path) -> JudgmentsCard | None:
    """The card of a qrels file or BEIR folder; None without one, so that the source of its grades is unknown.

    Raises:
        DataError: when the qrels changed since the card was written, or the card is malformed.
    """
    path = qrels_file(Path(path))
    values = _read(JudgmentsCard, path)
    if values is None:
        return None
    if values["source"] not in SOURCES:
        raise _malformed(path, f"the source '{values['source']}' is none of {', '.join(SOURCES)}")
    if values["source"] == "human" and (others := _other_graders(values)):
        raise _malformed(path, f"its source is 'human', and it names {others}")
    _check_hash(path, values["qrels_sha256"])
    queries = values.pop("judge_queries")
    values["judge_lineage"] = tuple(values["judge_lineage"])
    values["scale"] = tuple(values["scale"])
    return JudgmentsCard(**values, judge_queries=None if queries is None else _read_queries(path, queries["sha256"]))


def _other_graders(values: Mapping[str, Any]) -> str:
    """What in a card says that others than people graded; empty: nothing."""
    if values["judge"] is not None or values["judge_lineage"]:
        return f"the judge {values['judge'] or values['judge_lineage'][0]}"
    return ", ".join(f"grades of {source}" for source in values["counts"] if source in SOURCES and source != "human")


def sources_of(path: str | Path, declared: Source | None = None) -> GradeSources:
    """The source of each grade of a qrels file, from its card or else as declared; without both it is unknown.

    Raises:
        DataError: as `read_card`; if the file with the sources of the grades was changed.
        UsageError: when the card names another source than the declared one.
    """
    path = qrels_file(Path(path))
    card = read_card(path)
    if card is None:
        return GradeSources(declared or UNKNOWN)
    if declared is not None and declared != card.source:
        raise UsageError(
            f"its card says that the judgments are '{card.source}', not '{declared}'",
            where=str(path),
            fix="Leave the declared source out; what the card says counts.",
        )
    if card.grade_sources is None:
        return GradeSources(card.source)
    file = sources_path(path)
    if file_sha256(file) != card.grade_sources:
        raise _malformed(path, f"{file.name} does not match its sha256")
    return read_sources(file)


def write_run_card(path: str | Path, card: RunCard) -> RunCard:
    """Write the card of an existing run file; returns it with the hash of the file. Raises `DataError`."""
    return _written_run(path, replace(card, run_sha256=file_sha256(path)))


def write_run_with_card(path: str | Path, run: Run, tag: str, card: RunCard, format: str = "trec") -> RunCard:
    """Write a run file and its card; returns the card with the hash of the file.

    The card is written before the run: after a kill in between, `read_run_card` reports a changed or missing file, and
    a run is never taken for one of unknown adapters.

    Raises:
        DataError: when a file cannot be written, or an id or a score cannot stand in a run.
        UsageError: for an unknown format.
    """
    target = Path(path)
    with _draft(target) as draft:
        write_run(draft, run, tag, format)
        return _written_run(target, replace(card, run_sha256=file_sha256(draft)))


def publish_run(path: str | Path, texts: Iterable[str], card: RunCard) -> RunCard:
    """Write a run file, and its card before it, from the texts of `eval.trec.run_lines`; gzip if it ends in `.gz`.

    Raises:
        DataError: when a file cannot be written.
    """
    target = Path(path)
    with _draft(target) as draft:
        with atomic_text(draft) as out:
            out.writelines(texts)
        return _written_run(target, replace(card, run_sha256=file_sha256(draft)))


def _written_run(path: str | Path, card: RunCard) -> RunCard:
    values = asdict(card)
    for name in ("unknown_sources", "engines"):  # cards of earlier releases do not have these fields
        if not values[name]:
            del values[name]
    _write(path, values)
    return card


def read_run_card(path: str | Path) -> RunCard | None:
    """The card of a run file; None without one.

    Raises:
        DataError: when the run changed since the card was written, or the card is malformed.
    """
    values = _read(RunCard, path)
    if values is None:
        return None
    _check_hash(path, values["run_sha256"])
    for name in ("adapters", "lineage", "bases", "unknown_sources", "engines", "gate_queries"):
        values[name] = tuple(values[name])
    return RunCard(**values)


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
        values["judge_queries"] = {
            "count": len(card.judge_queries),
            "sha256": file_sha256(queries) if card.judge_queries else None,
        }
    for name in ("engine", "scale", "relevant", "grade_sources"):  # cards of earlier releases do not have these fields
        if values[name] in (None, ()):
            del values[name]
    _write(path, values)
    return card


def _write(path: str | Path, values: Mapping[str, Any]) -> None:
    write_json(card_path(path), {"schema_version": SCHEMA_VERSION, **values})


def _read(card: type[_Card], path: str | Path) -> dict[str, Any] | None:
    """The JSON values of a card, checked against the fields of its class; None without a card."""
    try:
        text = card_path(path).read_text(encoding="utf-8")
        values = parse_json(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _malformed(path, str(error)) from None
    if not isinstance(values, dict) or values.pop("schema_version", None) != SCHEMA_VERSION:
        raise _malformed(path, f"its schema version is not {SCHEMA_VERSION}")
    names = {each.name for each in fields(card)}
    for name, absent in (
        ("unknown_sources", []),
        ("engines", []),
        ("gate_queries", []),
        ("engine", None),
        ("scale", []),
        ("relevant", None),
        ("grade_sources", None),
    ):
        if name in names:
            values.setdefault(name, absent)
    if different := sorted(names ^ values.keys()):
        name = different[0]
        raise _malformed(path, f"the field '{name}' is {'missing' if name in names else 'unknown'}")
    for name in sorted(names):
        is_valid, expected = _FIELDS.get(name, _TEXT_OR_NULL)
        if not is_valid(values[name]):
            raise _malformed(path, f"the field '{name}' is not {expected}")
    return values


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_table(value_type: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(type(each) is value_type for each in value.values())


def _is_queries(value: Any) -> bool:
    if value is None:
        return True
    if not (isinstance(value, dict) and value.keys() == {"count", "sha256"} and type(value["count"]) is int):
        return False
    return isinstance(value["sha256"], str) if value["count"] else value["sha256"] is None


_TEXT: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, str), "text")
_TEXT_OR_NULL: tuple[Callable[[Any], bool], str] = (lambda value: value is None or isinstance(value, str), "text")
_TEXTS: tuple[Callable[[Any], bool], str] = (_is_texts, "a list of texts")

#: Field of a card -> its check and what it must be. A malformed lineage would never be found circular.
_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("source", "system", "created", "qrels_sha256", "run_sha256"), _TEXT),
    **dict.fromkeys(
        ("judge_lineage", "adapters", "lineage", "bases", "unknown_sources", "engines", "gate_queries"), _TEXTS
    ),
    "scale": (lambda value: isinstance(value, list) and all(type(grade) is int for grade in value), "a list of grades"),
    "relevant": (lambda value: value is None or type(value) is int, "a grade"),
    "invalid": (lambda value: type(value) is int and value >= 0, "a whole number from 0"),
    "counts": (_is_table(int), "a table of whole numbers"),
    "made_from": (_is_table(str), "a table of texts"),
    "judge_queries": (_is_queries, "a count and a sha256, or null"),
}


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


def _read_queries(path: str | Path, sha256: str | None) -> tuple[str, ...]:
    if sha256 is None:
        return ()
    file = _queries_path(path)
    if file_sha256(file) != sha256:
        raise _malformed(path, f"{file.name} does not match its sha256")
    return tuple(line.strip() for _, line in numbered_lines(file))


def _malformed(path: str | Path, why: str) -> DataError:
    return DataError(f"is not a card ({why})", where=str(card_path(path)), fix="Write the file and its card again.")
