"""Time and memory of a large comparison: 20 runs of 1,000 topics × 1,000 documents, six measures.

    python -m benchmarks.statistics.comparison_speed [--repeats 5]

The runs are generated from a seed in a temporary folder (about 800 MB). Each repeat is a separate process and includes
its start: it reads the run files one after the other, measures each including the figures for unjudged documents, and
compares all with 10,000 resamples.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from searchlora.eval.trec import write_qrels

SYSTEMS, TOPICS, DEPTH, RESAMPLES = 20, 1_000, 1_000, 10_000
MEASURES = ("nDCG@10", "MRR@10", "Recall@100", "AP", "P@10", "nDCG@100")


def main() -> None:
    arguments = argparse.ArgumentParser(description="Time and memory of a large comparison.")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--once", type=Path, help="compare the runs of this folder and print what it took")
    options = arguments.parse_args()
    if options.once is not None:
        print(json.dumps(_once(options.once)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print("Making the runs …", file=sys.stderr)
        make(Path(folder), systems=SYSTEMS, topics=TOPICS, depth=DEPTH)
        _save([_measured(folder) for _ in range(options.repeats)])


def _measured(folder: str) -> dict[str, float]:
    begun = time.perf_counter()
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.statistics.comparison_speed", "--once", folder],
        check=True,
        capture_output=True,
        text=True,
    )
    took = {"seconds": time.perf_counter() - begun, **json.loads(child.stdout)}
    print(took, file=sys.stderr)
    return took


def _once(folder: Path) -> dict[str, float]:
    from searchlora.eval.comparison import compare
    from searchlora.eval.evaluation import evaluate_run
    from searchlora.eval.formats import read_qrels, read_run

    spent = {"reading": 0.0, "measuring": 0.0, "comparing": 0.0}

    def timed(part: str, work: Any, *args: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        found = work(*args, **options)
        spent[part] += time.perf_counter() - begun
        return found

    qrels = read_qrels(folder / "qrels")
    evaluations = {}
    for file in sorted(folder.glob("run*")):
        run = timed("reading", read_run, file, "trec")
        evaluations[file.name] = timed("measuring", evaluate_run, run, qrels, measures=MEASURES)
        del run  # free it before the next one is read
    found = timed("comparing", compare, evaluations, candidate="run00", baseline="run01", resamples=RESAMPLES)
    if len(found.comparisons) != (2 * SYSTEMS - 3) * len(MEASURES):
        raise SystemExit(f"{len(found.comparisons)} pairs were compared")
    return {**spent, "peak MB": _peak()}


def _peak() -> float:
    """Peak memory of this process in MB (the system reports KiB, macOS bytes)."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _save(repeats: list[dict[str, float]]) -> None:
    from benchmarks.common import save_figures
    from searchlora.eval.formatting import markdown_table

    name = f"{SYSTEMS} runs, {TOPICS} topics, {DEPTH} documents, {len(MEASURES)} measures, {RESAMPLES} resamples"
    rows = [
        {
            "system": name,
            "measure": part,
            "value": round(median(values := [repeat[part] for repeat in repeats]), 3),
            "low": round(min(values), 3),
            "high": round(max(values), 3),
            "n": len(repeats),
        }
        for part in repeats[0]
    ]
    lines = [[row["measure"], *(str(row[key]) for key in ("value", "low", "high"))] for row in rows]
    table = f"{name}; {len(repeats)} repeats, each in a separate process:\n\n" + markdown_table(
        ["seconds, and peak memory", "median", "minimum", "maximum"], lines
    )
    more = {"measures": MEASURES, "units": "seconds; peak MB: 1,000,000 bytes", "table": table}
    path = save_figures("comparison_speed", rows, [], more, module="statistics.comparison_speed")
    print(f"{table}\n\nWritten: {path}")


#: Number of candidate documents of a topic, and number of judged ones.
POOL, JUDGED = 3_000, 100


def make(folder: Path, *, systems: int, topics: int, depth: int, seed: int = 0) -> None:
    """Write `qrels` and `run00`, `run01`, … into a folder.

    The score of a document is its quality plus noise; later systems have more noise.
    """
    rng = np.random.default_rng(seed)
    quality = rng.choice(4, size=(topics, POOL), p=[0.97, 0.015, 0.01, 0.005])
    judged = rng.permuted(np.tile(np.arange(POOL), (topics, 1)), axis=1)[:, :JUDGED]
    judged[:, : JUDGED // 2] = np.argsort(-quality, axis=1, kind="stable")[:, : JUDGED // 2]
    qrels = {
        str(topic): {_document(topic, index): int(quality[topic, index]) for index in judged[topic]}
        for topic in range(topics)
    }
    write_qrels(folder / "qrels", qrels)
    for system in range(systems):
        scores = quality + rng.gumbel(0, 1 + system / 10, size=quality.shape)
        best = np.argsort(-scores, axis=1)[:, :depth]
        with (folder / f"run{system:02}").open("w", encoding="utf-8") as out:
            for topic, places in enumerate(best):
                out.writelines(
                    f"{topic} Q0 {_document(topic, index)} {rank} {scores[topic, index]:.6f} run{system:02}\n"
                    for rank, index in enumerate(places.tolist(), start=1)
                )


def _document(topic: int, index: int) -> str:
    return f"D{topic * POOL + index:08}"


if __name__ == "__main__":
    main()
