"""BM25 over a million synthetic documents: build time, memory, size, and queries per second, against rank-bm25.

    python -m benchmarks.bm25_million                         everything, on an idle machine
    python -m benchmarks.bm25_million --documents 100000 --streamed 10000,100000 --try    a part; nothing is stored
    python -m benchmarks.bm25_million --through benchmarks/bm25_million/postgres.yaml --load    beside it, the queries
                                                              through other engines

* index: `searchlora index build` over 10,000 to a million documents, and a process that opens and searches each;
* rank-bm25: the same queries on 10,000 and 100,000 documents, in turn with the saved index in one process;
* streamed: `searchlora run` of BM25 with 10,000 and a million queries over 1,000 documents, whose memory must not grow.

Documents are made by Zipf's law from a seed (`corpus.py`). Corpora and indexes are in `benchmarks/work/bm25_million`,
made anew each time. Every figure comes from a process of its own.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bm25_million.corpus import documents, queries
from benchmarks.bm25_million.processes import K, in_a_process
from benchmarks.common import WORK, as_called, save_figures, speed_ratio, speed_row, write_rows
from searchlora.eval.formatting import markdown_table

SIZES, RIVALS, STREAMED = (10_000, 100_000, 1_000_000), (10_000, 100_000), (10_000, 1_000_000)
QUERIES, OF_RIVAL, OF_ENGINES, REPEATS, GOAL = 1_000, 30, 100, 5, 100.0
RATE = "queries/s"


def main() -> None:
    options = _arguments()
    work = WORK / "bm25_million"
    shutil.rmtree(work, ignore_errors=True)
    try:
        results = benchmark(work, options)
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    print(results["table"])
    if not options.trial:
        rows, comparisons = results.pop("rows"), results.pop("comparisons")
        save_figures("bm25_million", rows, comparisons, results, module=as_called("bm25_million"))


def _arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bm25_million")
    numbers = lambda text: [int(each) for each in text.split(",") if each]  # noqa: E731
    parser.add_argument("--documents", type=numbers, default=list(SIZES))
    parser.add_argument("--rival", type=numbers, default=list(RIVALS), help="sizes at which rank-bm25 is compared")
    parser.add_argument("--streamed", type=numbers, default=list(STREAMED), help="queries of `searchlora run`")
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--of-rival", type=int, default=OF_RIVAL, help="queries that rank-bm25 answers")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument(
        "--through",
        action="append",
        default=[],
        metavar="PIPELINE[@DOCUMENTS]",
        help="a pipeline of another search engine that holds so many documents, else the largest size of --rival",
    )
    parser.add_argument("--of-engines", type=int, default=OF_ENGINES, help="queries that each of them answers")
    parser.add_argument("--load", action="store_true", help="fill those engines by `searchlora index load` before")
    parser.add_argument("--keep", action="store_true", help="keep corpora and indexes, for --through of another call")
    parser.add_argument("--try", dest="trial", action="store_true", help="print only")
    return parser.parse_args(arguments)


def benchmark(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure; `rows`, `comparisons`, `table` and what else the results file holds."""
    through = [(file, int(size or max(options.rival))) for file, _, size in (x.partition("@") for x in options.through)]
    sizes = sorted({*options.documents, *options.rival, *(size for _, size in through)})
    indexes = {size: _index(size, work, options) for size in sizes}
    rivals = {size: _compared(size, work, options) for size in options.rival}
    others = [_through(file, size, work, options) for file, size in through]
    streamed = list(_streamed(work, options.streamed))
    rows = [
        speed_row(system, f"{RATE}, {size:,} documents", found[key])
        for size, found in rivals.items()
        for system, key in (("saved index", "ours"), ("rank-bm25", "rank_bm25"))
    ]
    comparisons = [
        speed_ratio("saved index", "rank-bm25", f"{RATE}, {size:,} documents", found["ours"], found["rank_bm25"])
        for size, found in rivals.items()
    ]
    results = {
        "rows": rows,
        "comparisons": comparisons,
        "indexes": indexes,
        "rank_bm25": rivals,
        "engines": others,
        "streamed": streamed,
        "goal": GOAL,
        "k": K,
    }
    results["table"] = _table(results)
    return results


