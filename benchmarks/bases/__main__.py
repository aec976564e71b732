"""Several base models under the same datasets and recipes: quality, tokens and memory by base and number of steps.

    python -m benchmarks.bases                                                          the base of the recipes
    python -m benchmarks.bases "Qwen2.5-Coder-0.5B=FOLDER/qwen2.5-coder-0.5b-instruct-q8_0.gguf" ...   others beside it
    python -m benchmarks.bases ... --only "banking77 300"     one run of each base; no results are written
    python -m benchmarks.bases ... --only-results             the results of what is trained; with --only, of one run

Nothing but the base differs, and the learning rate where the recipe's is above that of the base's size: `train` lowers
the rate of a task's own recipe in the same way. The weights of the others come from a folder of yours; the page says
where they are found. `train` and `improve` train in a child process, whose peak of memory is that of the training.
`benchmarks/work/bases` is reused: a killed training is resumed by the next call. Results of adapters that are not there
are kept as they are, so runs can be made one by one, on several machines.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, dataset, parser, rate_of, read_results, real_data, save_figures, training_figures
from benchmarks.intent_banking77 import __main__ as banking77
from benchmarks.judges import answers_of
from benchmarks.judgment_chorus import __main__ as chorus
from benchmarks.judgment_chorus.folds import FOLDS, Chorus
from benchmarks.rewriting_canard import __main__ as canard
from benchmarks.rewriting_canard.switches import with_switches
from benchmarks.rewriting_msrd import __main__ as msrd
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.data.dataset import Dataset
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.formatting import figure, markdown_table
from searchlora.experiments import demo
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.evaluation_result import EvaluationResult
from searchlora.experiments.improve.command import improve
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.train import train
from searchlora.models.processor import cpu_name
from searchlora.progress import Steps
from searchlora.shop import make_shop
from searchlora.systems.system import BASE
from searchlora.task import EvaluationInput

NAME = "bases"
FOLDER = WORK / NAME

#: The name of the recipes' base.
DEFAULT = "SmolLM2-135M"


@dataclass(frozen=True)
class Part:
    """An adapter of a run: the dataset it learns from, and the one it is evaluated on."""

    training: Dataset
    evaluated: Dataset


@dataclass(frozen=True)
class Job:
    """A task on real data, or the demo's, with its recipe.

    Attributes:
        parts: Builds the datasets in a folder if they do not exist; several for cross-validation.
        steps: Numbers of optimiser steps; None: all that the recipe has.
        learn: `train`, or `improve` where the recipe learns from rewards.
        tested: Number of test rows, drawn at random, where a larger base takes a second for each; the bare base is not
            asked then. None: all rows, and the bare base, too.
    """

    task: str
    parts: Callable[[Path], list[Part]]
    recipe: Path | None = None
    overrides: tuple[str, ...] = ()
    steps: tuple[int | None, ...] = (None,)
    learn: str = "train"
    tested: int | None = None


def _same(data: Dataset) -> list[Part]:
    return [Part(data, data)]


def _demo(folder: Path) -> list[Part]:
    if not (folder / "shop").is_dir():
        make_shop(folder / "shop", products=2000, queries=2400)
    return _same(dataset(folder / "demo", demo.TASK, folder / "shop", format=demo.FORMAT))


def _banking77(folder: Path) -> list[Part]:
    source = real_data() / "banking77"
    return _same(dataset(folder / "banking77", "intent", source, format="banking77", split_ratios=banking77.SHARES))


def _canard(folder: Path) -> list[Part]:
    data = canard.canard(folder)
    return [Part(with_switches(data, folder / "canard_switches"), data)]


def _chorus(folder: Path) -> list[Part]:
    pairs = Chorus.read(real_data(), folder / "chorus")
    return list(chain(*(_same(pairs.dataset(fold, folder / f"chorus_fold{fold + 1}")) for fold in range(FOLDS))))


JOBS: Mapping[str, Job] = {
    "demo": Job(demo.TASK, _demo, overrides=demo.TRAINING, steps=(60, None)),
    "banking77": Job("intent", _banking77, banking77.HERE / "recipe.yaml", steps=(300, None), tested=1000),
    "chorus": Job("judgment", _chorus, chorus.RECIPE),
    "msrd": Job("rewriting", lambda _: _same(msrd.dataset_of_queries()), msrd.HERE / "recipe.yaml", learn="improve"),
    "canard": Job("rewriting", _canard, canard.HERE / "improve.yaml", learn="improve"),
}


@dataclass(frozen=True)
class Run:
    """One job on one base, for a number of steps."""

    job: str
    base: str
    steps: int | None
    path: str | None = field(compare=False)

    @property
    def title(self) -> str:
        """The run without its base, as `--only` names it."""
        return f"{self.job} {self.steps or 'all'}"

    @property
    def store(self) -> Store:
        return Store(FOLDER / self.base / "store")

    def name(self, part: int) -> str:
        return f"{self.title.replace(' ', '-')}-{part + 1}"

    def train(self, parts: list[Part], steps: Steps) -> list[StoredAdapter]:
        """The adapters of the run; those that exist are reused, and an interrupted training is resumed."""
        job = JOBS[self.job]
        limit = () if self.steps is None else (f"optim.max_steps={self.steps}",)
        rate = () if self.path is None else rate_of(self.path, job.task, job.recipe, job.overrides)
        options = TrainingOptions((*job.overrides, *limit, *rate), self.path, job.recipe, reuse=True)
        how: dict[str, Any] = {"store": self.store, "steps": steps, "log": print}
        return [
            improve(None, part.training.folder, self.name(number), options, **how)
            if job.learn == "improve"
            else train(job.task, part.training.folder, self.name(number), options, **how)
            for number, part in enumerate(parts)
        ]

    def is_trained(self, parts: list[Part]) -> bool:
        """Whether all adapters of the run are stored."""
        return all(self.store.versions(self.name(number)) for number in range(len(parts)))

    def evaluate(self, parts: list[Part], steps: Steps) -> tuple[list[StoredAdapter], dict[str, Evaluation]]:
        """The adapters, and the evaluations of the adapter and of its bare base over the test rows of all parts."""
        adapters = self.train(parts, steps)
        folder = FOLDER / self.base / "outputs" / self.job
        if (tested := JOBS[self.job].tested) is not None:
            (stored,), (part,) = adapters, parts
            records = random.Random(13).sample(part.evaluated.records("test"), tested)
            task, outputs = answers_of(stored.reference, self.store, records, "label", folder, steps)
            return adapters, {"adapter": task.evaluate(EvaluationInput(records, outputs))}
        options = EvaluationOptions(cache_dir=folder, baseline_encoder=None)
        results = [
            evaluate(stored.reference, part.evaluated.folder, options, store=self.store, steps=steps)
            for stored, part in zip(adapters, parts, strict=True)
        ]
        return adapters, {"adapter": _joined(results, adapters), BASE: _joined(results, [BASE] * len(results))}


def _joined(results: list[EvaluationResult], systems: list[Any]) -> Evaluation:
    """The evaluation of one system in each part, over the rows of all of them."""
    names = [getattr(system, "reference", system) for system in systems]
    if len(results) == 1:
        return results[0].systems[names[0]].evaluation
    records = list(chain(*(result.records for result in results)))
    outputs = list(chain(*(result.systems[name].outputs for result, name in zip(results, names, strict=True))))
    return results[0].task.evaluate(EvaluationInput(records, outputs))


def runs(bases: Mapping[str, str | None], only: str | None) -> Iterator[Run]:
    """All runs, the cheapest jobs first and the bases beside each other."""
    for name, job in JOBS.items():
        for number in job.steps:
            for base, path in bases.items():
                run = Run(name, base, number, path)
                if only in (None, run.title):
                    yield run


def main() -> None:
    arguments = parser(NAME)
    arguments.add_argument("bases", nargs="*", metavar="NAME=BASE", help="base models beside that of the recipes")
    arguments.add_argument("--only", metavar="RUN", help="train one run, such as 'banking77 300', and write no results")
    arguments.add_argument("--only-results", action="store_true", help="train nothing")
    options = arguments.parse_args()
    bases: dict[str, str | None] = {DEFAULT: None, **dict(given.split("=", 1) for given in options.bases)}
    (FOLDER / "data").mkdir(parents=True, exist_ok=True)
    with progress_bars() as steps:
        for run in () if options.only_results else runs(bases, options.only):
            parts = JOBS[run.job].parts(FOLDER / "data")
            if not run.is_trained(parts):
                run.train(parts, steps)
        if options.only is None or options.only_results:
            _report(bases, options.only, steps)


def _report(bases: Mapping[str, str | None], only: str | None, steps: Steps) -> None:
    saved = read_results(NAME)
    rows, pairs, training = saved.get("rows", []), saved.get("comparisons", []), saved.get("training", {})
    for job in JOBS:
        evaluations: dict[str, Evaluation] = {}
        costs: dict[str, dict[str, Any]] = {}
        of_job = [run for run in runs(bases, only) if run.job == job]
        parts = JOBS[job].parts(FOLDER / "data") if of_job else []
        for run in of_job:
            if not run.is_trained(parts):
                continue
            adapters, of_run = run.evaluate(parts, steps)
            if BASE in of_run:
                evaluations[f"{run.base}, {BASE}"] = of_run[BASE]
            name = f"{run.base}, {run.steps or 'all'} steps"
            evaluations[name], costs[name] = of_run["adapter"], _training(adapters)
        if not evaluations:
            continue
        comparison = compare(evaluations, candidate=list(costs)[-1])
        print_comparison(comparison)
        measure = comparison.measures[0]
        rows = [row for row in rows if row["job"] != job or row["system"] not in evaluations]
        rows += [{"job": job, **vars(row)} for row in comparison.rows if row.measure == measure]
        pairs = [pair for pair in pairs if pair["job"] != job or not {pair["a"], pair["b"]} <= evaluations.keys()]
        pairs += [{"job": job, **vars(pair)} for pair in comparison.comparisons if pair.measure == measure]
        training |= {f"{job}: {name}": figures for name, figures in costs.items()}
    head = ["task", "base", "trained on", "measure", "value", "n", "steps", "tokens", "minutes", "GB"]
    order = list(JOBS)
    rows.sort(key=lambda row: order.index(row["job"]))
    lines = [_line(row, training.get(f"{row['job']}: {row['system']}")) for row in rows]
    table = markdown_table(head, lines, words=4)
    files = saved.get("files", {}) | {name: Path(path).name for name, path in bases.items() if path is not None}
    given = [f'"{name}=FOLDER/{file}"' for name, file in files.items()]
    more = {"training": training, "files": files, "table": table}
    save_figures(NAME, rows, pairs, more, module=" ".join([NAME, *given]))


def _line(row: Mapping[str, Any], costs: Mapping[str, Any] | None) -> list[str]:
    """A line of the table: the quality of an adapter or a bare base, and what its training took."""
    quality = [row["measure"], figure(row["value"], row["low"], row["high"]), f"{row['n']}"]
    if costs is None:
        return [row["job"], row["system"], "", *quality, "", "", "", ""]
    minutes, memory = costs["seconds"] / 60, costs["peak_memory_gb"] or math.nan
    spent = [f"{costs['steps']:,}", f"{costs['tokens']:,}", f"{minutes:.0f}", f"{memory:.1f}"]
    return [row["job"], row["system"], costs["processor"], *quality, *spent]


def _training(adapters: list[StoredAdapter]) -> dict[str, Any]:
    """Sums over the adapters of a run; the peak of memory is the highest."""
    figures = [training_figures(stored) for stored in adapters]
    total = {key: sum(figure[key] for figure in figures) for key in figures[0]}
    peaks = [stored.manifest.training.get("peak_memory_gb") for stored in adapters]
    peak = max((peak for peak in peaks if peak is not None), default=None)
    return {**total, "peak_memory_gb": peak, "processor": cpu_name()}


if __name__ == "__main__":
    main()
