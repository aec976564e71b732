"""BM25 over a million synthetic documents: build time, memory, size, and queries per second, against rank-bm25.

    python -m benchmarks.bm25_million                         everything, on an idle machine
    python -m benchmarks.bm25_million --documents 100000 --streamed 10000,100000 --try    a part; nothing is stored
    python -m benchmarks.bm25_million --through benchmarks/bm25_million/postgres.yaml     beside it, other engines

* index: `searchlora index build` over 10,000 to a million documents, and a process that opens and searches each;
* rank-bm25: the same queries on 10,000 and 100,000 documents, in turn with the saved index in one process;
* streamed: `searchlora run` of BM25 with 10,000 and a million queries over 1,000 documents, whose memory must not grow;
* through: a hundred of the queries through the pipeline of another search engine, which `index load` fills.

Documents are made by Zipf's law from a seed (`corpus.py`). Corpora and indexes are in `benchmarks/work/bm25_million`,
made anew each time. Every figure comes from a process of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bm25_million.corpus import documents, queries
from benchmarks.common import WORK, in_a_process, parser, print_or_save_speeds, write_rows
from benchmarks.speed import speed_ratio, speed_row

SIZES, RIVALS, STREAMED = [10_000, 100_000, 1_000_000], [10_000, 100_000], [10_000, 1_000_000]
QUERIES, OF_RIVAL, OF_ENGINES, REPEATS = 1_000, 30, 100, 5
RATE = "queries/s"


def main() -> None:
    arguments = parser("bm25_million")
    numbers = lambda text: [int(number) for number in text.split(",") if number]  # noqa: E731
    arguments.add_argument("--documents", type=numbers, default=SIZES)
    arguments.add_argument("--rival", type=numbers, default=RIVALS, help="sizes at which rank-bm25 is compared")
    arguments.add_argument("--streamed", type=numbers, default=STREAMED, help="queries of `searchlora run`")
    arguments.add_argument("--through", action="append", default=[], metavar="PIPELINE", help="of another engine")
    arguments.add_argument("--try", dest="trial", action="store_true", help="print only")
    options = arguments.parse_args()
    work = WORK / "bm25_million"
    shutil.rmtree(work, ignore_errors=True)
    try:
        rows, comparisons = benchmark(work, options)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print_or_save_speeds("bm25_million", rows, comparisons, trial=options.trial)


def benchmark(work: Path, options: argparse.Namespace, count: int = QUERIES) -> tuple[list[Any], list[Any]]:
    """The rows and comparisons of everything that is measured.

    Args:
        count: Queries of an index; rank-bm25 and other engines answer fewer.
    """
    rows: list[dict[str, Any]] = []
    comparisons = []
    for size in sorted({*options.documents, *options.rival}):
        rows += _index(size, work, count)
    for size in options.rival:
        name = f"{size:,} documents"
        speeds = _measured(
            "compare",
            index=str(work / f"index-{size}"),
            queries=queries(min(count, OF_RIVAL), size),
            documents=size,
            repeats=REPEATS,
        )
        ours, rivals = speeds.pop("saved index"), speeds.pop("rank-bm25")
        rows += [speed_row(f"saved index, {name}, a few queries", RATE, ours)]
        rows += _rows(f"rank-bm25, {name}", {RATE: rivals, **speeds})
        comparisons.append(speed_ratio(f"saved index, {name}", f"rank-bm25, {name}", RATE, ours, rivals))
    for pipeline in options.through:
        rows += _through(pipeline, max(options.rival), work, count)
    rows += _streamed(work, options.streamed)
    return rows, comparisons


def _index(size: int, work: Path, count: int) -> Iterator[dict[str, Any]]:
    """Build and search an index of the first documents."""
    file, index = work / f"corpus-{size}.jsonl", str(work / f"index-{size}")
    write_rows(file, ({"id": document.id, "text": document.text} for document in documents(size)))
    built = _measured("build", corpus=str(file), out=index)
    searched = _measured("search", index=index, queries=queries(count, size), repeats=REPEATS)
    yield from _rows(f"index of {size:,} documents", built)
    yield from _rows(f"saved index, {size:,} documents", searched)


def _through(pipeline: str, size: int, work: Path, count: int) -> Iterator[dict[str, Any]]:
    """The figures of another engine; one that fails is named, and the other figures of a long run are not lost."""
    try:
        loaded = _measured("load", corpus=str(work / f"corpus-{size}.jsonl"), pipeline=pipeline)
        asked = queries(min(count, OF_ENGINES), size)
        found = _measured(
            "through", pipeline=pipeline, index=str(work / f"index-{size}"), queries=asked, repeats=REPEATS
        )
        yield from _rows(f"{Path(pipeline).stem}, {size:,} documents", {**loaded, **found})
    except RuntimeError as error:
        print(f"{pipeline}: {error}")


def _streamed(work: Path, counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """`searchlora run` with each number of queries, over the same few documents."""
    corpus, few = work / "few.jsonl", list(documents(1_000))
    write_rows(corpus, ({"id": document.id, "text": document.text} for document in few))
    texts = queries(500, len(few))
    for count in counts:
        file, out = work / f"queries-{count}.jsonl", work / f"run-{count}.trec"
        write_rows(file, ({"id": f"q{number}", "query": texts[number % len(texts)]} for number in range(count)))
        yield from _rows(
            f"searchlora run, {count:,} queries", _measured("run", corpus=str(corpus), queries=str(file), out=str(out))
        )
        for used in (file, out):
            used.unlink()


def _measured(name: str, **arguments: Any) -> dict[str, Any]:
    figures: dict[str, Any] = in_a_process("bm25_million.processes", name, json.dumps(arguments))
    print(name, {key: value for key, value in figures.items() if not isinstance(value, list)}, flush=True)
    return figures


def _rows(system: str, figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for measure, value in figures.items():
        yield speed_row(system, measure, value if isinstance(value, list) else [value])


if __name__ == "__main__":
    main()
