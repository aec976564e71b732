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
from pathlib import Path
from typing import Any

from searchlora.data.formats.common import split_files
from searchlora.errors import DataError
from searchlora.eval.text_identity import normalised
from searchlora.eval.trec import is_word
from searchlora.files import Rows, check_file, numbered_lines, read_rows
from searchlora.records import Collection, Document, Judgment, RejectedRow, SourceRow

_CANARD_FIELDS = ("History", "QuAC_dialog_id", "Question", "Question_no", "Rewrite")
_TITLES = 2  # entries of a history before its first question
_NO_ANSWER = frozenset({"i don't know.", "i don't know", "cannotanswer"})


def read_canard(source: Path) -> Rows:
    """Questions of CANARD, from one file or a folder of official splits.

    Yields:
        `dialogue`, `number` (from 1), `article`, `question`, `rewrite`, `turns` (question, answer, ... before this
        question, as published; the first question is replaced by its human rewrite), `split`.
    """
    for path, split in split_files(source):
        openings = _openings(path)
        for row in _canard_rows(path):
            if isinstance(row, RejectedRow):
                yield row
            else:
                yield SourceRow(_canard_fields(row.data, openings, split), row.where)


def canard_collection(source: Path) -> Collection:
    """The answers in the histories of CANARD as passages, titled with their article.

    The answer to question n of a dialogue is in the history of its question n+1. Answers that say "I don't know" are
    left out. The relevant passage of a question is its own answer, grade 1.
    """
    return Collection(
        documents=(
            Document(_answer_id(dialogue, number), answer, article)
            for dialogue, number, article, answer in _answers(source)
        ),
        judgments=(
            Judgment(question_id(dialogue, number), _answer_id(dialogue, number), 1)
            for dialogue, number, _, _ in _answers(source)
        ),
    )


def question_id(dialogue: str, number: int) -> str:
    """The id of a question, the same in records and judgments."""
    return f"{dialogue}_q{number}"


def _answer_id(dialogue: str, number: int) -> str:
    return f"{dialogue}_a{number}"


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


def _openings(path: Path) -> dict[str, str]:
    rows = (row.data for row in _canard_rows(path) if isinstance(row, SourceRow))
    return {data["QuAC_dialog_id"]: data["Rewrite"] for data in rows if data["Question_no"] == 1}


def _canard_fields(data: Any, openings: dict[str, str], split: str | None) -> dict[str, Any]:
    turns = data["History"][_TITLES:]
    if turns and data["QuAC_dialog_id"] in openings:
        turns = [openings[data["QuAC_dialog_id"]], *turns[1:]]
    return {
        "dialogue": data["QuAC_dialog_id"],
        "number": data["Question_no"],
        "article": data["History"][0],
        "question": data["Question"],
        "rewrite": data["Rewrite"],
        "turns": turns,
        "split": split,
    }


def _canard_rows(path: Path) -> Rows:
    for row in read_rows(path, _CANARD_FIELDS):
        fault = _canard_fault(row.data) if isinstance(row, SourceRow) else None
        yield row if fault is None else RejectedRow(row.where, fault, row.data)


def _canard_fault(data: Any) -> str | None:
    history = data["History"]
    if not isinstance(history, list) or not all(isinstance(text, str) for text in history):
        return "field 'History': is not a list of texts"
    if len(history) < _TITLES or len(history) % 2:
        return "field 'History': is not article, section, then pairs of question and answer"
    for name in ("QuAC_dialog_id", "Question", "Rewrite"):
        if not isinstance(data[name], str):
            return f"field '{name}': is not text"
    return None if isinstance(data["Question_no"], int) else "field 'Question_no': is not a whole number"


_UTTERANCES = ("raw_utterance", "utterance")
_ANSWERS = ("passage", "response")
_REWRITE = "manual_rewritten_utterance"

#: A turn and the turns before it as pairs of role and text.
TurnInContext = tuple[Mapping[str, Any], list[tuple[str, str]]]


