"""The verb `sweep`: one training run per combination of recipe values, compared on the same rows.

Each combination is a trial, a stored adapter of its own. The state of a sweep is the store: a finished trial is reused
and an interrupted one is resumed, so a sweep that was killed goes on where it stopped.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, TypeAlias

from searchlora.adapters.references import check_name, is_name
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import SearchloraError, TrainingError, UsageError
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.pareto import Setting, cheapest_equal, pareto_front
from searchlora.experiments.evaluate import EvaluationResult, evaluate
from searchlora.experiments.train import train_or_reuse
from searchlora.experiments.training_runs import recipe_for
from searchlora.files.yaml_text import parse_yaml
from searchlora.progress import Steps, no_progress
from searchlora.task import EncoderTask, generation_task, load_task

#: Costs of a trial, as tables and plots name them; the first decides which setting is the cheapest.
PARAMETERS, MEMORY, SECONDS = COSTS = ("parameters trained", "peak memory, GB", "training, s")

_MAX_TRIALS = 500

Bars: TypeAlias = Callable[[], AbstractContextManager[Steps]]


def no_bars() -> AbstractContextManager[Steps]:
    """No progress."""
    return nullcontext(no_progress)


@dataclass(frozen=True)
class Trial:
    """One combination of values.

    Attributes:
        name: In the store.
        values: Key of the recipe -> value.
        stored: The trained adapter; None if training failed.
        error: Why it failed; None if it did not.
    """

    name: str
    values: Mapping[str, Any]
    stored: StoredAdapter | None = None
    error: str | None = None

    @property
    def overrides(self) -> tuple[str, ...]:
        """The values as `key=value`."""
        return tuple(f"{key}={json.dumps(value)}" for key, value in self.values.items())


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep.

    Attributes:
        trials: In the order of the grid.
        evaluated: The evaluation of all trained trials and what it compares them with, on one split.
        comparison: The best trial compared with every other one, corrected for their number.
        settings: Quality and costs of the trained trials.
        front: Cost -> names of the trials on its Pareto front.
        best, cheapest: The trial with the best figure, and the one with the fewest trained parameters that is not
            significantly below it.
    """

    trials: Sequence[Trial]
    evaluated: EvaluationResult
    comparison: Comparison
    settings: Sequence[Setting]
    front: Mapping[str, Sequence[str]]
    best: str
    cheapest: str

    @property
    def failed(self) -> Sequence[Trial]:
        """Trials whose training failed."""
        return [trial for trial in self.trials if trial.error is not None]


def sweep(
    task: str,
    data: str | Path,
    name: str,
    grid: Sequence[str],
    *,
    base: str | None = None,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    split: str = "validation",
    limit: int | None = None,
    restart: bool = False,
    isolated: bool = True,
    cache_dir: str | Path | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    log: Callable[[str], None] = print,
    bars: Bars | None = None,
    steps: Steps = no_progress,
) -> SweepResult:
    """Train and compare every combination of recipe values.

    A trial that fails is reported and does not end the sweep. Called again, finished trials are not trained again.

    Args:
        task: Name of a prompted task or of an encoder task.
        data: A dataset folder of that task.
        name: Beginning of the trials' names, as `name-r-4`.
        grid: `key=value,value,...` for each key, for example `lora.r=1,4,16`; the trials are the cartesian product.
        overrides: Settings of all trials.
        split: The split on which trials are compared. A setting chosen on `test` is not measured by it any more.
        limit: Maximum number of evaluated records.
        restart: Delete the unfinished runs of trials, for example to change a setting of a trial that failed. Otherwise
            they are resumed, which needs the same recipe, data and base.
        isolated: Train each trial in a process of its own, so that its peak memory is measured alone.
        cache_dir: Folder of cached outputs, see `evaluate`.
        log: Receives one sentence about each trial.
        bars: Makes the progress of a trial in its own process; a function of a module, since it is sent there.
        base, recipe, store, tasks, steps: See `train`.

    Raises:
        UsageError, RecipeError: for a grid with an unknown key or a value out of range, before anything is trained.
        TrainingError: if every trial failed.
        What `evaluate` raises.
    """
    store = Store.of(store)
    trained = train_trials(
        task,
        data,
        name,
        grid,
        recipe=recipe,
        overrides=[*overrides, *([f"base={json.dumps(base)}"] if base else [])],
        restart=restart,
        isolated=isolated,
        store=store,
        tasks=tasks,
        log=log,
        bars=bars,
        steps=steps,
    )
    stored = [trial.stored for trial in trained if trial.stored is not None]
    if not stored:
        raise TrainingError(f"all {len(trained)} trials failed, the first with: {trained[0].error}", where=name)
    first, *others = (adapter.reference for adapter in stored)
    evaluated = evaluate(
        first,
        data,
        compare_with=others,
        split=split,
        limit=limit,
        cache_dir=cache_dir,
        store=store,
        tasks=tasks,
        steps=steps,
    )
    return _compared(trained, evaluated)


