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

if TYPE_CHECKING:
    from searchlora.pipelines.pipeline import Pipeline
    from searchlora.retrieval.retriever import Retriever

#: Hits per query.
K = 10


def in_a_process(name: str, **arguments: Any) -> dict[str, Any]:
    """The figures of one of `MEASURED`, from a new process. Raises `RuntimeError` with what it wrote."""
    command = [sys.executable, "-m", "benchmarks.bm25_million.processes", name, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def build(corpus: str, out: str) -> dict[str, Any]:
    """Build an index folder, as `searchlora index build` does."""
    from searchlora.pipelines.index_build import build_index

    begun = time.perf_counter()
    built = build_index(corpus, out)
    seconds = time.perf_counter() - begun
    files = {name: file.bytes for name, file in built.manifest.files.items()}
    documents = sum(size for name, size in files.items() if "/" not in name)
    return {
        "documents": built.manifest.documents,
        "seconds": seconds,
        "peak_mib": peak(),
        "index_mib": (sum(files.values()) - documents) / 2**20,
        "documents_mib": documents / 2**20,
        "terms": built.manifest.bm25[0].terms,
    }


def search(index: str, queries: Sequence[str], repeats: int) -> dict[str, Any]:
    """Open an index folder and search it: one query at a time, and all in one call."""
    before = peak()
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
    each = sorted(median(of_query) for of_query in zip(*single, strict=True))
    return {
        "documents": len(pipeline.documents),
        "open_seconds": opened,
        "first_hits_seconds": first,
        "queries_per_second": [len(queries) / sum(times) for times in single],
        "batched_queries_per_second": batched,
        "p50_ms": 1000 * median(each),
        "p99_ms": 1000 * each[min(len(each) - 1, int(0.99 * len(each)))],
        "peak_mib": peak(),
        "before_mib": before,
        "own_mib": _status("RssAnon"),
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

    speeds: dict[str, list[float]] = {"ours": [], "rank_bm25": []}
    hits: dict[str, list[list[str]]] = {}
    ways: Mapping[str, Callable[[str], list[str]]] = {"ours": ours, "rank_bm25": theirs}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            hits[name] = [way(query) for query in queries]
            if repeat:
                speeds[name].append(len(queries) / (time.perf_counter() - begun))
    overlap = [
        len(set(one) & set(other)) / max(1, len(other))
        for one, other in zip(hits["ours"], hits["rank_bm25"], strict=True)
    ]
    return {**speeds, "build_seconds": built, "peak_mib": peak(), "same_hits": sum(overlap) / len(overlap)}


def load(corpus: str, pipeline: str) -> dict[str, Any]:
    """Fill the indexes in search engines that a pipeline searches, by `searchlora index load`."""
    program = "import sys; from searchlora.cli import main; sys.argv[0] = 'searchlora'; main()"
    command = [sys.executable, "-c", program, "index", "load", corpus, "--pipeline", pipeline]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    return {"load_seconds": time.perf_counter() - begun}


def through(pipeline: str, index: str, queries: Sequence[str], repeats: int) -> dict[str, Any]:
    """The same queries through another pipeline, such as a search engine that holds the documents.

    Args:
        pipeline: A pipeline file whose hits have the ids of the documents.
    """
    from searchlora.pipelines.pipeline import Pipeline

    searches = [{"id": f"q{number}", "query": query} for number, query in enumerate(queries)]
    reference = _opened(index).execute(searches)
    other = Pipeline.load(pipeline, corpus=index)
    batched, single, found = [], [], []
    for repeat in range(repeats + 1):
        begun = time.perf_counter()
        found = other.execute(searches)
        middle = time.perf_counter()
        for query in queries:
            other.search(query)
        if repeat:
            batched.append(len(queries) / (middle - begun))
            single.append(len(queries) / (time.perf_counter() - middle))
    shares = []
    for ours, theirs in zip(reference, found, strict=True):
        ids = {hit.document for hit in ours["hits"][:K]}
        shares.append(len(ids & {hit.document for hit in theirs["hits"][:K]}) / max(1, len(ids)))
    return {
        "label": other.stages[0].label,
        "queries_per_second": single,
        "batched_queries_per_second": batched,
        "same_hits": sum(shares) / len(shares),
    }


def run(corpus: str, queries: str, out: str) -> dict[str, Any]:
    """`searchlora run` of BM25 over a file of queries."""
    from searchlora.experiments.run import run as execute

    begun = time.perf_counter()
    _, count = execute("bm25", queries, corpus, out, overrides=[f"k={K}"])
    seconds = time.perf_counter() - begun
    with Path(out).open("rb") as file:
        lines = sum(1 for _ in file)
    return {"queries": count, "seconds": seconds, "peak_mib": peak(), "lines": lines}


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
