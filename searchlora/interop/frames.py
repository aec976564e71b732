"""PyTerrier's data frames as searches of a pipeline, and back.

A frame of queries has the columns `qid` and `query`; a frame of results has `docno`, `score` and `rank`, too, and a row
for each hit. PyTerrier takes the columns of a result frame that begin with `q` for those of the query, so what stages
write to a search is in columns of that form: the field `intent` in `qintent`, and `history` in `qhistory`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from searchlora.errors import PipelineError
from searchlora.files import as_text
from searchlora.pipelines.stages.stage import FUSED_QUERIES
from searchlora.records import Document, Hit, SearchContext

#: Fields of a search that are no columns of their own: rows are hits, and passages are made of hits again.
_NO_COLUMNS = ("id", "query", "hits", "passages")

#: Columns of a result frame that are no field of the document.
_OF_HITS = ("qid", "docno", "docid", "score", "rank", "features")

_EARLIER_QUERY = re.compile(r"query_\d+")


def searches_of(frame: pd.DataFrame, known: Container[str] = ()) -> list[SearchContext]:
    """The searches of a frame, in the order in which their `qid` appears.

    Of a frame of queries, every column is a field of the search; of a frame of results, those that begin with `q`.
    Missing values are left out. Hits are ordered by `score`, else by `rank`, else as they are. With a column `text` or
    `title`, each hit has its document, and the other columns with texts and numbers are its metadata.

    Args:
        known: Ids of documents that need not be taken from the frame, since the corpus has them with all fields.

    Raises:
        PipelineError: if a frame of queries repeats a `qid`, or one of results a `docno` of a query.

    Examples:
        >>> frame = pd.DataFrame([["q1", "red tent", "d1", 2.0]], columns=["qid", "query", "docno", "score"])
        >>> searches_of(frame)
        [{'id': 'q1', 'query': 'red tent', 'hits': [Hit(document='d1', score=2.0)]}]
    """
    of_results = "docno" in frame.columns
    columns = query_columns(frame.columns) if of_results else list(frame.columns)
    searches: dict[str, dict[str, Any]] = {}
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in frame.to_dict(orient="records"):
        id_ = str(row["qid"])
        if id_ not in searches:
            searches[id_] = _search(id_, dict(_fields(row, columns)))
        elif not of_results:
            raise PipelineError(f"the qid '{id_}' is repeated in a frame without 'docno'")
        rows.setdefault(id_, []).append(row)
    if of_results:
        for id_, search in searches.items():
            search["hits"] = _hits(rows[id_], id_, known)
    return list(searches.values())


def frame_of(
    executed: Sequence[SearchContext],
    received: pd.DataFrame,
    *,
    retrieves: bool,
    rewrites: bool,
    metadata: Sequence[str] = (),
    documents: Mapping[str, Document] | None = None,
) -> pd.DataFrame:
    """Executed searches as a frame, in the order of the searches, with a row for each hit if they have hits.

    Args:
        executed: What a pipeline made of `searches_of(received)`.
        received: The frame that the searches were made of.
        retrieves: Whether the pipeline retrieves: then the columns of documents are `metadata`, else those that
            `received` has.
        rewrites: Whether the pipeline rewrites queries: the earlier ones move to `query_0`, `query_1`, and so on, as by
            `pyterrier.model.push_queries`.
        metadata: Fields of documents that become columns, such as `title` and `text`.
        documents: The corpus by id, for documents that the hits do not have.

    Examples:
        >>> topics = pd.DataFrame([["q1", "red couch"]], columns=["qid", "query"])
        >>> executed = [{"id": "q1", "query": "red sofa", "hits": [Hit("d3", 2.5)]}]
        >>> found = frame_of(executed, topics, retrieves=True, rewrites=True)
        >>> found.to_dict(orient="records")
        [{'qid': 'q1', 'query': 'red sofa', 'query_0': 'red couch', 'docno': 'd3', 'score': 2.5, 'rank': 0}]
    """
    of_results = "docno" in received.columns
    topics = _topics(executed, received, query_columns(received.columns) if of_results else received.columns, rewrites)
    if not retrieves and not of_results:
        return topics
    ranked = [(str(search["id"]), rank, hit) for search in executed for rank, hit in enumerate(search["hits"])]
    rows = [(id_, hit.document, float(hit.score), rank) for id_, rank, hit in ranked]
    hits = pd.DataFrame(rows, columns=["qid", "docno", "score", "rank"])
    hits = hits.astype({"qid": "object", "docno": "object", "score": "float64", "rank": "int64"})
    if retrieves:
        names = list(metadata)
        found = [hit.fetched or (documents or {}).get(hit.document) if names else None for *_, hit in ranked]
        for name in names:
            hits[name] = _objects([document.field(name) if document else None for document in found], hits)
    else:
        names = [name for name in received if name not in ("docno", "score", "rank", *query_columns(received.columns))]
        texts = received[["qid", "docno", *names]].astype({"qid": "str", "docno": "str"})
        hits = hits.merge(texts.astype({"qid": "object", "docno": "object"}), on=["qid", "docno"], how="left")
    topics = topics.drop(columns=[name for name in names if name in topics])
    return topics.merge(hits, on="qid")[[*topics.columns, "docno", *names, "score", "rank"]]


def _topics(
    executed: Sequence[SearchContext], received: pd.DataFrame, kept: Iterable[str], rewrites: bool
) -> pd.DataFrame:
    """A row for each query: the columns it had, its query, and a column for each field that stages wrote."""
    topics = received[list(kept)].drop_duplicates("qid").reset_index(drop=True)
    if rewrites:
        earlier = [name for name in topics if name == "query" or _EARLIER_QUERY.fullmatch(name)]
        topics = topics.rename(columns={name: f"query_{int(name[6:] or -1) + 1}" for name in earlier})
    topics["qid"] = _objects([str(search["id"]) for search in executed], topics)
    topics["query"] = _objects([search["query"] for search in executed], topics)
    first = [name for name in received if name in topics and not _EARLIER_QUERY.fullmatch(name)]
    topics = topics[[*first, *sorted(name for name in topics if name not in first)]]
    for field in dict.fromkeys(field for search in executed for field in search if field not in _NO_COLUMNS):
        name = field if field in topics and not field.startswith("q") else f"q{field}"
        had = topics[name] if name in topics else [None] * len(topics)
        values = [search.get(field, value) for search, value in zip(executed, had, strict=True)]
        topics[name] = _objects(values, topics)
    return topics


def _objects(values: Sequence[Any], frame: pd.DataFrame) -> pd.Series[Any]:
    """A column of values, of which lists and mappings stay cells."""
    return pd.Series(list(values), index=frame.index, dtype="object")


def query_columns(columns: Iterable[str]) -> list[str]:
    """The columns of a result frame that describe the query, as PyTerrier takes them: those that begin with `q`."""
    return [name for name in columns if name.startswith("q")]


def documents_of(corpus: pd.DataFrame | Iterable[Document | Mapping[str, Any]]) -> list[Document]:
    """Documents of a frame, or of dictionaries as PyTerrier indexes them, with `docno`, `text` and `title`.

    Raises:
        PipelineError: for a row without a `docno`.

    Examples:
        >>> documents_of([{"docno": "d1", "text": "A red tent.", "brand": "Acme"}])
        [Document(id='d1', text='A red tent.', title='', metadata={'brand': 'Acme'})]
    """
    rows = corpus.to_dict(orient="records") if isinstance(corpus, pd.DataFrame) else corpus
    return [row if isinstance(row, Document) else _document(row) for row in rows]


def _search(id_: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A search. A query that another transformer changed after a fused rewrite takes the place of the rewritten one."""
    search = {"id": id_, **fields}
    fused = search.get(FUSED_QUERIES)
    if fused and "query" in search and fused[-1] != search["query"]:
        search[FUSED_QUERIES] = tuple(dict.fromkeys((*fused[:-1], search["query"])))
    return search


