"""Readers of test collections (topics, documents, judgments): BEIR, TREC and Cranfield; and their graded pairs.

* BEIR (Thakur et al., NeurIPS 2021; https://github.com/beir-cellar/beir): a folder with `corpus.jsonl`,
  `queries.jsonl`, and any of `qrels/train.tsv`, `qrels/dev.tsv`, `qrels/test.tsv`; each may be gzipped.
* TREC: a folder with files of topics, qrels and documents.
* Cranfield (Cleverdon 1967; https://ir.dcs.gla.ac.uk/resources/test_collections/cran/): `cran.all.1400` and `cran.qry`
  hold entries that begin with `.I NUMBER`, then `.T` title, `.A` authors, `.B` source, `.W` text; a line of `cranqrel`
  is `query document grade`.
"""

from __future__ import annotations

import codecs
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from searchlora.data.collection import CorpusFile, read_documents
from searchlora.data.formats.common import field_map, plain_or_packed, whole_number
from searchlora.data.formats.teachers import teacher_scores
from searchlora.data.splits import SPLIT_NAMES
from searchlora.errors import DataError, UsageError
from searchlora.eval.formats import read_qrels, read_run, read_topics
from searchlora.eval.judgments.card import JudgmentsCard, has_card, is_sidecar, source_of
from searchlora.eval.judgments.pooling import pool
from searchlora.eval.judgments.sources import Source
from searchlora.eval.trec import Qrels
from searchlora.files import numbered_lines, open_bytes, read_rows, strict
from searchlora.files.rows import delimited_fields
from searchlora.records import Collection, Document, Judgment, Option, Options, RejectedRow, SourceReport, SourceRow

_SEED = 13


@dataclass(frozen=True)
class Judged:
    """A test collection.

    Attributes:
        name: Name of the source, for messages.
        queries: Topic -> query.
        documents: Iterates over all documents; called once for the texts, and once more to draw unjudged ones.
        qrels: Split -> judgments; the split is None if the source has no splits.
        never: Pairs (topic, document) that are never drawn as unjudged.
        pool: Topic -> documents that systems retrieved, from which unjudged ones are drawn; None: all documents.
        outside: Number of judgments left out because their document is not in the pool.
        sources: Split -> who or what graded; without an entry, the builder's default holds.
        grades: Grade -> its grade on the scale 0 to 3 of graded pairs, where they differ.
        judged_by: The card of judgments that a rule made, such as clicks.
        teacher: Topic -> document -> score of a teacher, comparable within the topic.
        ungraded: Number of documents per topic to add that have the score of the teacher and no judgment.
        groups: Topic -> its group, which stays in one split; without an entry, that of its query.
    """

    name: str
    queries: Mapping[str, str]
    documents: Callable[[], Iterable[Document]]
    qrels: Mapping[str | None, Qrels]
    never: Set[tuple[str, str]] = frozenset()
    pool: Mapping[str, Sequence[str]] | None = None
    outside: int = 0
    sources: Mapping[str | None, Source] = field(default_factory=dict)
    grades: Mapping[int, int] = field(default_factory=dict)
    judged_by: JudgmentsCard | None = None
    teacher: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ungraded: int = 0
    groups: Mapping[str, str] = field(default_factory=dict)

    def reports(self) -> Iterator[SourceReport]:
        """What was left out of the source."""
        if self.pool is not None:
            counts = {"judgments outside the pool": self.outside}
            yield SourceReport(("Only documents in the pool of the runs are read.",), counts)