def train_trials(
    task: str,
    data: str | Path,
    name: str,
    grid: Sequence[str],
    *,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    restart: bool = False,
    isolated: bool = True,
    store: Store,
    tasks: str | Path | None = None,
    log: Callable[[str], None] = print,
    bars: Bars | None = None,
    steps: Steps = no_progress,
) -> list[Trial]:
    """Train the trials of a sweep that the store lacks, without comparing them; see `sweep`.

    Raises:
        UsageError, RecipeError: before anything is trained.
    """
    trials = planned(name, grid)
    _check_recipes(task, trials, recipe, overrides, tasks)
    trained = []
    for number, trial in enumerate(trials, 1):
        log(f"Trial {number} of {len(trials)}: {', '.join(trial.overrides)}")
        train = partial(_trained, task, str(data), trial, recipe, overrides, store.root, tasks, restart=restart)
        if isolated:
            trained.append(_in_own_process(partial(train, bars=bars or no_bars), trial))
        else:
            trained.append(train(bars=lambda: nullcontext(steps), log=log))
        if (error := trained[-1].error) is not None:
            log(f"Failed: {error}")
    return trained


def planned(name: str, grid: Sequence[str]) -> list[Trial]:
    """The trials of a grid, in order.

    Raises:
        UsageError: for a grid that is empty, malformed or too large, or a name that is too long.

    Examples:
        >>> [trial.name for trial in planned("shop", ["lora.r=4,16", "method=lora"])]
        ['shop-r-4-method-lora', 'shop-r-16-method-lora']
    """
    check_name(name)
    axes: dict[str, list[Any]] = {}
    for entry in grid:
        key, equals, text = entry.partition("=")
        if not equals or not key or not text or key in axes:
            raise UsageError(f"'{entry}' is not of the form key=value,value, once per key", where="--grid")
        try:
            values = parse_yaml(f"[{text}]")
        except ValueError:
            raise UsageError(f"'{text[:100]}' are not YAML values with commas between", where="--grid") from None
        # A trial is stored as JSON, in which a date is text, as recipes take it too.
        axes[key] = [json.loads(text) for text in dict.fromkeys(json.dumps(value, default=str) for value in values)]
    count = 1
    for values in axes.values():
        count *= len(values)
    if not axes or not 1 <= count <= _MAX_TRIALS:
        raise UsageError(f"the grid has {count if axes else 0} trials", where="--grid", fix=f"Give 1 to {_MAX_TRIALS}.")
    trials = []
    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        parts = [f"{key.rpartition('.')[2]}-{value}" for key, value in values.items()]
        slug = re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
        trials.append(Trial(f"{name}-{slug}", values))
    names = [trial.name for trial in trials]
    if len(set(names)) < len(names) or not all(map(is_name, names)):
        trials = [replace(trial, name=f"{name}-{number}") for number, trial in enumerate(trials, 1)]
        check_name(trials[-1].name)
    return trials


