"""Reader of TREC Deep Learning topics with BM25 passages, as published by RankGPT and rank_llm.

A folder with one JSON file, an array of `{"query", "hits": [{"qid", "docid", "content", "score"}]}`, and one qrels file
(`qrels*`, TREC lines): https://github.com/sunnweiwei/RankGPT, https://github.com/castorini/rank_llm.
"""

from __future__ import annotations

from pathlib import Path

from searchlora.data.formats.common import Converted, converted
from searchlora.errors import DataError
from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import has_card, is_sidecar, sources_of
from searchlora.files import Rows, read_rows
from searchlora.records import RejectedRow, SourceRow


def read_trecdl(source: Path, *, unjudged: int = 0) -> Rows:
    """The graded pairs of a TREC DL folder, in file order.

    Args:
        unjudged: Number of ungraded passages per query to add with grade 0, those ranked lowest.

    Yields:
        `topic`, `query`, `document`, `passage`, `grade`, `score` (of BM25).
    """
    qrels = _one_file(source, "qrels*")
    sources = sources_of(qrels) if has_card(qrels) else None
    for row in trecdl_hits(source):
        if isinstance(row, RejectedRow):
            yield row
            continue
        pairs = row.data["pairs"]
        lowest = [pair["document"] for pair in pairs if pair["grade"] is None][-unjudged:] if unjudged else []
        for pair in pairs:
            where = f"{row.where}, document {pair['document']}"
            if pair["grade"] is not None:
                yield SourceRow(pair, where, sources and sources.of(pair["topic"], pair["document"]))
            elif pair["document"] in lowest:
                yield SourceRow({**pair, "grade": 0}, where, "synthetic")


def trecdl_hits(source: Path) -> Rows:
    """One row per query of a TREC DL folder with all its passages, best first; `grade` is None for an ungraded pair.

    Yields:
        `topic`, `query`, `pairs` (`topic`, `query`, `document`, `passage`, `grade`, `score` each).

    Raises:
        DataError: unless the folder has one JSON file and one qrels file.
    """
    qrels = read_qrels(_one_file(source, "qrels*"))

    def graded(row: SourceRow) -> Converted:
        hits = row.data["hits"]
        if not isinstance(hits, list) or not hits or not all(_is_hit(hit) for hit in hits):
            return "field 'hits': is not a list of objects with qid, docid, content and score"
        if len({str(hit["qid"]) for hit in hits}) > 1:
            return "field 'hits': its entries belong to several queries (qid)"
        topic, query = str(hits[0]["qid"]), row.data["query"]
        grades = qrels.get(topic, {})
        pairs = [
            {
                "topic": topic,
                "query": query,
                "document": str(hit["docid"]),
                "passage": hit["content"],
                "grade": grades.get(str(hit["docid"])),
                "score": float(hit["score"]),
            }
            for hit in hits
        ]
        return {"topic": topic, "query": query, "pairs": pairs}

    yield from converted(read_rows(_one_file(source, "*.json", "*.json.gz"), ("query", "hits")), graded)


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
