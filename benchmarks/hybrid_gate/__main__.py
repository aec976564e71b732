"""Weights of a hybrid search for each query, against the best of 66 fixed mixes: movie search (MSRD).

    python -m benchmarks.hybrid_gate
    python -m benchmarks.hybrid_gate --limit 200      trial on few queries of each split; no results are written

The gate is fitted on the training queries of `rewriting_msrd`'s split by families, and measured on its test queries.
The index of the movies and the gate are in `benchmarks/work/hybrid_gate`; an index that is there is reused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.common import WORK, real_data, save, write_rows
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.data.building import build
from searchlora.data.collection import CORPUS_FILE, QRELS_FILE
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.experiments.gate import evaluate_gate, fit_gate
from searchlora.pipelines.index_build import build_index

NAME = "hybrid_gate"
PIPELINE = Path(__file__).parent / "pipeline.yaml"

#: Of `benchmarks.rewriting_msrd`, so that the test queries are the same.
SHARES = (0.7, 0.1, 0.2)


def main() -> None:
    limit = _limit()
    work = WORK / (NAME if limit is None else f"{NAME}_trial")
    work.mkdir(parents=True, exist_ok=True)
    dataset = _dataset(work)
    topics = {split: _topics(dataset, split, work, limit) for split in ("train", "test")}
    qrels = dataset.folder / QRELS_FILE
    with progress_bars() as steps:
        index = WORK / f"{NAME}_index"
        build_index(dataset.folder / CORPUS_FILE, index, pipelines=[str(PIPELINE)], steps=steps)
        fitted = fit_gate(
            PIPELINE, topics["train"], qrels, work / "gate.json", corpus=index, cluster="group", steps=steps
        )
        found = evaluate_gate(PIPELINE, fitted.path, topics["test"], qrels, corpus=index, cluster="group", steps=steps)
    print(fitted.gate.validation)
    print_comparison(found.comparison)
    if limit is None:
        gate = fitted.gate
        save(
            NAME,
            found.comparison,
            {
                "mixes": len(gate.mixes),
                "is_fixed": gate.is_fixed,
                "validation": gate.validation,
                "features": [*gate.features, f"{gate.dimensions} of the query vector"],
                "fixed": gate.fixed,
                "best_fixed_here": found.best_here,
                "chosen": [{"weights": list(weights), "queries": count} for weights, count in found.chosen.items()],
            },
        )


def _limit() -> int | None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=int, metavar="N", help="queries of each split; no results are written")
    limit: int | None = parser.parse_args().limit
    return limit


def _dataset(work: Path) -> Dataset:
    folder = work / "data"
    if not folder.is_dir():
        build("rewriting", real_data() / "msrd", format="msrd", out=folder, shares=SHARES, judgments_source="human")
    return load_dataset(folder)


def _topics(dataset: Dataset, split: str, work: Path, limit: int | None) -> Path:
    """The queries of a split, each with the group of its family."""
    path = work / f"{split}.jsonl"
    records = dataset.records(split)[:limit]
    write_rows(path, [{name: record[name] for name in ("id", "query", "group")} for record in records])
    return path


if __name__ == "__main__":
    main()
