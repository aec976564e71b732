"""Readers of conversational datasets: CANARD and MT-RAG.

* CANARD (Elgohary et al. 2019, https://sites.google.com/view/qanta/projects/canard): `train.json`, `dev.json`,
  `test.json`, arrays of objects with `History` (article title, section title, then question, answer, question, answer
  ...), `QuAC_dialog_id`, `Question`, `Question_no`, `Rewrite`.
* MT-RAG reference tasks (Katsis et al. 2025, github IBM/mt-rag-benchmark, `reference.jsonl`): conversations with their
  passages and reference answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from searchlora.data.formats.common import Converted, FormatRows, converted, split_files, whole_number
from searchlora.data.formats.tables import rewritten
from searchlora.eval.text_identity import normalised
from searchlora.eval.trec import is_word
from searchlora.files import read_rows
from searchlora.records import Collection, Document, Judgment, Options, Record, SourceReport, SourceRow


def alternating(texts: Sequence[str]) -> list[dict[str, str]]:
    """Turns from alternating texts of user and assistant; empty texts are left out."""
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "text": text} for number, text in enumerate(texts) if text.strip()]


def texts_fault(data: Record, lists: Sequence[str], texts: Sequence[str]) -> str | None:
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
    """Questions of CANARD, from one file or a folder of official splits, as records of `tables.rewritten`.

    The history is as published, with the human rewrite in place of the first question. Questions before turn
    `from_turn` of the options are left out and counted.
    """
    from_turn = whole_number(options, "from_turn", 1)
    left_out = 0
    for path, split in split_files(source):
        questions = (row.data for row in _canard_rows(path) if isinstance(row, SourceRow))
        openings = {data["QuAC_dialog_id"]: data["Rewrite"] for data in questions if data["Question_no"] == 1}
        for row in _canard_rows(path):
            if not isinstance(row, SourceRow):
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
            if not isinstance(row, SourceRow):
                continue
            dialogue, history = row.data["QuAC_dialog_id"], row.data["History"]
            answers = history[_TITLES + 1 :: 2]
            for number in range(longest.get(dialogue, 0) + 1, len(answers) + 1):
                answer = answers[number - 1]
                if answer.strip().lower() not in _NO_ANSWER:
                    yield dialogue, number, history[0], answer
            longest[dialogue] = max(longest.get(dialogue, 0), len(answers))


def _canard_record(data: Record, openings: Mapping[str, str], split: str | None) -> Record:
    texts = data["History"][_TITLES:]
    if texts and data["QuAC_dialog_id"] in openings:
        texts = [openings[data["QuAC_dialog_id"]], *texts[1:]]
    return rewritten(
        id=_question_id(data["QuAC_dialog_id"], data["Question_no"]),
        group=data["History"][0],
        history=alternating(texts),
        turn=data["Question_no"],
        query=data["Question"],
        rewrite=data["Rewrite"],
        split=split,
    )


def _canard_rows(path: Path) -> FormatRows:
    return converted(read_rows(path, _CANARD_FIELDS), lambda row: _canard_fault(row.data) or row)


def _canard_fault(data: Record) -> str | None:
    if fault := texts_fault(data, ["History"], ["QuAC_dialog_id", "Question", "Rewrite"]):
        return fault
    if len(data["History"]) < _TITLES or len(data["History"]) % 2:
        return "field 'History': is not article, section, then pairs of question and answer"
    return None if isinstance(data["Question_no"], int) else "field 'Question_no': is not a whole number"


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
