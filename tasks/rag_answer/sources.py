"""MT-RAG, SQuAD and FAQ pairs as questions with their own passages and a pool of others."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

from searchlora.data.formats import faq, squad
from searchlora.data.formats.mtrag import read_mtrag
from searchlora.data.text import normalised
from searchlora.records import Document, Options, RejectedRow, SourceReport, SourceRow
from searchlora.tasks.rag_answer.choosing import Asked, Choice, Pool, rows
from searchlora.tasks.rag_answer.groups import connected
from searchlora.tasks.rag_answer.sentences import sentences

Rows: TypeAlias = Iterator[SourceRow | RejectedRow | SourceReport]

#: MT-RAG's answerability -> kind; a question that wants asking back is neither answered nor abstained from.
MTRAG_KINDS = {"ANSWERABLE": "answerable", "PARTIAL": "partly answerable", "UNANSWERABLE": "unanswerable"}
UNDERSPECIFIED = "UNDERSPECIFIED"

# The ids of MT-RAG's passages end in the place in their document: "ibmcld_03080-9575-11239". Those of Wikipedia have
# the section before it: "806502664_5333-5957-0-624".
_PLACE_IN_DOCUMENT = re.compile(r"(?:_\d+-\d+)?-\d+-\d+$")


def from_mtrag(source: Path, options: Options) -> Rows:
    """Rows of one group share a conversation, its first turn, or a document; partly answerable counts as answerable."""
    choice, counts = Choice.of(options), Counter[str]()
    found: list[SourceRow] = []
    for row in read_mtrag(source):
        if isinstance(row, RejectedRow):
            yield row
        elif _answerability(row.data) == UNDERSPECIFIED:
            counts["underspecified questions left out"] += 1
        elif (problem := _mtrag_problem(row.data)) is not None:
            yield RejectedRow(row.where, problem, row.data)
        else:
            found.append(row)
    groups = connected([_mtrag_keys(row.data) for row in found])
    of_group: dict[int, set[str]] = defaultdict(set)
    pools: dict[str, dict[str, Document]] = defaultdict(dict)
    for row, group in zip(found, groups, strict=True):
        of_group[group] |= {passage["id"] for passage in row.data["passages"]}
        pools[_collection(row.data)] |= {passage.id: passage for passage in _passages(row.data)}
    asked: dict[str, list[Asked]] = defaultdict(list)
    for row, group in zip(found, groups, strict=True):
        first = found[group].data["id"]
        asked[_collection(row.data)].append(_mtrag_asked(row, str(first), frozenset(of_group[group])))
    for collection, its in asked.items():
        yield from rows(its, Pool(list(pools[collection].values())), choice, counts)
    rule = "Questions that MT-RAG calls underspecified are left out; partly answerable ones count as answerable."
    yield SourceReport((rule, *choice.rules), dict(counts))


def from_squad(source: Path, options: Options) -> Rows:
    """The answer is the sentence of the paragraph in which the span stands; a group is an article."""
    choice, counts = Choice.of(options), Counter[str]()
    refused: list[RejectedRow] = []
    for _, its in groupby(_sound(squad.read(source), refused), key=lambda row: row.data["article"]):
        of_article: list[Asked] = []
        paragraphs: dict[str, Document] = {}
        for row in its:
            # Without the title: all passages of a row would have the same.
            passage = Document(row.data["paragraph"], row.data["context"])
            paragraphs[passage.id] = passage
            of_article.append(_squad_asked(row, passage))
        yield from rows(of_article, Pool(list(paragraphs.values())), choice, counts)
    yield from refused
    rule = "The reference is the sentence of the paragraph that holds the span."
    yield SourceReport((rule, *choice.rules), dict(counts))


def from_faq(source: Path, options: Options) -> Rows:
    """The passages are the answers without their questions; the pool is the whole source.

    Rows of one group share a section, a question or an answer.
    """
    choice, counts = Choice.of(options), Counter[str]()
    found: list[SourceRow] = []
    for row in faq.read(source, {key: value for key, value in options.items() if key in faq.COLUMNS}):
        if isinstance(row, RejectedRow):
            yield row
        else:
            found.append(row)
    keys = [_faq_keys(row.data) for row in found]
    answers, passages = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for row, (question, answer, *_) in zip(found, keys, strict=True):
        answers[question].add(answer)
        passages[answer].add(row.data["id"])
    asked = []
    for row, (question, *_), group in zip(found, keys, connected(keys), strict=True):
        related = (passages[answer] for answer in answers[question])
        asked.append(_faq_asked(row, found[group].data["group"], frozenset().union(*related)))
    yield from rows(asked, Pool([each.own[0] for each in asked]), choice, counts)
    yield SourceReport(("The passage of a question is its answer, without the question.", *choice.rules), dict(counts))


def _faq_keys(data: Mapping[str, Any]) -> list[str]:
    section = [f"section {data['section']}"] if data["section"] else []
    return [f"question {normalised(data['question'])}", f"answer {normalised(data['answer'])}", *section]


def _faq_asked(row: SourceRow, group: str, related: frozenset[str]) -> Asked:
    data = row.data
    return Asked(
        id=data["id"],
        group=group,
        question=data["question"],
        history=(),
        reference=data["answer"],
        own=(Document(data["id"], data["answer"]),),
        kind="answerable",
        source=data["section"] or "faq",
        split=data["split"],
        where=row.where,
        related=related,
    )


def _mtrag_asked(row: SourceRow, group: str, related: frozenset[str]) -> Asked:
    data = row.data
    kind = MTRAG_KINDS[_answerability(data)]
    return Asked(
        id=data["id"],
        group=group,
        question=data["query"],
        history=data["history"],
        reference=None if kind == "unanswerable" else data["answer"],
        own=_passages(data),
        kind=kind,
        source=_collection(data),
        where=row.where,
        related=related,
    )


def _mtrag_problem(data: Mapping[str, Any]) -> str | None:
    answerability = _answerability(data)
    if answerability not in MTRAG_KINDS:
        return f"field 'answerability': '{answerability}' is not known"
    if MTRAG_KINDS[answerability] == "unanswerable":
        return "field 'contexts': an unanswerable question has some" if data["passages"] else None
    if not data["passages"]:
        return "field 'contexts': an answerable question has none"
    return None if data["answer"] else "field 'targets': an answerable question has none"


def _mtrag_keys(data: Mapping[str, Any]) -> list[str]:
    first = data["history"][0]["text"] if data["history"] else data["query"]
    documents = [f"document {_PLACE_IN_DOCUMENT.sub('', passage['id'])}" for passage in data["passages"]]
    return [f"conversation {data['conversation']}", f"turn {normalised(first)}", *documents]


def _passages(data: Mapping[str, Any]) -> Sequence[Document]:
    return [Document(passage["id"], passage["text"], passage["title"]) for passage in data["passages"]]


def _answerability(data: Mapping[str, Any]) -> str:
    given = data["answerability"]
    return str(given[0] if isinstance(given, list) and given else given)


def _collection(data: Mapping[str, Any]) -> str:
    return str(data["collection"] or "mtrag")


def _squad_asked(row: SourceRow, passage: Document) -> Asked:
    data = row.data
    return Asked(
        id=data["id"],
        group=data["article"],
        question=data["question"],
        history=(),
        reference=None if data["impossible"] else _sentence_with(data["answers"][0], passage.text),
        own=(passage,),
        kind="unanswerable" if data["impossible"] else "answerable",
        source="squad",
        where=row.where,
        split=data["split"],
    )


def _sentence_with(answer: Mapping[str, Any], context: str) -> str:
    """The sentence of a paragraph in which an answer begins; where the text was split inside it, the span alone."""
    before = 0
    for sentence in sentences(context):
        at = context.index(sentence.text, before) if sentence.text in context[before:] else before
        before = at + len(sentence.text)
        if before > answer["start"]:
            return sentence.text if answer["text"] in sentence.text else str(answer["text"])
    return str(answer["text"])


def _sound(rows: Iterator[SourceRow | RejectedRow], refused: list[RejectedRow]) -> Iterator[SourceRow]:
    """The rows that were read; the others are put aside."""
    for row in rows:
        if isinstance(row, SourceRow):
            yield row
        else:
            refused.append(row)
