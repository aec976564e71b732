"""The verb `demo`: the whole way once, on the made shop. What is there already is used again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.eval.report import Chapter, write_overview
from searchlora.experiments.evaluate import Evaluated, evaluate
from searchlora.experiments.figures import header, provenance
from searchlora.experiments.footprint import footprint
from searchlora.experiments.report import write
from searchlora.experiments.train import train_or_reuse
from searchlora.experiments.training_runs import recipe_for
from searchlora.progress import Steps, unwatched
from searchlora.shop import make_shop
from searchlora.task import Task, load_task, load_tasks

#: The task whose adapter the demo trains when it is not asked for all, and the name of that adapter.
TASK, ADAPTER = "rewriting", "shop-rewriter"

#: A task takes part in the demo by reading this format: the folder of the made shop.
FORMAT = "shop"

#: Where all tasks are trained, each training but that of `TASK` ends after so many rows, so that the whole takes about
#: an hour on two cores.
ROWS = 2048


@dataclass(frozen=True)
class Demonstrated:
    """One task's evaluation, and where its report lies."""

    evaluated: Evaluated
    report: Path


@dataclass(frozen=True)
class DemonstratedAll:
    """All tasks' evaluations, and the page with all of them."""

    tasks: dict[str, Demonstrated]
    report: Path


@dataclass(frozen=True)
class _Walk:
    """What all tasks of a demo share."""

    root: Path
    say: Callable[[str], None]
    steps: Steps
    overrides: tuple[str, ...]
    most_rows: int | None = None

    @property
    def shop(self) -> Path:
        return self.root / "shop"

    def make_shop(self, products: int, queries: int) -> None:
        if self.shop.is_dir():
            self.say(f"The made shop is there: {self.shop}")
        else:
            make_shop(self.shop, products=products, queries=queries, progress=self.steps("Making the shop"))
            self.say(f"Made the shop: {self.shop}")

    def walk(self, task: Task, folder: Path, adapter: str) -> Demonstrated:
        """Dataset, adapter, evaluation and report of one task, in `folder`."""
        store = Store(self.root / "store")
        dataset = self._dataset(task, folder / "dataset")
        stored = train_or_reuse(
            task.name,
            dataset.folder,
            adapter,
            overrides=shortened(task, dataset, self.overrides, self.most_rows) if self.most_rows else self.overrides,
            store=store,
            say=self.say,
            steps=self.steps,
        )
        out = folder / "evaluation"
        evaluated = evaluate(stored.reference, dataset.folder, store=store, keep=out / "outputs", steps=self.steps)
        if evaluated.reused:
            self.say(f"Outputs of an earlier evaluation are used again: {', '.join(evaluated.reused)}")
        return Demonstrated(evaluated, write(evaluated, out))

    def _dataset(self, task: Task, folder: Path) -> Dataset:
        if folder.is_dir():
            self.say(f"The dataset is there: {folder}")
        else:
            build(task, self.shop, format=FORMAT, out=folder, progress=self.steps("Building the dataset"))
            self.say(f"Built the dataset: {folder}")
        return load_dataset(folder)


def shortened(task: Task, dataset: Dataset, overrides: tuple[str, ...], most_rows: int) -> tuple[str, ...]:
    """Changes to a task's recipe, with one more where training would take more than so many rows."""
    optim = recipe_for(task.bound(dataset.settings), None, overrides).optim
    of_step = optim.batch_size * optim.gradient_accumulation
    rows = optim.max_steps * of_step if optim.max_steps else optim.epochs * dataset.card.rows["train"]
    return overrides if rows <= most_rows else (*overrides, f"optim.max_steps={most_rows // of_step}")


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
    walk = _Walk(Path(folder), say, steps, overrides)
    walk.make_shop(products, queries)
    return walk.walk(load_task(TASK), walk.root, ADAPTER)


def demo_all(
    folder: str | Path = "demo",
    *,
    say: Callable[[str], None] = print,
    steps: Steps = unwatched,
    products: int = 2000,
    queries: int = 2400,
    overrides: Callable[[Task], tuple[str, ...]] = lambda _: (),
) -> DemonstratedAll:
    """The same for every installed task that reads the shop, and one page with all of them.

    Args:
        overrides: The changes to each task's recipe; the other arguments are those of `demo`, whose work is used again.
    """
    root = Path(folder)
    found: dict[str, Demonstrated] = {}
    for name, task in load_tasks().items():
        if FORMAT not in task.formats:
            continue
        say(f"{name}:")
        first = name == TASK
        walk = _Walk(root, say, steps, overrides(task), None if first else ROWS)
        walk.make_shop(products, queries)
        place, adapter = (root, ADAPTER) if first else (root / name, f"shop-{name.replace('_', '-')}")
        found[name] = walk.walk(task, place, adapter)
    return DemonstratedAll(found, _overview(root, found))


def _overview(root: Path, found: dict[str, Demonstrated]) -> Path:
    adapters = [each.evaluated.adapter for each in found.values()]
    chapters: Sequence[Chapter] = [
        Chapter(name, each.evaluated.comparison, each.report.relative_to(root).as_posix())
        for name, each in found.items()
    ]
    return write_overview(
        root / "report.html",
        "The made shop, all tasks",
        chapters,
        footprint(adapters),
        provenance(header("demo")),
        introduction="Made data: the figures show that the way works, not how good an adapter is on a real shop.",
    )