def _index(size: int, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Build and search an index of the first documents."""
    file = work / f"corpus-{size}.jsonl"
    begun = time.perf_counter()
    write_rows(file, ({"id": each.id, "text": each.text} for each in documents(size)))
    made = time.perf_counter() - begun
    corpus_mib = file.stat().st_size / 2**20
    index = work / f"index-{size}"
    built = in_a_process("build", corpus=str(file), out=str(index))
    asked = queries(options.queries, size)
    searched = in_a_process("search", index=str(index), queries=asked, repeats=options.repeats)
    _say(f"{size:,} documents", built, searched)
    return {"made_seconds": made, "corpus_mib": corpus_mib, "build": built, "search": searched}


def _compared(size: int, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    asked = queries(options.of_rival, size)
    how = {"index": str(work / f"index-{size}"), "queries": asked, "documents": size, "repeats": options.repeats}
    found = in_a_process("compare", **how)
    _say(f"rank-bm25, {size:,} documents", found)
    return found


def _through(pipeline: str, size: int, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of another engine, or why there are none: the other figures of a long run are not lost then."""
    how = {
        "index": str(work / f"index-{size}"),
        "queries": queries(options.of_engines, size),
        "repeats": options.repeats,
    }
    found: dict[str, Any] = {"label": Path(pipeline).stem, "documents": size}
    try:
        if options.load:
            found |= in_a_process("load", corpus=str(work / f"corpus-{size}.jsonl"), pipeline=pipeline)
        found |= in_a_process("through", pipeline=pipeline, **how)
    except RuntimeError as error:
        found["failed"] = str(error).splitlines()[-1]
    _say(found.get("failed", pipeline), found)
    return found


def _streamed(work: Path, counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """`searchlora run` with each number of queries, over the same few documents."""
    corpus, few = work / "few.jsonl", list(documents(1_000))
    write_rows(corpus, ({"id": each.id, "text": each.text} for each in few))
    texts = queries(500, len(few))
    for count in counts:
        file, out = work / f"queries-{count}.jsonl", work / f"run-{count}.trec"
        write_rows(file, ({"id": f"q{number}", "query": texts[number % len(texts)]} for number in range(count)))
        found = in_a_process("run", corpus=str(corpus), queries=str(file), out=str(out))
        for each in (file, out):
            each.unlink()
        _say(f"run, {count:,} queries", found)
        yield found


def _say(what: str, *found: Mapping[str, Any]) -> None:
    figures = {key: value for each in found for key, value in each.items() if isinstance(value, int | float)}
    print(f"{what}: " + ", ".join(f"{key} {value:,.4g}" for key, value in figures.items()), flush=True)


# The tables of the README


def _table(results: Mapping[str, Any]) -> str:
    parts = [_of_indexes(results["indexes"])]
    if results["rank_bm25"]:
        parts.append(_of_rivals(results))
    if results["engines"]:
        parts.append(_of_engines(results["engines"]))
    if results["streamed"]:
        parts.append(_of_runs(results["streamed"]))
    return "\n\n".join(parts)


def _of_indexes(indexes: Mapping[int, Mapping[str, Any]]) -> str:
    header = ["documents", "build, s", "peak of the build, GB", "index, GB", "texts, GB", "open, s"]
    header += ["first hits, s", "peak of a search process, GB", "excluding mapped files, GB"]
    header += ["queries/s, one at a time", "queries/s, one call", "p50, ms", "p99, ms"]
    rows = []
    for size, found in indexes.items():
        build, search = found["build"], found["search"]
        rows.append(
            [
                f"{size:,}",
                f"{build['seconds']:.1f}",
                *(_gb(build[key]) for key in ("peak_mib", "index_mib", "documents_mib")),
                f"{search['open_seconds']:.2f}",
                f"{search['first_hits_seconds']:.2f}",
                *(_gb(search[key]) for key in ("peak_mib", "own_mib")),
                *(_rate(search[key]) for key in ("queries_per_second", "batched_queries_per_second")),
                f"{search['p50_ms']:.2f}",
                f"{search['p99_ms']:.2f}",
            ]
        )
    return markdown_table(header, rows)


def _of_rivals(results: Mapping[str, Any]) -> str:
    rows = []
    for (size, found), pair in zip(results["rank_bm25"].items(), results["comparisons"], strict=True):
        ratio = f"{pair['ratio']:.0f} ({pair['low']:.0f}–{pair['high']:.0f})"
        cells = [_rate(found["ours"]), _rate(found["rank_bm25"]), ratio, f"{found['same_hits']:.1%}"]
        rows.append([f"{size:,}", *cells, f"{found['build_seconds']:.1f}", _gb(found["peak_mib"])])
    header = ["documents", "saved index, queries/s", "rank-bm25, queries/s", "ratio", f"same top {results['k']}"]
    table = markdown_table([*header, "rank-bm25: build, s", "peak, GB"], rows)
    ratio = results["comparisons"][-1]["ratio"]
    size = max(results["rank_bm25"])
    reached = "reached" if ratio >= results["goal"] else "missed"
    goal = f"The goal of {results['goal']:g} times rank-bm25 at {size:,} documents is {reached}."
    return f"{table}\n\nMedians of the repeats, with minimum and maximum. {goal}"


def _of_engines(engines: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            each["label"],
            f"{each['documents']:,}",
            f"{each['load_seconds']:.1f}" if "load_seconds" in each else "–",
            *(_rate(each[key]) if key in each else "–" for key in ("queries_per_second", "batched_queries_per_second")),
            each["failed"] if "failed" in each else f"{each['same_hits']:.1%}",
        ]
        for each in engines
    ]
    header = ["engine", "documents", "load, s", "queries/s, one at a time", "queries/s, one call", f"same top {K}"]
    return markdown_table(header, rows)


def _of_runs(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            f"{each['queries']:,}",
            f"{each['seconds']:.1f}",
            f"{each['queries'] / each['seconds']:,.0f}",
            f"{each['peak_mib']:,.0f}",
            f"{each['lines']:,}",
        ]
        for each in runs
    ]
    return markdown_table(
        ["queries of `searchlora run`", "seconds", "queries/s", "peak, MiB", "lines of the run"], rows
    )


def _gb(mib: float) -> str:
    return f"{mib * 2**20 / 1e9:.2f}"


def _rate(values: Sequence[float]) -> str:
    row = speed_row("", "", values)
    digits = ",.0f" if row["value"] >= 100 else ".2f"
    return f"{row['value']:{digits}} ({row['low']:{digits}}–{row['high']:{digits}})"


if __name__ == "__main__":
    main()
