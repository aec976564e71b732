"""TREC CAsT topics of 2019 to 2022 (https://github.com/daltonj/treccastweb).

Every year is a JSON array of topics, each with `number` and `turn`. A turn has

* 2019: `number`, `raw_utterance`; the human rewrites stand beside it in a TSV of `topic_turn`, rewrite, no header.
* 2020: also `manual_rewritten_utterance`. The system's answers are passage ids without text.
* 2021: also `passage`, the system's answer.
* 2022: `number` ("2-3"), `utterance`, `manual_rewritten_utterance`; and either `response` (the flattened file, in
  which a conversation is repeated for each of its branches), or `participant` and `parent` (the tree file, in which
  the system's turns are turns of their own).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.errors import DataError
from searchlora.files import Rows, check_file, open_bytes, read_rows
from searchlora.records import RejectedRow, SourceRow

UTTERANCES = ("raw_utterance", "utterance")
ANSWERS = ("passage", "response")
REWRITE = "manual_rewritten_utterance"

#: A turn and the turns before it, each as role and text.
Situation = tuple[Mapping[str, Any], list[tuple[str, str]]]


def read(source: Path, rewrites: Mapping[str, str] | None = None) -> Rows:
    """User turns of a topics file.

    Args:
        rewrites: "topic_turn" -> human rewrite, where the file itself holds none (2019).

    Yields:
        `topic`, `id` ("31_2", as in the track's qrels), `position` (from 1, among the user's turns), `utterance`,
        `rewrite`, `history` (pairs of "user" or "assistant" and text). A turn without a human rewrite is rejected.
    """
    seen: set[str] = set()
    for row in read_rows(source, ("number", "turn")):
        if isinstance(row, RejectedRow):
            yield row
            continue
        try:
            yield from _topic(row, rewrites, seen)
        except (KeyError, TypeError, AttributeError) as error:
            yield RejectedRow(row.where, f"is not a topic of TREC CAsT ({type(error).__name__}: {error})", row.data)


def read_rewrites(topics: Path, given: str | None = None) -> dict[str, str]:
    """The human rewrites of 2019: the `*annotated_resolved*.tsv` beside the topics, or the file `given`.

    Raises:
        DataError: when there is none, more than one, or a line is not `topic_turn`, tab, rewrite.
    """
    path = Path(given) if given else _rewrites_beside(topics)
    check_file(path)
    rewrites: dict[str, str] = {}
    with open_bytes(path) as lines:
        for number, line in enumerate(lines, start=1):
            turn, tab, rewrite = line.decode("utf-8").strip().partition("\t")
            if not tab:
                raise DataError(
                    "there is no tab", where=f"{path.name}, line {number}", fix="A line is topic_turn, tab, rewrite."
                )
            rewrites[turn] = rewrite.strip()
    return rewrites


def _rewrites_beside(topics: Path) -> Path:
    found = sorted(topics.parent.glob("*annotated_resolved*.tsv"))
    if len(found) != 1:
        raise DataError(
            f"there are {len(found)} files *annotated_resolved*.tsv with the human rewrites beside the topics",
            where=str(topics),
            fix="Name the file with --option rewrites=FILE.",
        )
    return found[0]


def _topic(row: SourceRow, rewrites: Mapping[str, str] | None, seen: set[str]) -> Rows:
    topic = row.data["number"]
    for turn, history in _situations(row.data["turn"]):
        turn_id = f"{topic}_{turn['number']}"
        if turn_id in seen:  # the 2022 file repeats what branches share
            continue
        seen.add(turn_id)
        where = f"{row.where}, turn {turn['number']}"
        rewrite = turn.get(REWRITE) if rewrites is None else rewrites.get(turn_id)
        if rewrite is None:
            lacks = f"field '{REWRITE}' is missing" if rewrites is None else f"there is no human rewrite of {turn_id}"
            yield RejectedRow(where, lacks, turn)
            continue
        terms = {
            "topic": topic,
            "id": turn_id,
            "position": 1 + sum(role == "user" for role, _ in history),
            "utterance": _first_of(turn, UTTERANCES).strip(),
            "rewrite": rewrite.strip(),
            "history": history,
        }
        yield SourceRow(terms, where)


def _situations(turns: Sequence[Mapping[str, Any]]) -> Iterator[Situation]:
    if any("participant" in turn for turn in turns):
        return _in_tree(turns)
    return _in_line(turns)


def _in_line(turns: Sequence[Mapping[str, Any]]) -> Iterator[Situation]:
    history: list[tuple[str, str]] = []
    for turn in turns:
        yield turn, list(history)
        history.append(("user", _first_of(turn, UTTERANCES).strip()))
        answer = _first_of(turn, ANSWERS, "").strip()
        if answer:
            history.append(("assistant", answer))


def _in_tree(turns: Sequence[Mapping[str, Any]]) -> Iterator[Situation]:
    by_number = {turn["number"]: turn for turn in turns}
    for turn in turns:
        if turn["participant"].lower() == "user":
            history: list[tuple[str, str]] = []
            above = turn
            while (parent := _first_of(above, ("parent", "parent_turn"), None)) is not None:
                above = by_number[parent]
                role = "user" if above["participant"].lower() == "user" else "assistant"
                history.insert(0, (role, _first_of(above, (*UTTERANCES, *ANSWERS)).strip()))
            yield turn, history


_NEEDED = object()


def _first_of(turn: Mapping[str, Any], names: Sequence[str], default: Any = _NEEDED) -> Any:
    for name in names:
        if turn.get(name) is not None:
            return turn[name]
    if default is _NEEDED:
        raise KeyError(names[0])
    return default