def graded_pairs(collection: Judged, *, unjudged: int = 0) -> Iterator[SourceRow | RejectedRow | SourceReport]:
    """All judged pairs with their texts, split by split, in the order of the judgments.

    Only the texts of the pairs are in memory. Pairs with an empty document are left out; a report at the end has
    their number.

    Args:
        unjudged: Number of unjudged documents per topic to add at random with grade 0. This is sound if the judgments
            are (nearly) complete, and noise otherwise.

    Yields:
        `topic`, `query`, `document`, `title`, `passage`, `grade`, `split`, and `teacher` where the collection has one.
        A pair that was added for the teacher has no `grade`.

    Raises:
        DataError: if no judged topic has a query, or there are too few documents to draw from.
    """
    drawn = _draw_unjudged(collection, unjudged) if unjudged else {}
    pairs: list[tuple[str | None, str, str, int | None]] = [
        pair for split, qrels in collection.qrels.items() for pair in _list_pairs(split, qrels, drawn)
    ]
    pairs += _pairs_of_teacher(collection)
    if not any(topic in collection.queries for _, topic, _, _ in pairs):
        raise DataError(
            "no topic of the judgments has a query", where=collection.name, fix="Do topics and qrels belong together?"
        )
    judged = {document for _, _, document, _ in pairs}
    texts = {document.id: document for document in collection.documents() if document.id in judged}
    empty = 0
    for split, topic, document, grade in pairs:
        where = f"{collection.name}, topic {topic}, document {document}"
        if topic not in collection.queries:
            yield RejectedRow(where, "the topic has no query")
        elif document not in texts:
            yield RejectedRow(where, "the document is not in the collection")
        elif not texts[document].searchable.strip():
            empty += 1
        else:
            row: dict[str, Any] = {"topic": topic, "query": collection.queries[topic], "document": document}
            if grade is not None:
                row["grade"] = collection.grades.get(grade, grade)
            if (score := collection.teacher.get(topic, {}).get(document)) is not None:
                row["teacher"] = score
            assumed = document in drawn.get(topic, ())
            graded_by = "synthetic" if assumed else collection.sources.get(split)
            yield SourceRow({**row, **title_and_passage(texts[document]), "split": split}, where, graded_by)
    yield from collection.reports()
    if empty:
        yield SourceReport(("Pairs whose document is empty are left out.",), {"pairs with an empty document": empty})


