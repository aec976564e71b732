"""Index-preserving LoRA against LoRA on both sides and full fine-tuning: all-MiniLM-L6-v2 on movie search (MSRD).

    python -m benchmarks.embedding_msrd              train what is missing, then compare on the test queries
    python -m benchmarks.embedding_msrd --train      train only; a killed training is resumed by the next call
    python -m benchmarks.embedding_msrd --rates      rates and sizes of the query side, on validation queries
    python -m benchmarks.embedding_msrd --limit 50 --set optim.max_steps=4     trial; no results are written

Queries are split by families of near-variants (`data.formats.msrd`), as for `rewriting_msrd`. Every model is trained on
the same rows. Adapters are in `benchmarks/work/embedding_msrd/store`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, real_data, save, save_figures
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.data.building import build
from searchlora.eval.comparison import Comparison, compare
from searchlora.experiments.evaluate import EvaluationResult, evaluate
from searchlora.systems.system import BASE

NAME, MEASURE = "embedding_msrd", "nDCG@10"
HERE = Path(__file__).parent

BOTH, QUERY, FULL = "adapter, both sides", "adapter, query side", "full fine-tuning"

#: No movie is encoded in training of the query side: small batches are as fast, and a whole epoch takes minutes.
BATCHES = ("optim.batch_size=64", "optim.epochs=1")

#: What is compared for the query side on validation queries: learning rate, rank and layers.
TRIES = {
    "qkv, r 16, 2e-3": ("optim.learning_rate=2.0e-3",),
    **{
        f"all-linear, r 64, {rate}": ("lora.target_modules=all-linear", "lora.r=64", f"optim.learning_rate={rate}")
        for rate in ("5.0e-4", "1.0e-3", "2.0e-3")
    },
}

#: The rate was the best of four with smaller batches; `TRIES` were not compared yet.
CHOSEN = TRIES["qkv, r 16, 2e-3"]

#: System -> its name in the store, and what its recipe changes.
SYSTEMS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    QUERY: ("msrd-query", ("sides=query", *BATCHES, *CHOSEN)),
    BOTH: ("msrd-method-lora", ("method=lora",)),
    FULL: ("msrd-method-full", ("method=full",)),
}

#: Goals of query side − both sides: difference, and lower bound of its interval.
GOAL = {"difference": -0.005, "low": -0.01}


def main() -> None:
    arguments = _arguments()
    trial = arguments.limit is not None or bool(arguments.set)
    work = WORK / (f"{NAME}_trial" if trial else NAME)
    data, store = work / "data", Store(work / "store")
    if not data.exists():
        build("embedding", real_data() / "msrd", format="msrd", out=data, shares=(0.7, 0.1, 0.2))
    if arguments.rates:
        _compare_rates(data, store, arguments.set)
        return
    trained = {
        system: _trained(name, data, store, [*changes, *arguments.set]) for system, (name, changes) in SYSTEMS.items()
    }
    if arguments.train:
        return
    with progress_bars() as steps:
        evaluated = evaluate(
            trained[QUERY].reference,
            data,
            compare_with=[trained[system].reference for system in (BOTH, FULL)],
            limit=arguments.limit,
            cache_dir=work / "outputs",
            store=store,
            steps=steps,
        )
    against = {name: _renamed(evaluated, trained, name) for name in (QUERY, BOTH)}
    print_comparison(against[QUERY])
    if not trial:
        save(NAME, against[QUERY], _about(against, trained, evaluated))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}")
    parser.add_argument("--train", action="store_true", help="train what is missing, and stop")
    parser.add_argument("--rates", action="store_true", help="compare learning rates of the query side")
    parser.add_argument("--limit", type=int, help="number of test queries, for a trial")
    parser.add_argument("--set", action="append", default=[], help="key=value that overrides each recipe, for a trial")
    return parser.parse_args()


def _trained(name: str, data: Path, store: Store, overrides: list[str]) -> StoredAdapter:
    """A model, trained if it does not exist, in a process of its own: its peak memory is measured alone."""
    command = [sys.executable, "-m", "benchmarks.embedding_squad.training", name, str(data), str(store.root)]
    subprocess.run([*command, str(HERE / "recipe.yaml"), *overrides], check=True)
    return store.get(name)


def _compare_rates(data: Path, store: Store, overrides: list[str]) -> None:
    rows = []
    for number, (system, changes) in enumerate(TRIES.items()):
        model = _trained(f"msrd-query-try-{number}", data, store, ["sides=query", *BATCHES, *changes, *overrides])
        value = model.manifest.metrics[f"validation {MEASURE}"]
        n = model.manifest.recipe["validation"]["rows"]
        rows.append({"system": f"query side: {system}", "measure": MEASURE, "value": value, "n": n})
    if not overrides:
        save_figures(f"{NAME}_rates", rows, [], {}, module=f"{NAME} --rates")
    print("\n".join(f"{row['system']:28} {row['value']:.4f}" for row in rows))


def _renamed(evaluated: EvaluationResult, trained: Mapping[str, StoredAdapter], candidate: str) -> Comparison:
    """The comparison of one system with the others, by the names of this benchmark; clusters are query families."""
    names = {BASE: "zero-shot", **{stored.reference: system for system, stored in trained.items()}}
    systems = {
        names.get(name, name): replace(result.evaluation, headline=MEASURE, tested=(MEASURE,))
        for name, result in evaluated.systems.items()
    }
    return compare(systems, candidate=candidate)


def _about(
    against: Mapping[str, Comparison], trained: Mapping[str, StoredAdapter], evaluated: EvaluationResult
) -> dict[str, Any]:
    pair = next(pair for pair in against[QUERY].comparisons if pair.b == BOTH)
    others = [each for each in against[BOTH].comparisons if each.b != QUERY]
    return {
        "caption": "MSRD: all-MiniLM-L6-v2 on movie queries; mean and 95% interval over query families",
        "test_queries": len(evaluated.records),
        "documents": len(evaluated.dataset.documents() or ()),
        "more_comparisons": [vars(each) for each in others],
        "recipes": {system: stored.manifest.recipe for system, stored in trained.items()},
        "training": {system: stored.manifest.training for system, stored in trained.items()},
        "bytes": {system: stored.weight_bytes for system, stored in trained.items()},
        "goal": {
            "query_minus_both": {"difference": pair.difference, "low": pair.low, "high": pair.high},
            "wanted": GOAL,
            "met": bool(pair.difference >= GOAL["difference"] and pair.low >= GOAL["low"]),
        },
    }


if __name__ == "__main__":
    main()
