"""Encoder adapters against full fine-tuning and zero-shot: all-MiniLM-L6-v2 on five collections.

    python -m benchmarks.embedding_squad                     all collections, one to two hours on 2 cores
    python -m benchmarks.embedding_squad squad cranfield     these collections only
    python -m benchmarks.embedding_squad --limit 50 --set optim.max_steps=4     trial; no results are written

Every system of a collection is trained and measured on the same rows. Models and outputs in `benchmarks/work/embedding`
are reused. The published training data of all-MiniLM-L6-v2 contains SQuAD, so "zero-shot" is not zero-shot there; the
other collections were not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import (
    WORK,
    is_trial,
    named_comparison,
    real_data,
    save,
    save_figures,
    trial_parser,
)
from benchmarks.embedding_squad import collections as collected
from benchmarks.embedding_squad.collections import Collected
from benchmarks.embedding_squad.measuring import FULL, HEADS, LORA, Fold, merged
from benchmarks.embedding_squad.table import trained_rows, trained_table
from benchmarks.encoders import trained_encoder
from searchlora.adapters.store import Store
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.eval.comparison import Comparison
from searchlora.progress import Steps

NAME = "embedding_squad"
HERE = Path(__file__).parent

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
    arguments = trial_parser(NAME)
    arguments.add_argument("collections", nargs="*", help=f"any of {', '.join(COLLECTIONS)}; default: all")
    options = arguments.parse_args()
    trial = is_trial(options)
    work = WORK / ("embedding_trial" if trial else "embedding")
    store = Store(work / "store")
    trained: list[tuple[str, Fold]] = []
    with progress_bars() as steps:
        for name in options.collections or COLLECTIONS:
            collection = COLLECTIONS[name](real_data(), work)
            folds = [trained_fold(collection, number, store, options.set) for number in range(len(collection.folds))]
            trained += [(collection.title, fold) for fold in folds]
            for result, comparison in _compared(
                collection, folds, store, work / "outputs", options.limit, steps
            ).items():
                print_comparison(comparison)
                if not trial:
                    save(result, comparison, _about(collection, folds, comparison), module=NAME)
    if not trial and not options.collections:
        more = {"table": trained_table(trained)}
        save_figures("embedding_training", trained_rows(trained), [], more, module=NAME)


def trained_fold(collection: Collected, number: int, store: Store, overrides: list[str]) -> Fold:
    """The adapter and the whole model of a fold, trained if they do not exist."""
    dataset, name = collection.folds[number], f"{collection.name.replace('_', '-')}-{number}"
    recipe = HERE / collection.recipe
    adapter = trained_encoder(name, dataset.folder, store, recipe, overrides)
    model = trained_encoder(f"{name}-full", dataset.folder, store, recipe, [*overrides, "method=full"])
    return Fold(dataset, adapter, model)


def _compared(
    collection: Collected, folds: Sequence[Fold], store: Store, cache: Path, limit: int | None, steps: Steps
) -> dict[str, Comparison]:
    """Name of the results -> the comparison of LoRA with each other system."""
    if collection.name == "banking77":
        heads = folds[0].classes(limit, steps)
        return {
            f"embedding_banking77_{head}": named_comparison(of_head, {}, LORA, "macro-F1")
            for head, of_head in heads.items()
        }
    systems = merged([fold.retrieval(store, cache, limit, steps) for fold in folds])
    name = NAME if collection.name == "squad" else f"embedding_{collection.name}"
    return {name: named_comparison(systems, {}, LORA, "nDCG@10")}


def _about(collection: Collected, folds: Sequence[Fold], comparison: Comparison) -> dict[str, Any]:
    against_full = next(pair for pair in comparison.comparisons if pair.b == FULL)
    shares = [fold.adapter.manifest.training for fold in folds]
    return {
        "caption": f"{collection.title}; mean and 95% interval",
        "collection": collection.title,
        "note": NOTES.get(collection.name, ""),
        "heads": HEADS if collection.name == "banking77" else None,
        "test_rows": sum(fold.dataset.card.rows["test"] for fold in folds),
        "test_groups": comparison.groups,
        "documents": len(folds[0].dataset.documents() or ()),
        "adapters": [fold.adapter.reference for fold in folds],
        "recipe": folds[0].adapter.manifest.recipe,
        "training": shares,
        "training_full": [fold.model.manifest.training for fold in folds],
        "share_of_parameters_trained": max(share["parameters_trained"] / share["parameters"] for share in shares),
        "goal": {
            "lora_minus_full_above": MARGIN,
            "low": against_full.low,
            "met": bool(against_full.low > MARGIN),
        },
    }


if __name__ == "__main__":
    main()
