"""What is measured, each in a process of its own, so that its peak memory is its own.

    python -m benchmarks.bm25_million.processes NAME ARGUMENTS

prints the figures as a line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.speed import timed

if TYPE_CHECKING:
    from searchlora.pipelines.pipeline import Pipeline
    from searchlora.retrieval.retriever import Retriever

#: Hits per query.
K = 10


def build(corpus: str, out: str) -> dict[str, Any]:
    """Build an index folder, as `searchlora index build` does."""
    from searchlora.pipelines.index_build import build_index

    begun = time.perf_counter()
    built = build_index(corpus, out)
    seconds = time.perf_counter() - begun
    files = {name: file.bytes for name, file in built.manifest.files.items()}
    texts = sum(size for name, size in files.items() if "/" not in name)
    return {
        "build, s": seconds,
        "peak, MiB": peak(),
        "index, MiB": (sum(files.values()) - texts) / 2**20,
        "texts, MiB": texts / 2**20,
    }


def search(index: str, queries: Sequence[str], repeats: int) -> dict[str, Any]:
    """Open an index folder and search it: one query at a time, and all in one call."""
    begun = time.perf_counter()
    pipeline = _opened(index)
    opened = time.perf_counter() - begun
    pipeline.search(queries[0])  # with the texts of the hits
    first = time.perf_counter() - begun
    retriever = _retriever(pipeline)
    batched, single = [], []
    for _ in range(repeats):
        begun = time.perf_counter()
        retriever.search(queries, K)
        batched.append(len(queries) / (time.perf_counter() - begun))
        times = []
        for query in queries:
            begun = time.perf_counter()
            retriever.search([query], K)
            times.append(time.perf_counter() - begun)
        single.append(times)
    seconds = sorted(median(of_query) for of_query in zip(*single, strict=True))
    return {
        "open, s": opened,
        "first hits, s": first,
        "queries/s, one at a time": [len(queries) / sum(times) for times in single],
        "queries/s, one call": batched,
        "p50, ms": 1000 * median(seconds),
        "p99, ms": 1000 * seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))],
        "peak, MiB": peak(),
        "without mapped files, MiB": _status("RssAnon"),
    }


def compare(index: str, queries: Sequence[str], documents: int, repeats: int) -> dict[str, Any]:
    """The saved index and rank-bm25 in turn, on the same queries with the same terms.

    rank-bm25 gets terms of the same analyser, and its best documents by `numpy.argpartition`: `get_top_n` sorts all.
    """
    import numpy as np
    from rank_bm25 import BM25Okapi

    from benchmarks.bm25_million import corpus
    from searchlora.retrieval.analysis import Analyzer

    retriever = _retriever(_opened(index))
    analyzer = Analyzer()
    ids = []
    terms = []
    for document in corpus.documents(documents):
        ids.append(document.id)
        terms.append(analyzer(document.searchable))
    begun = time.perf_counter()
    rival = BM25Okapi(terms, k1=0.9, b=0.4, epsilon=0)
    built = time.perf_counter() - begun

    def theirs(query: str) -> list[str]:
        scores = rival.get_scores(analyzer(query))
        best = np.argpartition(scores, -K)[-K:]
        return [ids[row] for row in best[np.argsort(-scores[best], kind="stable")] if scores[row] > 0]

    def ours(query: str) -> list[str]:
        (found,) = retriever.search([query], K)
        return [hit.document for hit in found]

    ways: Mapping[str, Callable[[], list[list[str]]]] = {
        "saved index": lambda: [ours(query) for query in queries],
        "rank-bm25": lambda: [theirs(query) for query in queries],
    }
    seconds, hits = timed(ways, repeats)
    speeds = {name: [len(queries) / taken for taken in values] for name, values in seconds.items()}
    overlap = _overlap(hits["rank-bm25"], hits["saved index"])
    return {**speeds, "build, s": built, "peak, MiB": peak(), f"same top {K}": overlap}


def _overlap(reference: Sequence[Sequence[str]], other: Sequence[Sequence[str]]) -> float:
    """Mean share of the reference's hits that the other has, too."""
    pairs = list(zip(reference, other, strict=True))
    return sum(len({*one} & {*two}) / max(1, len(one)) for one, two in pairs) / len(pairs)


def load(corpus: str, pipeline: str) -> dict[str, Any]:
    """Fill the indexes in search engines that a pipeline searches, by `searchlora index load`."""
    program = "import sys; from searchlora.cli import main; sys.argv[0] = 'searchlora'; main()"
    command = [sys.executable, "-c", program, "index", "load", corpus, "--pipeline", pipeline]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    return {"load, s": time.perf_counter() - begun}


def through(pipeline: str, index: str, queries: Sequence[str], repeats: int) -> dict[str, Any]:
    """The same queries through another pipeline, such as a search engine that holds the documents.

    Args:
        pipeline: A pipeline file whose hits have the ids of the documents.
    """
    from searchlora.pipelines.pipeline import Pipeline

    searches = [{"id": f"q{number}", "query": query} for number, query in enumerate(queries)]
    reference = _opened(index).execute(searches)
    other = Pipeline.load(pipeline, corpus=index)
    hits: list[list[str]] = []

    def batched() -> None:
        hits[:] = [[hit.document for hit in search["hits"][:K]] for search in other.execute(searches)]

    seconds, _ = timed({"one call": batched, "one at a time": lambda: [*map(other.search, queries)]}, repeats)
    own = [[hit.document for hit in search["hits"][:K]] for search in reference]
    speeds = {f"queries/s, {name}": [len(queries) / taken for taken in values] for name, values in seconds.items()}
    return {**speeds, f"same top {K}": _overlap(own, hits)}


def run(corpus: str, queries: str, out: str) -> dict[str, Any]:
    """`searchlora run` of BM25 over a file of queries."""
    from searchlora.experiments.run import run as execute
    from searchlora.pipelines.config import read_pipeline

    begun = time.perf_counter()
    _, count = execute(read_pipeline("bm25", [f"k={K}"]), queries, corpus, out)
    seconds = time.perf_counter() - begun
    with Path(out).open("rb") as file:
        lines = sum(1 for _ in file)
    return {"queries/s": count / seconds, "seconds": seconds, "peak, MiB": peak(), "lines": lines}


MEASURED: Mapping[str, Callable[..., dict[str, Any]]] = {
    "build": build,
    "search": search,
    "compare": compare,
    "load": load,
    "through": through,
    "run": run,
}


def _opened(index: str) -> Pipeline:
    from searchlora.pipelines.config import read_pipeline
    from searchlora.pipelines.pipeline import Pipeline

    return Pipeline.load(read_pipeline("bm25"), corpus=index)


def _retriever(pipeline: Pipeline) -> Retriever:
    from searchlora.pipelines.stages.retrieve import RetrieveStage

    (stage,) = pipeline.stages
    assert isinstance(stage, RetrieveStage)
    return stage.retriever


def peak() -> float:
    """Largest resident memory of this process so far in MiB, mapped files included; not that of the one before it."""
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) / 1024


if __name__ == "__main__":
    print(json.dumps(MEASURED[sys.argv[1]](**json.loads(sys.argv[2]))))