def read_cast(source: Path, rewrites: Mapping[str, str] | None = None) -> Rows:
    """User turns of a TREC CAsT topics file.

    Args:
        rewrites: "topic_turn" -> human rewrite, for a file that holds none itself (2019).

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


def read_cast_rewrites(topics: Path, file: str | None = None) -> dict[str, str]:
    """The human rewrites of 2019: the `*annotated_resolved*.tsv` beside the topics, or the file `file`.

    Raises:
        DataError: when there is none, more than one, or a line is not `topic_turn`, tab, rewrite.
    """
    path = Path(file) if file else _rewrites_beside(topics)
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


def _rewrites_beside(topics: Path) -> Path:
    files = sorted(topics.parent.glob("*annotated_resolved*.tsv"))
    if len(files) != 1:
        raise DataError(
            f"there are {len(files)} files *annotated_resolved*.tsv with the human rewrites beside the topics",
            where=str(topics),
            fix="Name the file with --option rewrites=FILE.",
        )
    return files[0]


def _topic(row: SourceRow, rewrites: Mapping[str, str] | None, seen: set[str]) -> Rows:
    topic = row.data["number"]
    for turn, history in _turns_in_context(row.data["turn"]):
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
        fields = {
            "topic": topic,
            "id": turn_id,
            "position": 1 + sum(role == "user" for role, _ in history),
            "utterance": _first_of(turn, _UTTERANCES).strip(),
            "rewrite": rewrite.strip(),
            "history": history,
        }
        yield SourceRow(fields, where)


def _turns_in_context(turns: Sequence[Mapping[str, Any]]) -> Iterator[TurnInContext]:
    if any("participant" in turn for turn in turns):
        return _tree_turns(turns)
    return _flat_turns(turns)


def _flat_turns(turns: Sequence[Mapping[str, Any]]) -> Iterator[TurnInContext]:
    history: list[tuple[str, str]] = []
    for turn in turns:
        yield turn, list(history)
        history.append(("user", _first_of(turn, _UTTERANCES).strip()))
        answer = _first_of(turn, _ANSWERS, "").strip()
        if answer:
            history.append(("assistant", answer))


def _tree_turns(turns: Sequence[Mapping[str, Any]]) -> Iterator[TurnInContext]:
    by_number = {turn["number"]: turn for turn in turns}
    for turn in turns:
        if turn["participant"].lower() == "user":
            history: list[tuple[str, str]] = []
            ancestor = turn
            while (parent := _first_of(ancestor, ("parent", "parent_turn"), None)) is not None:
                ancestor = by_number[parent]
                role = "user" if ancestor["participant"].lower() == "user" else "assistant"
                history.insert(0, (role, _first_of(ancestor, (*_UTTERANCES, *_ANSWERS)).strip()))
            yield turn, history


_REQUIRED = object()


def _first_of(turn: Mapping[str, Any], names: Sequence[str], default: Any = _REQUIRED) -> Any:
    for name in names:
        if turn.get(name) is not None:
            return turn[name]
    if default is _REQUIRED:
        raise KeyError(names[0])
    return default


_QRECC_FIELDS = ("Conversation_no", "Turn_no", "Context", "Question", "Rewrite")


def read_qrecc(source: Path) -> Rows:
    """Questions of QReCC, from one file or a folder of official splits.

    Yields:
        `conversation`, `turn` (from 1), `context` (a list of texts), `question`, `rewrite`, `split`.
    """
    for path, split in split_files(source):
        for row in read_rows(path, _QRECC_FIELDS):
            if isinstance(row, SourceRow):
                yield _qrecc_row(row, split)
            else:
                yield row


def _qrecc_row(row: SourceRow, split: str | None) -> SourceRow | RejectedRow:
    data: Any = row.data
    if not isinstance(data["Context"], list) or not all(isinstance(text, str) for text in data["Context"]):
        return RejectedRow(row.where, "field 'Context': is not a list of texts", data)
    for name in ("Question", "Rewrite"):
        if not isinstance(data[name], str):
            return RejectedRow(row.where, f"field '{name}': is not text", data)
    fields = {
        "conversation": data["Conversation_no"],
        "turn": data["Turn_no"],
        "context": data["Context"],
        "question": data["Question"],
        "rewrite": data["Rewrite"],
        "split": split,
    }
    return SourceRow(fields, row.where)


# MT-RAG's passage ids end with the offsets in the document: "ibmcld_03080-9575-11239". Wikipedia ids also have the
# section before the offsets: "806502664_5333-5957-0-624".
_OFFSETS = re.compile(r"(?:_\d+-\d+)?-\d+-\d+$")

_MTRAG_FIELDS = ("task_id", "conversation_id", "input", "contexts", "answerability")


def read_mtrag(path: Path) -> Iterator[SourceRow | RejectedRow]:
    """The tasks of an MT-RAG reference file.

    Yields:
        `id`, `conversation`, `query` (the last user turn), `history` (earlier turns, `role` and `text`),
        `passages` (`id`, `title`, `text` each), `answer` (or None), `answerability`, `collection`.
    """
    for row in read_rows(path, _MTRAG_FIELDS):
        if isinstance(row, RejectedRow):
            yield row
            continue
        data = row.data
        if (field := _malformed_field(data)) is not None:
            yield RejectedRow(row.where, f"field '{field}': is not of the form that MT-RAG defines", dict(data))
            continue
        turns = [{"role": _role(turn["speaker"]), "text": turn["text"]} for turn in data["input"]]
        if not turns or turns[-1]["role"] != "user":
            yield RejectedRow(row.where, "the conversation does not end with a user turn", dict(data))
            continue
        yield SourceRow(
            {
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
            },
            row.where,
        )


def mtrag_collection(source: Path) -> Collection:
    """The passages of all tasks; those of a task are relevant to its question, grade 1."""
    tasks = [row.data for row in read_mtrag(source) if isinstance(row, SourceRow)]
    documents = {
        each["id"]: Document(each["id"], each["text"], each["title"]) for task in tasks for each in task["passages"]
    }
    relevant = {task["id"]: dict.fromkeys(each["id"] for each in task["passages"]) for task in tasks}
    return Collection(
        documents=documents.values(),
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
    if not all(isinstance(each.get("title") or "", str) and is_word(each["document_id"]) for each in data["contexts"]):
        return "contexts"
    listed = data["answerability"] if isinstance(data["answerability"], list) else [data["answerability"]]
    if not listed or not all(isinstance(value, str) for value in listed):
        return "answerability"
    if not isinstance(data["conversation_id"], str | int):
        return "conversation_id"
    if not isinstance(data.get("Collection") or "", str):
        return "Collection"
    return None


def _role(speaker: str) -> str:
    return "user" if speaker == "user" else "assistant"
