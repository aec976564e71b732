"""The verb `demo`: the whole way once, on the made shop. What is there already is used again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.data.shop import make_shop
from searchlora.experiments.evaluate import Evaluated, evaluate
from searchlora.experiments.report import write
from searchlora.experiments.train import train_or_reuse
from searchlora.progress import Steps, unwatched
from searchlora.task import load_task

ADAPTER = "shop-rewriter"

#: The task whose adapter the demo trains, and the format in which the shop holds its records.
TASK, FORMAT = "rewriting", "shop"


@dataclass(frozen=True)
class Demonstrated:
    """The evaluation, and where its report lies."""

    evaluated: Evaluated
    report: Path


def demo(
    folder: str | Path = "demo",
    *,
    say: Callable[[str], None] = print,
    steps: Steps = unwatched,
    products: int = 2000,
    queries: int = 2400,
    overrides: tuple[str, ...] = (),
) -> Demonstrated:
    """Make the shop, build the dataset, train the rewriter, evaluate it by retrieval, write the report.

    Args:
        folder: Everything is written there.
        say: Told in a sentence what is done and what is used again.
        products, queries, overrides: Size of the shop, and changes to the recipe; another size or recipe than that of
            what lies in `folder` wants another folder.
    """
    root = Path(folder)
    store = Store(root / "store")
    shop = root / "shop"
    if shop.is_dir():
        say(f"The made shop is there: {shop}")
    else:
        make_shop(shop, products=products, queries=queries, progress=steps("Making the shop"))
        say(f"Made the shop: {shop}")
    dataset = _dataset(root / "dataset", shop, say, steps)
    stored = train_or_reuse(TASK, dataset.folder, ADAPTER, overrides=overrides, store=store, say=say, steps=steps)
    evaluated = evaluate(
        stored.reference, dataset.folder, store=store, keep=root / "evaluation" / "outputs", steps=steps
    )
    if evaluated.reused:
        say(f"Outputs of an earlier evaluation are used again: {', '.join(evaluated.reused)}")
    return Demonstrated(evaluated, write(evaluated, root / "evaluation"))


def _dataset(folder: Path, shop: Path, say: Callable[[str], None], steps: Steps) -> Dataset:
    if folder.is_dir():
        say(f"The dataset is there: {folder}")
    else:
        build(load_task(TASK), shop, format=FORMAT, out=folder, progress=steps("Building the dataset"))
        say(f"Built the dataset: {folder}")
    return load_dataset(folder)
