"""Readers of conversational datasets: CANARD, TREC CAsT, QReCC and MT-RAG.

* CANARD (Elgohary et al. 2019, https://sites.google.com/view/qanta/projects/canard): `train.json`, `dev.json`,
  `test.json`, arrays of objects with `History` (article title, section title, then question, answer, question, answer
  ...), `QuAC_dialog_id`, `Question`, `Question_no`, `Rewrite`.
* TREC CAsT topics of 2019 to 2022 (https://github.com/daltonj/treccastweb): a JSON array of topics with `number` and
  `turn`. A turn has, in 2019, `number` and `raw_utterance` (the human rewrites are in a separate TSV of `topic_turn`,
  rewrite, without header); in 2020 also `manual_rewritten_utterance` (system answers are passage ids without text);
  in 2021 also `passage`, the system answer; in 2022 `number` ("2-3"), `utterance`, `manual_rewritten_utterance`, and
  either `response` (the flattened file, which repeats a conversation for each of its branches) or `participant` and
  `parent` (the tree file, in which system turns are turns).
* QReCC (Anantha et al. 2021, https://github.com/apple/ml-qrecc): `qrecc_train.json`, `qrecc_test.json`, arrays of
  objects with `Conversation_no`, `Turn_no`, `Context` (question, answer, question, answer ... before this one),
  `Question`, `Rewrite`, `Answer`.
* MT-RAG reference tasks (Katsis et al. 2025, github IBM/mt-rag-benchmark, `reference.jsonl`): conversations with their
  passages and reference answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from searchlora.data.formats.common import Converted, FormatRows, converted, split_files, whole_number
from searchlora.data.formats.pairs import rewritten
from searchlora.errors import DataError
from searchlora.eval.text_identity import normalised
from searchlora.eval.trec import is_word
from searchlora.files import Rows, check_file, numbered_lines, read_rows
from searchlora.records import Collection, Document, Judgment, Options, Record, RejectedRow, SourceReport, SourceRow


def _alternating(texts: Sequence[str]) -> list[dict[str, str]]:
    """Turns from alternating texts of user and assistant; empty texts are left out."""
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "text": text} for number, text in enumerate(texts) if text.strip()]


def _texts_fault(data: Record, lists: Sequence[str], texts: Sequence[str]) -> str | None:
    """The first field that is not a list of texts, or not a text."""
    for name in lists:
        if not isinstance(data[name], list) or not all(isinstance(text, str) for text in data[name]):
            return f"field '{name}': is not a list of texts"
    return next((f"field '{name}': is not text" for name in texts if not isinstance(data[name], str)), None)


# CANARD

_CANARD_FIELDS = ("History", "QuAC_dialog_id", "Question", "Question_no", "Rewrite")
_TITLES = 2  # entries of a history before its first question
_NO_ANSWER = frozenset({"i don't know.", "i don't know", "cannotanswer"})


def read_canard(source: Path, options: Options) -> FormatRows:
    """Questions of CANARD, from one file or a folder of official splits, as records of `pairs.rewritten`.

    The history is as published, with the human rewrite in place of the first question. Questions before turn
    `from_turn` of the options are left out and counted.
    """
    from_turn = whole_number(options, "from_turn", 1)
    left_out = 0
    for path, split in split_files(source):
        rows = (row.data for row in _canard_rows(path) if isinstance(row, SourceRow))
        openings = {data["QuAC_dialog_id"]: data["Rewrite"] for data in rows if data["Question_no"] == 1}
        for row in _canard_rows(path):
            if isinstance(row, RejectedRow):
                yield row
            elif row.data["Question_no"] < from_turn:
                left_out += 1
            else:
                yield replace(row, data=_canard_record(row.data, openings, split))
    if left_out:
        yield SourceReport((f"Questions before turn {from_turn} are left out.",), {"questions left out": left_out})


def canard_collection(source: Path) -> Collection:
    """The answers in the histories of CANARD as passages, titled with their article.

    The answer to question n of a dialogue is in the history of its question n+1. Answers that say "I don't know" are
    left out. The relevant passage of a question is its own answer, grade 1.
    """
    return Collection(
        documents=(
            Document(f"{dialogue}_a{number}", answer, article) for dialogue, number, article, answer in _answers(source)
        ),
        judgments=(
            Judgment(_question_id(dialogue, number), f"{dialogue}_a{number}", 1)
            for dialogue, number, _, _ in _answers(source)
        ),
    )


def _question_id(dialogue: str, number: int) -> str:
    return f"{dialogue}_q{number}"


def _answers(source: Path) -> Iterator[tuple[str, int, str, str]]:
    """Dialogue, number, article and text of every answer, each once."""
    longest: dict[str, int] = {}
    for path, _ in split_files(source):
        for row in _canard_rows(path):
            if isinstance(row, RejectedRow):
                continue
            dialogue, history = row.data["QuAC_dialog_id"], row.data["History"]
            answers = history[_TITLES + 1 :: 2]
            for number in range(longest.get(dialogue, 0) + 1, len(answers) + 1):
                answer = answers[number - 1]
                if answer.strip().lower() not in _NO_ANSWER:
                    yield dialogue, number, history[0], answer
            longest[dialogue] = max(longest.get(dialogue, 0), len(answers))


def _canard_record(data: Record, openings: Mapping[str, str], split: str | None) -> Record:
    turns = data["History"][_TITLES:]
    if turns and data["QuAC_dialog_id"] in openings:
        turns = [openings[data["QuAC_dialog_id"]], *turns[1:]]
    return rewritten(
        id=_question_id(data["QuAC_dialog_id"], data["Question_no"]),
        group=data["History"][0],
        history=_alternating(turns),
        turn=data["Question_no"],
        query=data["Question"],
        rewrite=data["Rewrite"],
        split=split,
    )


def _canard_rows(path: Path) -> Rows:
    for row in read_rows(path, _CANARD_FIELDS):
        fault = _canard_fault(row.data) if isinstance(row, SourceRow) else None
        yield row if fault is None else RejectedRow(row.where, fault, row.data)


def _canard_fault(data: Record) -> str | None:
    if fault := _texts_fault(data, ["History"], []):
        return fault
    if len(data["History"]) < _TITLES or len(data["History"]) % 2:
        return "field 'History': is not article, section, then pairs of question and answer"
    if fault := _texts_fault(data, [], ["QuAC_dialog_id", "Question", "Rewrite"]):
        return fault
    return None if isinstance(data["Question_no"], int) else "field 'Question_no': is not a whole number"


# TREC CAsT

_UTTERANCES = ("raw_utterance", "utterance")
_ANSWERS = ("passage", "response")
_REWRITE = "manual_rewritten_utterance"

#: A turn and the turns before it.
TurnInContext = tuple[Mapping[str, Any], list[dict[str, str]]]


def read_cast(source: Path, rewrites: Mapping[str, str] | None = None) -> Rows:
    """User turns of a TREC CAsT topics file as records of `pairs.rewritten`; ids are as in the track's qrels ("31_2").

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
    """Questions of QReCC, from one file or a folder of official splits, as records of `pairs.rewritten`."""
    for path, split in split_files(source):
        yield from converted(read_rows(path, _QRECC_FIELDS), partial(_qrecc_record, split))


