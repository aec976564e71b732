"""Retrieval systems on Cranfield: BM25 variants, a dense encoder and fusions of their runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.common import real_data
from searchlora.data.formats.judged_collections import cranfield_collection as collection
from searchlora.data.formats.judged_collections import cranfield_topics as topics
from searchlora.eval.trec import Qrels, Run, ranked, read_run, write_run
from searchlora.progress import Steps, no_progress
from searchlora.records import Document, Hit
from searchlora.retrieval import Analyzer, BM25Index, DenseIndex, Encoder, Retriever, fuse

#: Number of documents per topic in a run.
DEPTH = 100
BASELINE = "bm25"
ENCODER = "all-minilm-l6-v2"

STEM = Analyzer(stemmer="english")

#: Name -> options of `BM25Index`, or of `_other_method`; systems with `title` in their name search titles only.
LEXICAL: dict[str, dict[str, Any]] = {
    BASELINE: {},
    "bm25_k1.2_b0.75": {"k1": 1.2, "b": 0.75},
    "bm25_k0": {"k1": 0.0, "b": 0.0},  # binary term weights: IDF only
    "bm25_allwords": {"analyzer": Analyzer(stopwords=None)},
    "bm25_stem": {"analyzer": STEM},
    "bm25_stem_k1.2_b0.75": {"analyzer": STEM, "k1": 1.2, "b": 0.75},
    "bm25_stem_k2_b1": {"analyzer": STEM, "k1": 2.0, "b": 1.0},
    "bm25_stem_bm25l": {"analyzer": STEM, "method": "bm25l", "k1": 1.2, "b": 0.75},
    "bm25_stem_robertson": {"analyzer": STEM, "method": "robertson", "k1": 1.2, "b": 0.75},
    "bm25_title": {},
    "bm25_stem_title": {"analyzer": STEM},
}
DENSE = ("dense", "dense_title")

#: Name -> fusion method and the runs that are fused.
FUSIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rrf_stem_dense": ("rrf", ("bm25_stem_k1.2_b0.75", "dense")),
    "combsum_stem_dense": ("combsum", ("bm25_stem_k1.2_b0.75", "dense")),
    "combmnz_stem_dense": ("combmnz", ("bm25_stem_k1.2_b0.75", "dense")),
    "rrf_titles": ("rrf", ("bm25_stem_title", "dense_title")),
    "rrf_four": ("rrf", ("bm25_stem_k1.2_b0.75", "bm25_stem_title", "dense", "dense_title")),
}
SYSTEMS = (*LEXICAL, *DENSE, *FUSIONS)


@dataclass(frozen=True)
class Cranfield:
    """Documents, queries and relevance judgments of Cranfield."""

    folder: Path

    @cached_property
    def documents(self) -> list[Document]:
        return list(collection(self.folder).documents)

    @cached_property
    def titles(self) -> list[Document]:
        return [replace(document, text="") for document in self.documents]

    @cached_property
    def queries(self) -> dict[str, str]:
        return topics(self.folder)

    @cached_property
    def qrels(self) -> Qrels:
        grades: dict[str, dict[str, int]] = {}
        for judgment in collection(self.folder).judgments:
            grades.setdefault(judgment.topic, {})[judgment.document] = judgment.grade
        return grades


def cranfield_systems(work: Path, *, steps: Steps = no_progress) -> dict[str, Path]:
    """Run files of all `SYSTEMS` in the folder `work`, by name; missing ones are created.

    Encoding takes minutes on a CPU, the rest seconds.
    """
    paths = {name: work / f"{name}.trec" for name in SYSTEMS}
    data = Cranfield(real_data() / "cranfield")
    makers = _makers(data, paths, steps)
    for name, path in paths.items():
        if not path.is_file():
            write_run(path, makers[name](), name)
    return paths


def _makers(data: Cranfield, paths: Mapping[str, Path], steps: Steps) -> dict[str, Callable[[], Run]]:
    """Name -> function that creates its run. Fusions read the runs that come before them."""
    loaded: list[Encoder] = []

    def encoder() -> Encoder:
        if not loaded:
            loaded.append(Encoder.load(ENCODER))
        return loaded[0]

    def lexical(name: str) -> Run:
        if "method" in LEXICAL[name]:
            return _other_method(data, **LEXICAL[name])
        return _search(BM25Index(_searched(name, data), **LEXICAL[name]), data)

    def dense(name: str) -> Run:
        return _search(DenseIndex(_searched(name, data), encoder(), progress=steps(f"Encoding: {name}")), data)

    def fused(name: str) -> Run:
        method, parts = FUSIONS[name]
        return _fused(method, [read_run(paths[part]) for part in parts], data)

    kinds = {**dict.fromkeys(LEXICAL, lexical), **dict.fromkeys(DENSE, dense), **dict.fromkeys(FUSIONS, fused)}
    return {name: lambda name=name, make=make: make(name) for name, make in kinds.items()}  # type: ignore[misc]


def _searched(name: str, data: Cranfield) -> list[Document]:
    return data.titles if "title" in name else data.documents


def _search(retriever: Retriever, data: Cranfield) -> Run:
    found = retriever.search(list(data.queries.values()), DEPTH)
    return {topic: {hit.document: hit.score for hit in hits} for topic, hits in zip(data.queries, found, strict=True)}


def _other_method(data: Cranfield, analyzer: Analyzer, method: str, k1: float, b: float) -> Run:
    """A run by another variant of BM25 than Lucene's, straight from bm25s."""
    import bm25s

    index = bm25s.BM25(method=method, k1=k1, b=b)
    index.index([analyzer(document.searchable) for document in data.documents], show_progress=False)
    index.nonoccurrence_array = None  # a document without a query term scores 0; the ranking is the same
    run = {}
    for topic, query in data.queries.items():
        values = index.get_scores(analyzer(query)).tolist()
        scores = {document.id: score for document, score in zip(data.documents, values, strict=True) if score > 0}
        run[topic] = {document: scores[document] for document in ranked(scores)[:DEPTH]}
    return run


def _fused(method: str, runs: Sequence[Run], data: Cranfield) -> Run:
    fused = {}
    for topic in data.queries:
        rankings = [
            [Hit(document, run[topic][document]) for document in ranked(run[topic])] if topic in run else []
            for run in runs
        ]
        fused[topic] = {hit.document: hit.score for hit in fuse(rankings, method=method)[:DEPTH]}
    return fused
