"""The verb `sweep`: one training run per combination of recipe values, compared on the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import TrainingError, UsageError
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.pareto import Setting, cheapest_equal, pareto_front
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.evaluation_result import EvaluationResult
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.trials import Bars, Trial, no_bars, train_trials
from searchlora.inference.settings import EngineSettings
from searchlora.task import EncoderTask, load_task

#: Costs of a trial, as tables and plots name them; the first decides which setting is the cheapest.
PARAMETERS, MEMORY, SECONDS = COSTS = ("parameters trained", "peak memory, GB", "training, s")


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
    options: TrainingOptions = TrainingOptions(),
    *,
    evaluation: EvaluationOptions = EvaluationOptions(),
    engine: EngineSettings | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    log: Callable[[str], None] = print,
    bars: Bars = no_bars,
) -> SweepResult:
    """Train and compare every combination of recipe values.

    Each combination is a trial, a stored adapter of its own. A trial that fails is reported and does not end the sweep.
    Called again, finished trials are not trained again, and unfinished ones are resumed.

    Args:
        task: Name of a prompted task or of an encoder task.
        data: A dataset folder of that task.
        name: Beginning of the trials' names, as `name-r-4`.
        grid: `key=value,value,...` for each key, for example `lora.r=1,4,16`; the trials are the cartesian product.
        options: Of all trials. `restart` deletes their unfinished runs, for example to change a setting of a trial that
            failed.
        evaluation: The rows on which trials are compared, by default of the validation split. A setting chosen on
            `test` is not measured by it any more.
        engine: Where the trials are compared; None: a local engine. Training validates in its own process.
        store: The adapter store; None: the default store.
        tasks: A folder of task plugins.
        log: Receives one sentence about each trial.
        bars: Makes the progress of a step.

    Raises:
        UsageError, RecipeError: for a grid with an unknown key or a value out of range, before anything is trained.
        UsageError: for an engine of an encoder task, likewise.
        EngineError, LoadCheckFailed: for a vLLM that is not there, or could not serve a trial, likewise.
        TrainingError: if every trial failed.
        What `evaluate` raises.
    """
    if engine is not None and isinstance(load_task(task, tasks), EncoderTask):
        raise UsageError("an encoder has no engine", where=task, fix="Leave the option out.")
    store = Store.of(store)
    trained = train_trials(task, data, name, grid, options, engine=engine, store=store, tasks=tasks, log=log, bars=bars)
    stored = [trial.stored for trial in trained if trial.stored is not None]
    if not stored:
        raise TrainingError(f"all {len(trained)} trials failed, the first with: {trained[0].error}", where=name)
    first, *others = (adapter.reference for adapter in stored)
    evaluation = replace(evaluation, split=evaluation.split or "validation")
    with bars() as steps:
        evaluated = evaluate(
            first, data, evaluation, compare_with=others, engine=engine, store=store, tasks=tasks, steps=steps
        )
    return _compared(trained, evaluated)


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
    _, cheapest = cheapest_equal(settings, comparison, PARAMETERS)
    return SweepResult(trials, evaluated, comparison, settings, front, best, cheapest)


def _best(values: Mapping[str, float], *, less_is_better: bool) -> str:
    """The name with the best value; an undefined one (nan), such as kappa of constant grades, is the worst."""
    sign = -1 if less_is_better else 1
    return max(values, key=lambda name: (not math.isnan(values[name]), sign * values[name]))


def _costs(stored: StoredAdapter) -> dict[str, float]:
    training = stored.manifest.training
    keys = {PARAMETERS: "parameters_trained", MEMORY: "peak_memory_gb", SECONDS: "seconds"}
    return {name: float(training[key]) for name, key in keys.items() if training.get(key) is not None}