def _pairs_of_teacher(collection: Judged) -> Iterator[tuple[None, str, str, None]]:
    """Pairs with a teacher's score and no judgment, at even distances in the teacher's order of each topic."""
    for topic, scores in collection.teacher.items() if collection.ungraded else ():
        judged = {document for qrels in collection.qrels.values() for document in qrels.get(topic, ())}
        others = sorted(scores.keys() - judged, key=lambda document: (-scores[document], document))
        count = min(collection.ungraded, len(others))
        for number in range(count):
            yield None, topic, others[number * len(others) // count], None


def _list_pairs(
    split: str | None, qrels: Qrels, drawn: Mapping[str, list[str]]
) -> Iterator[tuple[str | None, str, str, int]]:
    for topic, grades in qrels.items():
        for document, grade in grades.items():
            yield split, topic, document, grade
        for document in drawn.get(topic, []):
            yield split, topic, document, 0


def _draw_unjudged(collection: Judged, count: int) -> dict[str, list[str]]:
    """Topic -> random documents that are not judged for it in any split; deterministic."""
    everything = [document.id for document in collection.documents()]
    known_ids = set(everything)
    judged: dict[str, set[str]] = {}
    for qrels in collection.qrels.values():
        for topic, grades in qrels.items():
            judged.setdefault(topic, set()).update(grades)
    for topic, document in collection.never:
        if topic in judged:
            judged[topic].add(document)
    unjudged = {}
    for topic, known in judged.items():
        ids = everything
        if collection.pool is not None:
            if topic not in collection.pool:
                continue  # no system searched for it
            ids = [document for document in collection.pool[topic] if document in known_ids]
            known = known & set(ids)
        if len(ids) < count + len(known):
            raise DataError(
                f"has {len(ids)} documents, too few to draw {count} that are not judged",
                where=f"{collection.name}, topic {topic}",
                fix="Give a smaller 'unjudged'.",
            )
        candidates = random.Random(f"{_SEED}/{topic}").sample(ids, count + len(known))
        unjudged[topic] = [document for document in candidates if document not in known][:count]
    return unjudged


def title_and_passage(document: Document) -> dict[str, str]:
    """Title and passage of a document; a title without a text is the passage."""
    if document.text.strip():
        return {"title": document.title, "passage": document.text}
    return {"title": "", "passage": document.title}


def read_beir(source: Path) -> Judged:
    """Topics, documents and judgments of a BEIR folder; the documents are read when iterated.

    Raises:
        DataError: for a missing file, a malformed row, or a file name in `qrels/` that is not a split.
    """
    files = sorted(path for path in (source / "qrels").glob("*") if path.name.endswith((".tsv", ".tsv.gz")))
    if not files:
        raise DataError("holds no qrels/*.tsv", where=str(source), fix="Give the BEIR folder itself.")
    of_split: dict[str | None, Path] = {}
    for path in files:
        split = SPLIT_NAMES.get(path.name.partition(".")[0].lower())
        if split is None or split in of_split:
            raise DataError("is not named train, dev or test", where=str(path), fix="Rename or remove it.")
        of_split[split] = path
    return Judged(
        source.name,
        {str(row.data["_id"]): str(row.data["text"]) for row in _beir_rows(source, "queries.jsonl")},
        lambda: _beir_documents(source),
        {split: read_qrels(path, "beir") for split, path in of_split.items()},
        sources={split: source_of(path) for split, path in of_split.items() if has_card(path)},
    )


def _beir_documents(source: Path) -> Iterator[Document]:
    for row in _beir_rows(source, "corpus.jsonl"):
        title = row.data.get("title") or ""
        if not isinstance(row.data["text"], str) or not isinstance(title, str):
            raise DataError("title and text of a document must be text", where=row.where)
        yield Document(str(row.data["_id"]), row.data["text"], title)


def _beir_rows(source: Path, name: str) -> Iterator[SourceRow]:
    return strict(read_rows(plain_or_packed(source / name), ("_id", "text")))


#: How `data build` names the columns of documents.
CORPUS_HINT = "--map corpus.{field}=COLUMN"

#: Options that name the columns of documents.
CORPUS_COLUMNS: Mapping[str, Option] = {
    "corpus.id": Option("the id of a document in the corpus", "column", "id"),
    "corpus.text": Option("the text of a document in the corpus", "columns", "text"),
    "corpus.title": Option("the title of a document in the corpus", "columns", "title"),
}


def corpus_file(path: Path, options: Mapping[str, str]) -> CorpusFile:
    """A file of documents with the columns that the options of a format name."""
    named = {name.removeprefix("corpus."): columns for name, columns in field_map(options, CORPUS_COLUMNS).items()}
    return CorpusFile(path, named, CORPUS_HINT)


#: Options of `read_trec`: name -> meaning.
TREC_OPTIONS: Mapping[str, Option] = {
    "topics": Option("the topics, in the folder or elsewhere", "file", "the file named topics… or queries…"),
    "qrels": Option("the judgments", "file", "the file named qrels…"),
    "corpus": Option("the documents", "file", "the file named corpus…, collection…, documents… or passages…"),
    **CORPUS_COLUMNS,
    "runs": Option(
        "runs, whose first documents are the pool: judgments of others are left out, and unjudged documents are drawn "
        "from it",
        "folder, or files separated by commas",
        "all documents",
    ),
    "depth": Option("number of documents of a run and topic that are in the pool", "whole number ≥ 1", "all"),
}
TEACHER_OPTIONS: Mapping[str, Option] = {
    "teacher": Option(
        "runs of the systems that a judge learns to rank as: each pair gets the mean of their standardised scores",
        "folder, or files separated by commas",
        "no teacher",
    ),
    "ungraded": Option(
        "number of documents per topic without a judgment to add for the teacher's scores alone, evenly over its ranks",
        "whole number ≥ 0",
        "0",
    ),
}
_NAME_PREFIXES = {
    "topics": ("topics", "queries"),
    "qrels": ("qrels",),
    "corpus": ("corpus", "collection", "documents", "passages"),
}


def read_trec(source: Path, options: Mapping[str, str]) -> Judged:
    """Topics, documents and judgments of a folder; the documents are read when iterated.

    Topics and qrels are in any format of `searchlora.eval.formats`, documents in JSONL, CSV, TSV or Parquet with `id`,
    `text` and optionally `title`, or in the `collection.tsv` of MS MARCO (id and text, no header).

    Args:
        options: See `TREC_OPTIONS`.

    Raises:
        DataError: for a file that is missing or cannot be read.
    """
    if not source.is_dir():
        raise DataError("is not a folder", where=str(source), fix="Give the folder with topics, qrels and documents.")
    teacher = (
        teacher_scores([read_run(path) for path in _run_files(source, options["teacher"])])
        if options.get("teacher")
        else {}
    )
    ungraded = whole_number(options, "ungraded", 0)
    if ungraded and not teacher:
        raise UsageError(
            "documents without a judgment need a teacher", where="--option ungraded", fix="Give --option teacher=RUNS."
        )
    has_qrels = not teacher or options.get("qrels") is not None or any(_files(source, "qrels"))
    files = {name: _file(source, name, options.get(name)) for name in _NAME_PREFIXES if name != "qrels" or has_qrels}
    queries = {topic: str(fields["query"]) for topic, fields in read_topics(files["topics"]).items()}
    corpus = corpus_file(files["corpus"], options)
    sources: dict[str | None, Source] = {}
    qrels: dict[str | None, Qrels] = {}
    if has_qrels:
        if has_card(files["qrels"]):
            sources[None] = source_of(files["qrels"])
        qrels = {None: read_qrels(files["qrels"])}
    more: dict[str, Any] = {"sources": sources, "teacher": teacher, "ungraded": ungraded}
    judged = Judged(source.name, queries, lambda: trec_documents(corpus), qrels, **more)
    if "runs" not in options:
        return judged
    runs = {str(path): read_run(path) for path in _run_files(source, options["runs"])}
    return _within_pool(judged, pool(runs, whole_number(options, "depth", sys.maxsize, minimum=1)))


def _within_pool(judged: Judged, pooled: Mapping[str, Mapping[str, int]]) -> Judged:
    qrels = {
        split: {
            topic: {document: grade for document, grade in grades.items() if document in pooled.get(topic, {})}
            for topic, grades in of_split.items()
        }
        for split, of_split in judged.qrels.items()
    }
    before, after = (sum(len(g) for of_split in q.values() for g in of_split.values()) for q in (judged.qrels, qrels))
    documents = {topic: list(counts) for topic, counts in pooled.items()}
    return replace(judged, qrels=qrels, pool=documents, outside=before - after)


def _run_files(source: Path, value: str) -> list[Path]:
    paths = [source / part if (source / part).exists() else Path(part) for part in value.split(",")]
    files = (file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path]))
    return [file for file in files if not is_sidecar(file)]


