"""Encoder adapters against full fine-tuning and zero-shot: all-MiniLM-L6-v2 on five collections.

    python -m benchmarks.embedding_squad                     all collections, one to two hours on 2 cores
    python -m benchmarks.embedding_squad squad cranfield     these collections only
    python -m benchmarks.embedding_squad --limit 50 --set optim.max_steps=4     trial; no results are written

Every system of a collection is trained and measured on the same rows. Models and outputs in `benchmarks/work/embedding`
are reused. The published training data of all-MiniLM-L6-v2 contains SQuAD, so "zero-shot" is not zero-shot there; the
other collections were not in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, real_data, save, save_figures
from benchmarks.embedding_squad import collections as collected
from benchmarks.embedding_squad import measuring, training
from benchmarks.embedding_squad.collections import Collected
from benchmarks.embedding_squad.measuring import FULL, HEADS, LORA, Fold
from benchmarks.embedding_squad.table import trained_rows, trained_table
from searchlora.adapters.store import Store
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation
from searchlora.progress import Steps

NAME = "embedding_squad"

#: Non-inferiority margin: lower bound for the interval of LoRA − full fine-tuning, in nDCG@10.
MARGIN = -0.01

COLLECTIONS: Mapping[str, Callable[[Path, Path], Collected]] = {
    "squad": collected.squad,
    "cranfield": collected.cranfield,
    "perlfaq": collected.perlfaq,
    "arxiv_tags": collected.arxiv_tags,
    "banking77": collected.banking77,
}

NOTES = {
    "squad": "The published training data of all-MiniLM-L6-v2 contains SQuAD, so its figures are not zero-shot here.",
    "arxiv_tags": "242 of the 432 tags belong to one paper each, so they occur in one fold only.",
}


def main() -> None:
    arguments = _arguments()
    trial = arguments.limit is not None or bool(arguments.set)
    work = WORK / ("embedding_trial" if trial else "embedding")
    trained: list[tuple[str, Fold]] = []
    with progress_bars() as steps:
        for name in arguments.collections or COLLECTIONS:
            found = COLLECTIONS[name](real_data(), work)
            folds = list(_folds(found, Store(work / "store"), arguments.set))
            trained += [(found.title, fold) for fold in folds]
            for result, comparison in _compared(found, folds, work / "kept", steps, arguments.limit):
                print_comparison(comparison)
                if not trial:
                    save(result, comparison, _about(found, folds, comparison), module=NAME)
    if not trial and not arguments.collections:
        more = {"table": trained_table(trained)}
        save_figures("embedding_training", trained_rows(trained), [], more, module=NAME)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedding_squad")
    parser.add_argument("collections", nargs="*", help=f"any of {', '.join(COLLECTIONS)}; default: all")
    parser.add_argument("--limit", type=int, help="number of test rows, for a trial")
    parser.add_argument("--set", action="append", default=[], help="key=value that overrides each recipe, for a trial")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.collections if name not in COLLECTIONS]:
        parser.error(f"there is no collection '{unknown[0]}'; there are {', '.join(COLLECTIONS)}")
    return arguments


def _folds(found: Collected, store: Store, overrides: list[str]) -> Sequence[Fold]:
    folds = []
    for number, dataset in enumerate(found.folds):
        name = f"{found.name.replace('_', '-')}-{number}"
        adapter = training.lora(name, dataset, store, found.recipe, overrides)
        folds.append(Fold(dataset, adapter, training.full(name, dataset, store, found.recipe, overrides)))
    return folds


def _compared(
    found: Collected, folds: Sequence[Fold], cache: Path, steps: Steps, limit: int | None
) -> list[tuple[str, Comparison]]:
    """Pairs of result name and the comparison of LoRA with each other system."""
    if found.name != "banking77":
        systems = measuring.retrieval(folds, cache / found.name, steps, limit)
        return [(NAME if found.name == "squad" else f"embedding_{found.name}", _against_lora(systems, "nDCG@10"))]
    heads = measuring.classes(folds[0], cache / f"{found.name}.json", steps, limit)
    return [(f"embedding_banking77_{head}", _against_lora(systems, "macro-F1")) for head, systems in heads.items()]


def _against_lora(systems: Mapping[str, Evaluation], headline: str) -> Comparison:
    """Compare LoRA with the other systems; all measures are shown, only the headline is tested."""
    tested = {name: replace(each, headline=headline, tested=(headline,)) for name, each in systems.items()}
    return compare(tested, candidate=LORA)


def _about(found: Collected, folds: Sequence[Fold], comparison: Comparison) -> dict[str, Any]:
    against_full = next(pair for pair in comparison.comparisons if pair.b == FULL)
    shares = [fold.adapter.manifest.training for fold in folds]
    return {
        "caption": f"{found.title}; mean and 95% interval",
        "collection": found.title,
        "note": NOTES.get(found.name, ""),
        "heads": HEADS if found.name == "banking77" else None,
        "test_rows": sum(fold.dataset.card.rows["test"] for fold in folds),
        "test_groups": comparison.groups,
        "documents": len(folds[0].dataset.documents() or ()),
        "adapters": [fold.adapter.reference for fold in folds],
        "recipe": folds[0].adapter.manifest.recipe,
        "training": shares,
        "training_full": [fold.model.manifest.training for fold in folds],
        "share_of_parameters_trained": max(each["parameters_trained"] / each["parameters"] for each in shares),
        "goal": {
            "lora_minus_full_above": MARGIN,
            "low": against_full.low,
            "met": bool(against_full.low > MARGIN),
        },
    }


if __name__ == "__main__":
    main()
