"""Reader of TREC Deep Learning topics with BM25 passages, as published by RankGPT and rank_llm.

A folder with one JSON file, an array of `{"query", "hits": [{"qid", "docid", "content", "score"}]}`, and one qrels file
(`qrels*`, TREC lines): https://github.com/sunnweiwei/RankGPT, https://github.com/castorini/rank_llm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from searchlora.errors import DataError
from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import has_card, is_sidecar, source_of
from searchlora.files import Rows, read_rows
from searchlora.records import RejectedRow, SourceRow


def read_trecdl(source: Path, *, unjudged: int = 0) -> Rows:
    """The graded pairs of a TREC DL folder, in file order.

    Args:
        unjudged: Number of ungraded passages per query to add with grade 0, those ranked lowest.

    Yields:
        `topic`, `query`, `document`, `passage`, `grade`, `score` (of BM25).

    Raises:
        DataError: unless the folder has one JSON file and one qrels file.
    """
    judged = _one_file(source, "qrels*")
    qrels = read_qrels(judged)
    graded_by = source_of(judged) if has_card(judged) else None
    for row in read_rows(_one_file(source, "*.json", "*.json.gz"), ("query", "hits")):
        fault = _fault(row.data["hits"]) if isinstance(row, SourceRow) else None
        if isinstance(row, RejectedRow) or fault is not None:
            yield row if isinstance(row, RejectedRow) else RejectedRow(row.where, str(fault), row.data)
            continue
        hits = row.data["hits"]
        topic = str(hits[0]["qid"])
        grades = qrels.get(topic, {})
        ungraded = [str(hit["docid"]) for hit in hits if str(hit["docid"]) not in grades]
        drawn = ungraded[-unjudged:] if unjudged else []
        for hit in hits:
            document = str(hit["docid"])
            pair = {"topic": topic, "query": row.data["query"], "document": document, "passage": hit["content"]}
            pair |= {"grade": grades.get(document, 0), "score": float(hit["score"])}
            where = f"{row.where}, document {document}"
            if document in grades:
                yield SourceRow(pair, where, graded_by)
            elif document in drawn:
                yield SourceRow(pair, where, "synthetic")


def _fault(hits: Any) -> str | None:
    if not isinstance(hits, list) or not hits or not all(map(_is_hit, hits)):
        return "field 'hits': is not a list of objects with qid, docid, content and score"
    if len({str(hit["qid"]) for hit in hits}) > 1:
        return "field 'hits': its entries belong to several queries (qid)"
    return None


def _is_hit(hit: object) -> bool:
    return (
        isinstance(hit, dict)
        and {"qid", "docid", "content", "score"} <= set(hit)
        and isinstance(hit["content"], str)
        and isinstance(hit["score"], int | float)
    )


def _one_file(source: Path, *patterns: str) -> Path:
    paths = [path for pattern in patterns for path in sorted(source.glob(pattern))]
    names = [path for path in paths if path.is_file() and not is_sidecar(path)]
    if len(names) != 1:
        raise DataError(
            f"has {len(names)} files like '{patterns[0]}' where one is needed",
            where=str(source),
            fix="Give the folder with the JSON file of passages and the qrels.",
        )
    return names[0]