def _fields(row: Mapping[str, Any], columns: Iterable[str]) -> Iterable[tuple[str, Any]]:
    for name in columns:
        if name == "qid" or _EARLIER_QUERY.fullmatch(name) or _is_missing(row[name]):
            continue
        field = name if name == "query" or not name.startswith("q") else name[1:]
        if field not in _NO_COLUMNS or name == "query":
            yield field, str(row[name]) if name == "query" else _whole(row[name])


def _whole(value: Any) -> Any:
    """A number without decimals as an integer: a column with gaps has only floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _hits(rows: Sequence[Mapping[str, Any]], id_: str, known: Container[str]) -> list[Hit]:
    if len({str(row["docno"]) for row in rows}) < len(rows):
        raise PipelineError("a 'docno' is repeated", where=f"query {id_}")
    if "score" in rows[0]:
        rows = sorted(rows, key=lambda row: -float(row["score"]))
    elif "rank" in rows[0]:
        rows = sorted(rows, key=lambda row: float(row["rank"]))
    with_text = "text" in rows[0] or "title" in rows[0]
    return [
        Hit(
            str(row["docno"]),
            float(row["score"]) if "score" in row else float(len(rows) - place),
            _document(row) if with_text and str(row["docno"]) not in known else None,
        )
        for place, row in enumerate(rows)
    ]


def _document(row: Mapping[str, Any]) -> Document:
    if _is_missing(row.get("docno")):
        raise PipelineError("a document has no 'docno'", fix="Give documents with 'docno', 'text' and 'title'.")
    text, title = (str(row[name]) if not _is_missing(row.get(name)) else "" for name in ("text", "title"))
    others = {
        name: as_text(_whole(value))
        for name, value in row.items()
        if isinstance(value, str | int | float)
        and not _is_missing(value)
        and name not in (*_OF_HITS, "text", "title")
        and not name.startswith("q")
    }
    return Document(str(row["docno"]), text or title, title if text else "", others)


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
