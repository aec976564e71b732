"""The verb `sweep`: one training run per combination of recipe values, compared on the same rows."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from searchlora.adapters.references import check_name, is_name
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import TrainingError, UsageError
from searchlora.eval.comparison import Comparison, compare
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.start import Start
from searchlora.experiments.train import train
from searchlora.experiments.training_runs import recipe_for
from searchlora.files.yaml_text import parse_yaml
from searchlora.progress import Steps, no_progress
from searchlora.task import load_task

#: Key of the manifest's training report -> name of the cost in tables.
COSTS = {"parameters_trained": "parameters trained", "peak_memory_gb": "peak memory, GB", "seconds": "training, s"}


@dataclass(frozen=True)
class Trial:
    """One combination of recipe values (`key=value`), with its adapter or the error of its training."""

    name: str
    values: tuple[str, ...]
    stored: StoredAdapter | None = None
    error: str | None = None


def sweep(
    task: str,
    data: str | Path,
    name: str,
    grid: Sequence[str],
    options: TrainingOptions = TrainingOptions(),
    *,
    evaluation: EvaluationOptions = EvaluationOptions(),
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    log: Callable[[str], None] = print,
    steps: Steps = no_progress,
) -> tuple[list[Trial], Comparison]:
    """Train every combination of recipe values; compare the best one with each other one. Call it again to resume.

    Args:
        name: Beginning of the trials' names in the store, as `name-r-4`.
        grid: `key=value,value,...` for each key; the trials are the cartesian product.
        evaluation: The compared rows, by default of the validation split.

    Raises:
        UsageError, RecipeError: for an unknown key or a value out of range, before anything is trained.
        TrainingError: if every trial failed.
    """
    store, plugin, trials = Store.of(store), load_task(task, tasks), planned(name, grid)
    start = None if options.start_from is None else Start.of(store, options.start_from, plugin)
    own = [replace(options, overrides=[*options.settings, *one.values], base=None, reuse=True) for one in trials]
    for settings in own:
        recipe_for(plugin, options.recipe, settings.settings, start)
    for place, trial in enumerate(trials):
        log(f"Trial {place + 1} of {len(trials)}: {trial.name}")
        try:
            stored = train(task, data, trial.name, own[place], store=store, tasks=tasks, log=log, steps=steps)
            trials[place] = replace(trial, stored=stored)
        except Exception as error:  # out of memory, or what a library refuses; the other trials go on
            trials[place] = replace(trial, error=str(error))
            log(f"{trial.name} failed: {error}")
    adapters = {trial.stored.reference: trial.stored for trial in trials if trial.stored is not None}
    if not adapters:
        raise TrainingError(f"all {len(trials)} trials failed, the first with: {trials[0].error}", where=name)
    (first, *others), rows = adapters, replace(evaluation, split=evaluation.split or "validation")
    evaluated = evaluate(first, data, rows, compare_with=others, store=store, tasks=tasks, steps=steps)
    measure, systems = evaluated.comparison.measures[0], {}
    for reference, adapter in adapters.items():
        report = adapter.manifest.training
        costs = {label: float(report[key]) for key, label in COSTS.items() if report.get(key) is not None}
        systems[reference] = replace(evaluated.systems[reference].evaluation, tested=(measure,), costs=costs)
    values = {one: evaluated.comparison.row(one, measure).value for one in adapters}
    best = max(values, key=lambda one: (not math.isnan(values[one]), evaluated.comparison.gain(measure, values[one])))
    return trials, compare(systems, candidate=best)


def planned(name: str, grid: Sequence[str]) -> list[Trial]:
    """The trials of a grid, in order. Numbers replace names that would be too long or equal."""
    axes: dict[str, list[str]] = {}
    for entry in grid:
        key, _, text = entry.partition("=")
        try:
            axes[key] = [f"{key}={json.dumps(value, default=str)}" for value in parse_yaml(f"[{text}]")]
        except ValueError:
            axes[key] = []
    if not axes or len(axes) < len(grid) or not all(key and values for key, values in axes.items()):
        raise UsageError("give key=value,value, once per key", where="--grid")
    check_name(name)
    combinations = list(itertools.product(*axes.values()))
    texts = ("-".join(re.sub(r"^[^=]*\.", "", value) for value in values) for values in combinations)
    names = [f"{name}-" + re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") for text in texts]
    if len(set(filter(is_name, names))) < len(names):
        names = [f"{name}-{number}" for number in range(1, len(names) + 1)]
    return list(map(Trial, names, combinations))
