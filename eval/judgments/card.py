"""Cards: what is known of a qrels file or a run file, as `<file>.card.json` beside it.

A card holds the sha256 of the file that it belongs to, so that a card never speaks of judgments that were changed. A
qrels file without a card is of unknown source and is treated as human.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from searchlora.errors import DataError, UsageError
from searchlora.eval.files import atomic_text, file_sha256, numbered_lines
from searchlora.eval.formats import Topics, format_for_name, read_qrels, read_run, write_qrels, write_run
from searchlora.eval.formats.beir import qrels_file
from searchlora.eval.formatting import write_json
from searchlora.eval.trec import Qrels, Run

Source: TypeAlias = Literal["human", "llm", "clicks", "mixed"]

SCHEMA_VERSION = 1

_Card = TypeVar("_Card", "JudgmentsCard", "RunCard")


@dataclass(frozen=True)
class JudgmentsCard:
    """Who judged, and by what rule.

    Attributes:
        source: Who the grades are from.
        judge: The LLM judge, pinned: `name@3`, or `base NAME` for a base asked zero-shot; None without one.
        judge_lineage: References of the judge and of all its ancestors.
        base: Name of the base model that the judge stands on.
        prompt_hash: sha256 of the template that asked for the grades.
        judge_queries: `lineage.query_hash` of each query that the judge was trained on; None where that is not known.
            Kept in a file of its own beside the card.
        counts: Source -> number of judgments.
        invalid: How many answers of the judge were no grade: they are rows of `invalid_path`, and not in the qrels.
        rule: How several sources were made one.
        probabilities: Name of a file beside the qrels with the probability of each grade.
        made_from: Name of each input file -> its sha256.
        created: When, ISO 8601; given by the caller.
        qrels_sha256: Of the qrels file's bytes; filled in when the card is written.
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


@dataclass(frozen=True)
class RunCard:
    """What made a run.

    Attributes:
        system: Label, as tables show it.
        adapters: Pinned references of the adapters at work in it.
        lineage: References of those adapters and of all their ancestors, and `base NAME` of each encoder that searched.
        bases: Names of the base models that the adapters stand on, and of the encoders.
        pipeline: Name and pinned stages.
        created: When, ISO 8601; given by the caller.
        run_sha256: Of the run file's bytes; filled in when the card is written.
    """

    system: str
    created: str
    adapters: tuple[str, ...] = ()
    lineage: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    pipeline: str | None = None
    run_sha256: str = ""


def card_path(path: str | Path) -> Path:
    """Where the card of a qrels or run file lies: `qrels.txt` -> `qrels.txt.card.json`."""
    return Path(f"{path}.card.json")


def invalid_path(path: str | Path) -> Path:
    """Where the answers lie that were no grade: `qrels.txt` -> `qrels.txt.invalid.jsonl`."""
    return Path(f"{path}.invalid.jsonl")


def write_judgments(
    path: str | Path,
    qrels: Qrels,
    card: JudgmentsCard,
    format: str | None = None,
    *,
    topics: Topics | None = None,
) -> JudgmentsCard:
    """Write a qrels file, as `formats.write_qrels` does, and its card; returns the card with the file's hash.

    The card is in place before the qrels are, so that a kill in between leaves a refusal (`read_card`: changed), never
    an LLM's grades that look like a human's.

    Raises:
        DataError: when something cannot be written.
        UsageError: when the name does not tell a format.
    """
    target = Path(path)
    temporary = target.with_name(f".new-{target.name}")
    try:
        write_qrels(temporary, qrels, format or format_for_name(target, "qrels").name, topics=topics)
        card = _written(target, card, file_sha256(temporary))
        temporary.replace(target)
    except DataError as error:
        if error.where != str(temporary):
            raise
        raise DataError(error.what, where=str(target), fix=error.fix) from None
    finally:
        with suppress(OSError):  # the folder may be none
            temporary.unlink()
    return card


def check_new(path: str | Path) -> None:
    """Whether new judgments may be written to a file; ask before a long run.

    Raises:
        UsageError: when it is there already, or its name does not tell a format of qrels.
    """
    if Path(path).exists():
        raise UsageError("is there already", where=str(path), fix="Judgments are not overwritten; give another file.")
    format_for_name(Path(path), "qrels")


def write_card(path: str | Path, card: JudgmentsCard) -> JudgmentsCard:
    """Write the card of a qrels file that is there; returns it with the file's hash. Raises `DataError`."""
    return _written(Path(path), card, file_sha256(path))


def read_card(path: str | Path) -> JudgmentsCard | None:
    """The card of a qrels file, or of that in a BEIR folder; None where it has none (unknown source, taken for human).

    Raises:
        DataError: when the qrels were changed since the card was written, or the card is damaged.
    """
    path = qrels_file(Path(path))
    values = _read(JudgmentsCard, path)
    if values is None:
        return None
    if values["source"] not in get_args(Source):
        raise _damaged(path, f"the source '{values['source']}' is none of {', '.join(get_args(Source))}")
    _check_hash(path, values["qrels_sha256"])
    queries = values.pop("judge_queries")
    values["judge_lineage"] = tuple(values["judge_lineage"])
    return JudgmentsCard(**values, judge_queries=None if queries is None else _read_queries(path, queries["sha256"]))


