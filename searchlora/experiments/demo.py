"""The command `demo`: dataset, training, evaluation and report on the synthetic shop; existing work is reused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.eval.report.comparison import Chapter, write_overview
from searchlora.experiments.demo_search import PIPELINE, TOPICS, SearchDemoResult, demo_search
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.evaluation_result import EvaluationResult
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.reports import write_evaluation
from searchlora.experiments.result_files import header, provenance
from searchlora.experiments.train import train
from searchlora.experiments.training_runs import recipe_for
from searchlora.inference.settings import EngineSettings
from searchlora.progress import Steps, no_progress
from searchlora.shop import make_shop
from searchlora.task import GenerationTask, Task, load_task, load_tasks

#: The task and the adapter of the demo without `--all`.
TASK, ADAPTER = "rewriting", "shop-rewriter"

#: Task -> its adapter in `demo --all`, as built-in pipelines name it; that of another task is `shop-` and its name.
ADAPTERS = {
    TASK: ADAPTER,
    "intent": "shop-intent",
    "judgment": "shop-judge",
    "rag_answer": "shop-answers",
    "embedding": "shop-embedder",
}

#: Folders in that of the demo.
SHOP, DATASET = "shop", "dataset"

#: Recipe overrides of that task, before the caller's: the adapter learns the shop's vocabulary in two epochs. With 3
#: times the recipe's learning rate they reach what three epochs do, in two thirds of the time (nDCG@10 of 240
#: validation queries: .713; with twice the rate .675 after two epochs and .699 after three).
TRAINING = ("optim.epochs=2", "optim.learning_rate=3e-3")

#: System of the demo's table -> what it is.
EXPLAINED = {
    "raw query": "the query as typed",
    "dictionary": "the vocabulary that generated the shop, an upper bound for rules; no real team has it",
    "reference rewrite": "the expected rewrite, an upper bound for every system",
    "base zero-shot": "the base model without adapter",
}

#: Tasks that read this format, the folder of the synthetic shop, take part in `demo --all`.
FORMAT = "shop"

#: Maximum number of training rows per task in `demo --all`, except `TASK`: it then takes about 35 minutes on two cores.
MAX_ROWS = 2048


@dataclass(frozen=True)
class DemoResult:
    """The evaluation of one task, and the path of its report."""

    evaluated: EvaluationResult
    report: Path


@dataclass(frozen=True)
class AllDemosResult:
    """The evaluations of all tasks, their adapters in one pipeline, and the path of the overview page."""

    tasks: dict[str, DemoResult]
    search: SearchDemoResult
    report: Path


@dataclass(frozen=True)
class _Demo:
    """The settings that all tasks of a demo share."""

    root: Path
    log: Callable[[str], None]
    steps: Steps
    overrides: tuple[str, ...]
    max_rows: int | None = None
    engine: EngineSettings | None = None

    @property
    def shop(self) -> Path:
        return self.root / SHOP

    def make_shop(self, products: int, queries: int) -> None:
        if self.shop.is_dir():
            self.log(f"Reusing the synthetic shop {self.shop}")
        else:
            make_shop(self.shop, products=products, queries=queries)
            self.log(f"Generated the synthetic shop {self.shop}")

    def run_task(self, task: Task, folder: Path, adapter: str) -> DemoResult:
        """Build the dataset, train, evaluate and write the report of one task in `folder`."""
        store = Store(self.root / "store")
        dataset = self._dataset(task, folder / DATASET)
        overrides = (*TRAINING, *self.overrides) if task.name == TASK else self.overrides
        stored = train(
            task.name,
            dataset.folder,
            adapter,
            TrainingOptions(
                overrides=shortened(task, dataset, overrides, self.max_rows) if self.max_rows else overrides, reuse=True
            ),
            store=store,
            log=self.log,
            steps=self.steps,
        )
        out = folder / "evaluation"
        evaluated = evaluate(
            stored.reference,
            dataset.folder,
            EvaluationOptions(cache_dir=out / "outputs"),
            store=store,
            engine=self.engine if isinstance(task, GenerationTask) else None,
            steps=self.steps,
        )
        known = [f"{name}: {EXPLAINED[name]}." for name in evaluated.systems if name in EXPLAINED]
        if task.name == TASK:
            comparison = evaluated.comparison
            evaluated = replace(evaluated, comparison=replace(comparison, notes=(*known, *comparison.notes)))
        if evaluated.reused:
            self.log(f"Reusing outputs of an earlier evaluation: {', '.join(evaluated.reused)}")
        return DemoResult(evaluated, write_evaluation(evaluated, out))

    def _dataset(self, task: Task, folder: Path) -> Dataset:
        if folder.is_dir():
            self.log(f"Reusing the dataset {folder}")
        else:
            build(task, self.shop, format=FORMAT, out=folder, progress=self.steps("Building the dataset"))
            self.log(f"Built the dataset {folder}")
        return load_dataset(folder)


def shortened(task: Task, dataset: Dataset, overrides: tuple[str, ...], max_rows: int) -> tuple[str, ...]:
    """Recipe overrides that limit training to `max_rows` rows, if it would use more."""
    optim = recipe_for(task.bound(dataset.settings), None, overrides).optim
    rows_per_step = optim.batch_size * optim.gradient_accumulation
    rows = optim.max_steps * rows_per_step if optim.max_steps else optim.epochs * dataset.card.rows["train"]
    return overrides if rows <= max_rows else (*overrides, f"optim.max_steps={max_rows // rows_per_step}")


def demo(
    folder: str | Path = "demo",
    *,
    log: Callable[[str], None] = print,
    steps: Steps = no_progress,
    products: int = 2000,
    queries: int = 2400,
    overrides: tuple[str, ...] = (),
    engine: EngineSettings | None = None,
) -> DemoResult:
    """Generate the shop, build the dataset, train the rewriter, evaluate it by retrieval, and write the report.

    Args:
        folder: The folder for all files; existing ones are reused.
        log: Receives one sentence per step.
        steps: Progress of the steps.
        products, queries: Size of the shop. Use another folder for another size or recipe.
        overrides: Recipe overrides, `key=value`.
        engine: Where the adapter is evaluated; None: in this process.
    """
    run = _Demo(Path(folder), log, steps, overrides, engine=engine)
    run.make_shop(products, queries)
    return run.run_task(load_task(TASK), run.root, ADAPTER)


def demo_all(
    folder: str | Path = "demo",
    *,
    log: Callable[[str], None] = print,
    steps: Steps = no_progress,
    products: int = 2000,
    queries: int = 2400,
    overrides: Callable[[Task], tuple[str, ...]] = lambda _: (),
    engine: EngineSettings | None = None,
    topics: int = TOPICS,
) -> AllDemosResult:
    """The demo for every installed task that reads the shop, their adapters in one pipeline, and an overview page."""
    root = Path(folder)
    results: dict[str, DemoResult] = {}
    for name, task in load_tasks(skipped=lambda error: log(f"left out: {error}")).items():
        if FORMAT not in task.formats:
            continue
        log(f"{name}:")
        first = name == TASK
        run = _Demo(root, log, steps, overrides(task), None if first else MAX_ROWS, engine)
        run.make_shop(products, queries)
        adapter = ADAPTERS.get(name, f"shop-{name.replace('_', '-')}")
        results[name] = run.run_task(task, root if first else root / name, adapter)
    search = demo_search(
        root,
        root / SHOP,
        {name: result.evaluated.adapter for name, result in results.items()},
        load_dataset(root / DATASET),
        topics=topics,
        engine=engine,
        log=log,
        steps=steps,
    )
    return AllDemosResult(results, search, _overview(root, results, search))


def _overview(root: Path, results: dict[str, DemoResult], search: SearchDemoResult) -> Path:
    comparisons = {name: (result.evaluated.comparison, result.report) for name, result in results.items()}
    comparisons[PIPELINE] = search.ablation.comparison, search.report
    chapters = [
        Chapter(name, comparison, report.relative_to(root).as_posix())
        for name, (comparison, report) in comparisons.items()
    ]
    return write_overview(
        root / "report.html",
        "Synthetic shop, all tasks",
        chapters,
        provenance(header("demo")),
        introduction="Synthetic data: the figures show that the software works, not how good an adapter is.",
    )
