"""Readers of conversational topics with human rewrites: TREC CAsT and QReCC.

* TREC CAsT topics of 2019 to 2022 (https://github.com/daltonj/treccastweb): a JSON array of topics with `number` and
  `turn`. A turn has, in 2019, `number` and `raw_utterance` (the human rewrites are in a separate TSV of `topic_turn`,
  rewrite, without header); in 2020 also `manual_rewritten_utterance` (system answers are passage ids without text);
  in 2021 also `passage`, the system answer; in 2022 `number` ("2-3"), `utterance`, `manual_rewritten_utterance`, and
  either `response` (the flattened file, which repeats a conversation for each of its branches) or `participant` and
  `parent` (the tree file, in which system turns are turns).
* QReCC (Anantha et al. 2021, https://github.com/apple/ml-qrecc): `qrecc_train.json`, `qrecc_test.json`, arrays of
  objects with `Conversation_no`, `Turn_no`, `Context` (question, answer, question, answer ... before this one),
  `Question`, `Rewrite`, `Answer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.readers.conversations import alternating, texts_fault
from searchlora.data.formats.common import Converted, FormatRows, converted, split_files
from searchlora.data.formats.tables import rewritten
from searchlora.errors import DataError
from searchlora.files import Rows, check_file, numbered_lines, read_rows
from searchlora.records import RejectedRow, SourceRow

# TREC CAsT

_UTTERANCES = ("raw_utterance", "utterance")
_ANSWERS = ("passage", "response")
_REWRITE = "manual_rewritten_utterance"

#: A turn and the turns before it.
TurnInContext = tuple[Mapping[str, Any], list[dict[str, str]]]


def read_cast(source: Path, rewrites: Mapping[str, str] | None = None) -> Rows:
    """User turns of a TREC CAsT topics file as records of `tables.rewritten`; ids are as in the track's qrels ("31_2").

    A turn without a human rewrite is rejected. `turn` is counted from 1, among the user's turns.

    Args:
        rewrites: "topic_turn" -> human rewrite, for a file that holds none itself (2019).
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


def read_cast_rewrites(topics: Path, file: str | None = None) -> dict[str, str]:
    """The human rewrites of 2019: the `*annotated_resolved*.tsv` beside the topics, or the file `file`.

    Raises:
        DataError: when there is none, more than one, or a line is not `topic_turn`, tab, rewrite.
    """
    beside = sorted(topics.parent.glob("*annotated_resolved*.tsv"))
    if not file and len(beside) != 1:
        raise DataError(
            f"there are {len(beside)} files *annotated_resolved*.tsv with the human rewrites beside the topics",
            where=str(topics),
            fix="Name the file with --option rewrites=FILE.",
        )
    path = Path(file) if file else beside[0]
    check_file(path)
    rewrites: dict[str, str] = {}
    for number, line in numbered_lines(path):
        turn, tab, rewrite = line.strip().partition("\t")
        if not tab:
            raise DataError(
                "there is no tab", where=f"{path.name}, line {number}", fix="A line is topic_turn, tab, rewrite."
            )
        rewrites[turn] = rewrite.strip()
    return rewrites


def _topic(row: SourceRow, rewrites: Mapping[str, str] | None, seen: set[str]) -> Rows:
    topic, turns = row.data["number"], row.data["turn"]
    in_context = _tree_turns if any("participant" in turn for turn in turns) else _flat_turns
    for turn, history in in_context(turns):
        turn_id = f"{topic}_{turn['number']}"
        if turn_id in seen:  # the 2022 file repeats the turns that branches share
            continue
        seen.add(turn_id)
        where = f"{row.where}, turn {turn['number']}"
        rewrite = turn.get(_REWRITE) if rewrites is None else rewrites.get(turn_id)
        if rewrite is None:
            reason = f"field '{_REWRITE}' is missing" if rewrites is None else f"there is no human rewrite of {turn_id}"
            yield RejectedRow(where, reason, turn)
            continue
        record = rewritten(
            id=turn_id,
            group=f"topic {topic}",
            history=history,
            turn=1 + sum(before["role"] == "user" for before in history),
            query=_first_of(turn, _UTTERANCES).strip(),
            rewrite=rewrite.strip(),
        )
        yield SourceRow(record, where)


def _flat_turns(turns: Sequence[Mapping[str, Any]]) -> Iterator[TurnInContext]:
    history: list[dict[str, str]] = []
    for turn in turns:
        yield turn, list(history)
        history.append({"role": "user", "text": _first_of(turn, _UTTERANCES).strip()})
        answer = _first_of(turn, _ANSWERS, "").strip()
        if answer:
            history.append({"role": "assistant", "text": answer})


def _tree_turns(turns: Sequence[Mapping[str, Any]]) -> Iterator[TurnInContext]:
    by_number = {turn["number"]: turn for turn in turns}
    for turn in turns:
        if turn["participant"].lower() == "user":
            history: list[dict[str, str]] = []
            ancestor = turn
            while (parent := _first_of(ancestor, ("parent", "parent_turn"), None)) is not None:
                ancestor = by_number[parent]
                role = "user" if ancestor["participant"].lower() == "user" else "assistant"
                history.insert(0, {"role": role, "text": _first_of(ancestor, (*_UTTERANCES, *_ANSWERS)).strip()})
            yield turn, history


_REQUIRED = object()


def _first_of(turn: Mapping[str, Any], names: Sequence[str], default: Any = _REQUIRED) -> Any:
    for name in names:
        if turn.get(name) is not None:
            return turn[name]
    if default is _REQUIRED:
        raise KeyError(names[0])
    return default


# QReCC

_QRECC_FIELDS = ("Conversation_no", "Turn_no", "Context", "Question", "Rewrite")


def read_qrecc(source: Path) -> FormatRows:
    """Questions of QReCC, from one file or a folder of official splits, as records of `tables.rewritten`."""
    for path, split in split_files(source):
        yield from converted(read_rows(path, _QRECC_FIELDS), partial(_qrecc_record, split))


def _qrecc_record(split: str | None, row: SourceRow) -> Converted:
    data = row.data
    return texts_fault(data, ["Context"], ["Question", "Rewrite"]) or rewritten(
        id=f"{data['Conversation_no']}_{data['Turn_no']}",
        group=f"conversation {data['Conversation_no']}",
        history=alternating(data["Context"]),
        turn=data["Turn_no"],
        query=data["Question"],
        rewrite=data["Rewrite"],
        split=split,
    )