def trec_documents(corpus: CorpusFile) -> Iterator[Document]:
    """The documents of a file, one at a time. Raises `DataError` for a malformed row."""
    path = corpus.path
    if path.name.removesuffix(".gz").endswith(".tsv") and not corpus.fields and not _has_header(path):
        return _documents_without_header(path)
    return read_documents(corpus)


def _file(source: Path, name: str, file: str | None) -> Path:
    if file is not None:
        beside = source / file
        return beside if beside.exists() else Path(file)
    files = _files(source, name)
    if len(files) != 1:
        raise DataError(
            f"has {len(files)} files whose name begins with {' or '.join(_NAME_PREFIXES[name])}",
            where=str(source),
            fix=f"Name the file with --option {name}=FILE.",
        )
    return files[0]


def _files(source: Path, name: str) -> list[Path]:
    return [
        path
        for path in sorted(source.iterdir())
        if path.is_file() and path.name.startswith(_NAME_PREFIXES[name]) and not is_sidecar(path)
    ]


def _has_header(path: Path) -> bool:
    with open_bytes(path) as file:
        fields = file.readline().removeprefix(codecs.BOM_UTF8).strip().split(b"\t")
    # The id has other names in some files, and `read_documents` says so.
    return fields[1:] in ([b"text"], [b"content"], [b"contents"]) or {b"id", b"text"} <= set(fields)


def _documents_without_header(path: Path) -> Iterator[Document]:
    with open_bytes(path) as file:
        for row in delimited_fields(file, path.name, "\t", quoted=False):
            if isinstance(row, RejectedRow):
                raise DataError(row.reason, where=row.where)
            where, fields = row
            if len(fields) != 2:
                raise DataError(
                    f"has {len(fields)} fields where 2 are needed",
                    where=where,
                    fix="A line is 'id<tab>text', or the file has a header with id and text.",
                )
            yield Document(fields[0], fields[1])


_FIELD = re.compile(r"\.([A-Z])\s*")