def _qrecc_record(split: str | None, row: SourceRow) -> Converted:
    data = row.data
    return _texts_fault(data, ["Context"], ["Question", "Rewrite"]) or rewritten(
        id=f"{data['Conversation_no']}_{data['Turn_no']}",
        group=f"conversation {data['Conversation_no']}",
        history=_alternating(data["Context"]),
        turn=data["Turn_no"],
        query=data["Question"],
        rewrite=data["Rewrite"],
        split=split,
    )


# MT-RAG

# Passage ids end with the offsets in the document: "ibmcld_03080-9575-11239". Wikipedia ids also have the section
# before the offsets: "806502664_5333-5957-0-624".
_OFFSETS = re.compile(r"(?:_\d+-\d+)?-\d+-\d+$")

_MTRAG_FIELDS = ("task_id", "conversation_id", "input", "contexts", "answerability")


def read_mtrag(path: Path) -> FormatRows:
    """The tasks of an MT-RAG reference file.

    Yields:
        `id`, `conversation`, `query` (the last user turn), `history` (earlier turns, `role` and `text`),
        `passages` (`id`, `title`, `text` each), `answer` (or None), `answerability`, `collection`.
    """
    return converted(read_rows(path, _MTRAG_FIELDS), _mtrag_task)


def _mtrag_task(row: SourceRow) -> Converted:
    data = row.data
    if (field := _malformed_field(data)) is not None:
        return f"field '{field}': is not of the form that MT-RAG defines"
    turns = [
        {"role": "user" if turn["speaker"] == "user" else "assistant", "text": turn["text"]} for turn in data["input"]
    ]
    if not turns or turns[-1]["role"] != "user":
        return "the conversation does not end with a user turn"
    return {
        "id": str(data["task_id"]).replace(" ", "_"),
        "conversation": data["conversation_id"],
        "query": turns[-1]["text"],
        "history": turns[:-1],
        "passages": [
            {"id": context["document_id"], "title": context.get("title") or "", "text": context["text"]}
            for context in data["contexts"]
        ],
        "answer": data["targets"][0]["text"] if data.get("targets") else None,
        "answerability": data["answerability"],
        "collection": data.get("Collection"),
    }


def mtrag_collection(source: Path) -> Collection:
    """The passages of all tasks; those of a task are relevant to its question, grade 1."""
    tasks = [row.data for row in read_mtrag(source) if isinstance(row, SourceRow)]
    passages = [passage for task in tasks for passage in task["passages"]]
    relevant = {task["id"]: dict.fromkeys(passage["id"] for passage in task["passages"]) for task in tasks}
    return Collection(
        documents={
            passage["id"]: Document(passage["id"], passage["text"], passage["title"]) for passage in passages
        }.values(),
        judgments=(Judgment(task, document, 1) for task, of_task in relevant.items() for document in of_task),
    )


def mtrag_keys(task: Mapping[str, Any]) -> list[str]:
    """Keys of a task that another one of its group has, too: its conversation, first turn and documents."""
    first = task["history"][0]["text"] if task["history"] else task["query"]
    documents = [f"document {_OFFSETS.sub('', passage['id'])}" for passage in task["passages"]]
    return [f"conversation {task['conversation']}", f"turn {normalised(first)}", *documents]


def _malformed_field(data: Mapping[str, Any]) -> str | None:
    """The first field that is not a list of objects with the required texts, or None."""
    parts = {"input": ("speaker", "text"), "contexts": ("document_id", "text"), "targets": ("text",)}
    for field, texts in parts.items():
        members = data.get(field) or [] if field == "targets" else data[field]
        if not isinstance(members, list) or not all(
            isinstance(member, dict) and all(isinstance(member.get(text), str) for text in texts) for member in members
        ):
            return field
    contexts, answerability = data["contexts"], data["answerability"]
    listed = answerability if isinstance(answerability, list) else [answerability]
    sound = {
        "contexts": all(isinstance(c.get("title") or "", str) and is_word(c["document_id"]) for c in contexts),
        "answerability": bool(listed) and all(isinstance(value, str) for value in listed),
        "conversation_id": isinstance(data["conversation_id"], str | int),
        "Collection": isinstance(data.get("Collection") or "", str),
    }
    return next((field for field, is_sound in sound.items() if not is_sound), None)