def write_run_card(path: str | Path, card: RunCard) -> RunCard:
    """Write the card of a run file that is there; returns it with the file's hash. Raises `DataError`."""
    card = replace(card, run_sha256=file_sha256(path))
    _write(path, asdict(card))
    return card


def read_run_card(path: str | Path) -> RunCard | None:
    """The card of a run file; None where it has none.

    Raises:
        DataError: when the run was changed since the card was written, or the card is damaged.
    """
    values = _read(RunCard, path)
    if values is None:
        return None
    _check_hash(path, values["run_sha256"])
    for name in ("adapters", "lineage", "bases"):
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
    _write(path, values)
    return card


def _write(path: str | Path, values: Mapping[str, Any]) -> None:
    write_json(card_path(path), {"schema_version": SCHEMA_VERSION, **values})


def _read(card: type[_Card], path: str | Path) -> dict[str, Any] | None:
    """The values of a card as JSON has them, each field of the class among them and no other."""
    try:
        text = card_path(path).read_text(encoding="utf-8")
        values = json.loads(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(values, dict) or values.pop("schema_version", None) != SCHEMA_VERSION:
        raise _damaged(path, f"it is not of schema version {SCHEMA_VERSION}")
    names = {each.name for each in fields(card)}
    if odd := sorted(names ^ values.keys()):
        raise _damaged(path, f"the field '{odd[0]}' is {'missing' if odd[0] in names else 'unknown'}")
    for name in sorted(names):
        fits, must = _FIELDS.get(name, _TEXT_OR_NULL)
        if not fits(values[name]):
            raise _damaged(path, f"the field '{name}' is not {must}")
    return values


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_table(of: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(type(each) is of for each in value.values())


def _is_queries(value: Any) -> bool:
    if value is None:
        return True
    if not (isinstance(value, dict) and value.keys() == {"count", "sha256"} and type(value["count"]) is int):
        return False
    return isinstance(value["sha256"], str) if value["count"] else value["sha256"] is None


_TEXT: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, str), "text")
_TEXT_OR_NULL: tuple[Callable[[Any], bool], str] = (lambda value: value is None or isinstance(value, str), "text")
_TEXTS: tuple[Callable[[Any], bool], str] = (_is_texts, "a list of texts")

#: Of a card's field, what it must be; a lineage of another shape would be one that nobody shares.
_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("source", "system", "created", "qrels_sha256", "run_sha256"), _TEXT),
    **dict.fromkeys(("judge_lineage", "adapters", "lineage", "bases"), _TEXTS),
    "invalid": (lambda value: type(value) is int and value >= 0, "a whole number from 0"),
    "counts": (_is_table(int), "a table of whole numbers"),
    "made_from": (_is_table(str), "a table of texts"),
    "judge_queries": (_is_queries, "a count and a sha256, or null"),
}


def _check_hash(path: str | Path, wanted: str) -> None:
    found = file_sha256(path)
    if found != wanted:
        raise DataError(
            f"was changed since its card was written (sha256 {found[:12]}…, the card says {wanted[:12]}…)",
            where=str(path),
            fix="Restore the file, or make file and card anew.",
        )


def _queries_path(path: str | Path) -> Path:
    return Path(f"{path}.judge-queries.txt")


def _read_queries(path: str | Path, sha256: str | None) -> tuple[str, ...]:
    if sha256 is None:
        return ()
    file = _queries_path(path)
    if file_sha256(file) != sha256:
        raise _damaged(path, f"{file.name} is not the file that belongs to it")
    return tuple(line.strip() for _, line in numbered_lines(file))


def _damaged(path: str | Path, why: str) -> DataError:
    return DataError(f"is not a card ({why})", where=str(card_path(path)), fix="Make the file and its card anew.")


def convert_qrels(
    source: Path,
    target: Path,
    read_from: str,
    write_to: str,
    *,
    thresholds: Sequence[float] | None = None,
    topics: Topics | None = None,
) -> Qrels:
    """Write judgments in another format; returns them.

    Their card goes along, or an LLM's grades would pass for those of people. The probabilities of grades stay behind.

    Args:
        read_from, write_to: Names of formats.
        thresholds, topics: As `read_qrels` and `write_qrels`.

    Raises:
        DataError: when the source cannot be read or was changed since its card was written.
        UsageError: for a format that there is not, or where answers that were no grade cannot go along.
    """
    card = read_card(source)
    found = read_qrels(source, read_from, thresholds=thresholds, topics=topics)
    if card is None:
        write_qrels(target, found, write_to, topics=topics)
        return found
    if card.invalid:
        if topics is not None:
            raise UsageError(
                f"{card.invalid} answers of the judge were no grade, and are known by the ids of their topics",
                where=str(invalid_path(source)),
                fix="Convert into a format with ids, without topics.",
            )
        with atomic_text(invalid_path(target)) as out:
            out.writelines(line for _, line in numbered_lines(invalid_path(source)))
    write_judgments(target, found, replace(card, probabilities=None), write_to, topics=topics)
    return found


def convert_run(source: Path, target: Path, read_from: str, write_to: str, *, tag: str) -> Run:
    """Write a run in another format, its card beside it; returns it.

    Raises:
        DataError: when the source cannot be read or was changed since its card was written.
        UsageError: for a format that there is not.
    """
    card = read_run_card(source)
    found = read_run(source, read_from)
    write_run(target, found, tag, write_to)
    if card is not None:
        write_run_card(target, card)
    return found