def cranfield_topics(source: Path) -> dict[str, str]:
    """Topic id -> query. The id is the number of the query in the file from 1, as in the judgments.

    Raises:
        DataError: naming file and line.
    """
    return {str(number): text for number, (_, _, text) in enumerate(_cranfield_entries(source / "cran.qry"), start=1)}


def cranfield_collection(source: Path) -> Collection:
    """The abstracts of the folder `source` (two of the 1,400 are empty), and its judgments.

    Grades in the file go from 1, a complete answer, to 4, of minimum interest; they are inverted, so that 4 is best.
    Lines with -1, one per query, are not explained by the file: they are left out, never counted as "not relevant".

    Both are read when iterated, and raise `DataError` naming file and line.
    """
    return Collection(
        documents=(
            Document(number, text, title) for number, title, text in _cranfield_entries(source / "cran.all.1400")
        ),
        judgments=(
            Judgment(topic, document, 5 - int(grade))
            for topic, document, grade in _cranfield_lines(source / "cranqrel")
            if grade != "-1"
        ),
    )


def read_cranfield(source: Path) -> Judged:
    """The Cranfield collection; titles are left out of the documents, since the texts repeat them.

    Raises:
        DataError: naming file and line.
    """
    qrels: dict[str, dict[str, int]] = {}
    for judgment in cranfield_collection(source).judgments:
        qrels.setdefault(judgment.topic, {})[judgment.document] = judgment.grade
    return Judged(
        source.name,
        cranfield_topics(source),
        lambda: (replace(document, title="") for document in cranfield_collection(source).documents),
        {None: qrels},
        frozenset(
            (topic, document) for topic, document, grade in _cranfield_lines(source / "cranqrel") if grade == "-1"
        ),
        grades={4: 3, 3: 2, 2: 1},
    )


def _cranfield_entries(path: Path) -> Iterator[tuple[str, str, str]]:
    """Number, title and text."""
    number, fields, field = "", dict[str, list[str]](), ""
    for line_number, line in numbered_lines(path):
        if line.startswith(".I"):
            if number:
                yield number, _joined_text(fields, "T"), _joined_text(fields, "W")
            number, fields, field = line[2:].strip(), {}, ""
            if not number:
                raise DataError("there is no number", where=f"{path}, line {line_number}", fix="A line is '.I NUMBER'.")
        elif (marked := _FIELD.fullmatch(line)) and number:
            field = marked[1]
            fields[field] = []
        elif not field:
            raise DataError(
                "is not an entry of the Cranfield collection",
                where=f"{path}, line {line_number}",
                fix="An entry begins with '.I NUMBER', and a field with '.T', '.A', '.B' or '.W'.",
            )
        else:
            fields[field].append(line)
    if not number:
        raise DataError("holds no entry", where=str(path), fix="An entry begins with '.I NUMBER'.")
    yield number, _joined_text(fields, "T"), _joined_text(fields, "W")


def _joined_text(fields: dict[str, list[str]], name: str) -> str:
    return " ".join(" ".join(fields.get(name, ())).split())


def _cranfield_lines(path: Path) -> Iterator[tuple[str, str, str]]:
    for line_number, line in numbered_lines(path):
        fields = line.split()
        if len(fields) != 3 or fields[2] not in ("-1", "1", "2", "3", "4"):
            raise DataError(
                f"'{line.strip()}' is not a judgment",
                where=f"{path}, line {line_number}",
                fix="A line is 'query document grade', the grade 1 to 4 or -1.",
            )
        yield fields[0], fields[1], fields[2]


@dataclass(frozen=True)
class CollectionFormat:
    """A public layout of a test collection, of which tasks make their formats.

    Attributes:
        read: Returns the collection from its folder and the options.
    """

    name: str
    description: str
    read: Callable[[Path, Options], Judged]
    options: Mapping[str, Option] = field(default_factory=dict)


COLLECTIONS = (
    CollectionFormat(
        "beir",
        "a BEIR folder (corpus.jsonl, queries.jsonl, qrels/)",
        lambda source, _: read_beir(source),
    ),
    CollectionFormat("trec", "a folder with topics, qrels and the documents", read_trec, TREC_OPTIONS),
    CollectionFormat(
        "cranfield",
        "the Cranfield collection; of its grades, 4 is best, and a judge learns them as 3, 2, 1, 1",
        lambda source, _: read_cranfield(source),
    ),
)