def _check_recipes(
    task: str, trials: Sequence[Trial], recipe: str | Path | None, common: Sequence[str], tasks: str | Path | None
) -> None:
    """Read the recipe of every trial, so that a mistake is found before the first one is trained."""
    plugin = load_task(task, tasks)
    if not isinstance(plugin, EncoderTask):
        generation_task(plugin)
    for trial in trials:
        recipe_for(plugin, recipe, [*common, *trial.overrides])


def _to_stderr(text: str) -> None:
    """What a trial says in a process of its own: standard output is for the result, which may be JSON."""
    print(text, file=sys.stderr, flush=True)


def _trained(
    task: str,
    data: str,
    trial: Trial,
    recipe: str | Path | None,
    common: Sequence[str],
    root: Path,
    tasks: str | Path | None,
    *,
    restart: bool,
    log: Callable[[str], None] = _to_stderr,
    bars: Bars,
) -> Trial:
    """The trial with its adapter, trained if the store has none, or with its error."""
    overrides = [*common, *trial.overrides]
    try:
        with bars() as shown:
            stored = train_or_reuse(
                task,
                data,
                trial.name,
                recipe=recipe,
                overrides=overrides,
                restart=restart,
                store=Store(root),
                tasks=tasks,
                log=log,
                steps=shown,
            )
    except SearchloraError as error:
        return replace(trial, error=str(error))
    except Exception as error:  # out of memory, or what a library refuses; the other trials go on
        return replace(trial, error=f"{type(error).__name__}: {error}")
    return replace(trial, stored=stored)


def _in_own_process(train: Callable[[], Trial], trial: Trial) -> Trial:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            return pool.submit(train).result()
        except BrokenProcessPool:
            return replace(trial, error="its process ended: killed, or out of memory")


def _end_with_parent() -> None:
    """End this process when the one that started it ends, also by SIGKILL.

    Otherwise it would train on beside the next sweep, which wants to resume its trial.
    """
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="searchlora-parent", daemon=True).start()


def _compared(trials: Sequence[Trial], evaluated: EvaluationResult) -> SweepResult:
    stored = {trial.stored.reference: trial.stored for trial in trials if trial.stored is not None}
    systems = {name: result.evaluation for name, result in evaluated.systems.items() if name in stored}
    measure = next(iter(systems.values())).headline
    less = measure in evaluated.comparison.less_is_better
    rows = {row.system: row for row in evaluated.comparison.rows if row.measure == measure and row.system in systems}
    best = _best({name: row.value for name, row in rows.items()}, less_is_better=less)
    tested = {name: replace(system, tested=(measure,)) for name, system in systems.items()}
    comparison = compare(tested, candidate=best)
    settings = [Setting(name, row.value, row.low, row.high, _costs(stored[name])) for name, row in rows.items()]
    known = [cost for cost in COSTS if all(cost in setting.costs for setting in settings)]
    front = {cost: pareto_front(settings, cost, less_is_better=less) for cost in known}
    _, cheapest = cheapest_equal(settings, comparison, PARAMETERS, less_is_better=less)
    return SweepResult(trials, evaluated, comparison, settings, front, best, cheapest)


def _best(values: Mapping[str, float], *, less_is_better: bool) -> str:
    """The name with the best value; an undefined one (nan), such as kappa of constant grades, is the worst."""
    sign = -1 if less_is_better else 1
    return max(values, key=lambda name: (not math.isnan(values[name]), sign * values[name]))


def _costs(stored: StoredAdapter) -> dict[str, float]:
    training = stored.manifest.training
    keys = {PARAMETERS: "parameters_trained", MEMORY: "peak_memory_gb", SECONDS: "seconds"}
    return {name: float(training[key]) for name, key in keys.items() if training.get(key) is not None}
