"""TREC Deep Learning topics with the passages that BM25 found, as RankGPT and rank_llm hand them on
(https://github.com/sunnweiwei/RankGPT, https://github.com/castorini/rank_llm).

A folder with one JSON file, an array of `{"query", "hits": [{"qid", "docid", "content", "score"}]}`, and one qrels file
(`qrels*`, TREC lines).
"""

from __future__ import annotations

from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.formats import read_qrels
from searchlora.files import Rows, read_rows
from searchlora.records import RejectedRow, SourceRow


def read(source: Path, *, unjudged: int = 0) -> Rows:
    """The pairs that people graded, in the file's order.

    Args:
        unjudged: Take so many passages of each query that nobody graded, those ranked lowest, as grade 0.

    Yields:
        `topic`, `query`, `document`, `passage`, `grade`, `score` (of BM25).
    """
    for row in hits(source):
        if isinstance(row, RejectedRow):
            yield row
            continue
        pairs = row.data["pairs"]
        lowest = [pair["document"] for pair in pairs if pair["grade"] is None][-unjudged:] if unjudged else []
        for pair in pairs:
            if pair["grade"] is not None:
                yield SourceRow(pair, f"{row.where}, document {pair['document']}")
            elif pair["document"] in lowest:
                yield SourceRow({**pair, "grade": 0}, f"{row.where}, document {pair['document']}")


def hits(source: Path) -> Rows:
    """One row per query, with all its passages, best first; `grade` is None where nobody graded the pair.

    Yields:
        `topic`, `query`, `pairs` (`topic`, `query`, `document`, `passage`, `grade`, `score` each).

    Raises:
        DataError: when the folder has not one JSON file and one qrels file.
    """
    qrels = read_qrels(_one(source, "qrels*"))
    for row in read_rows(_one(source, "*.json", "*.json.gz"), ("query", "hits")):
        if isinstance(row, RejectedRow):
            yield row
            continue
        found = row.data["hits"]
        if not isinstance(found, list) or not found or not all(_is_hit(each) for each in found):
            yield RejectedRow(row.where, "field 'hits': is no list of objects with qid, docid, content and score")
            continue
        if len({str(each["qid"]) for each in found}) > 1:
            yield RejectedRow(row.where, "field 'hits': they are of several queries (qid)")
            continue
        topic, query = str(found[0]["qid"]), row.data["query"]
        grades = qrels.get(topic, {})
        pairs = [
            {
                "topic": topic,
                "query": query,
                "document": str(each["docid"]),
                "passage": each["content"],
                "grade": grades.get(str(each["docid"])),
                "score": float(each["score"]),
            }
            for each in found
        ]
        yield SourceRow({"topic": topic, "query": query, "pairs": pairs}, row.where)


def _is_hit(each: object) -> bool:
    return (
        isinstance(each, dict)
        and {"qid", "docid", "content", "score"} <= set(each)
        and isinstance(each["content"], str)
        and isinstance(each["score"], int | float)
    )


def _one(source: Path, *patterns: str) -> Path:
    names = [path for pattern in patterns for path in sorted(source.glob(pattern)) if path.is_file()]
    if len(names) != 1:
        raise DataError(
            f"has {len(names)} files like '{patterns[0]}' where one is needed",
            where=str(source),
            fix="Give the folder with the JSON file of passages and the qrels.",
        )
    return names[0]
