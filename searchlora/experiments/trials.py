"""Trials of a sweep: the grid, and one training run per combination of its values.

The state of a sweep is the store: a finished trial is reused and an interrupted one is resumed.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

from searchlora.adapters.references import check_name, is_name
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import SearchloraError, UsageError
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.start import Start
from searchlora.experiments.train import train
from searchlora.experiments.training_runs import recipe_for
from searchlora.files.yaml_text import parse_yaml
from searchlora.inference.settings import EngineSettings
from searchlora.models.devices import chosen_gpus
from searchlora.progress import Steps, no_progress
from searchlora.task import EncoderTask, generation_task, load_task

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

    def options(self, common: TrainingOptions) -> TrainingOptions:
        """The options of all trials with the values of this one."""
        return replace(common, overrides=[*common.settings, *self.overrides], base=None, reuse=True)


def train_trials(
    task: str,
    data: str | Path,
    name: str,
    grid: Sequence[str],
    options: TrainingOptions = TrainingOptions(),
    *,
    engine: EngineSettings | None = None,
    store: Store,
    tasks: str | Path | None = None,
    log: Callable[[str], None] = print,
    bars: Bars = no_bars,
) -> list[Trial]:
    """Train the trials of a sweep that the store lacks, without comparing them; the arguments are those of `sweep`.

    Raises:
        UsageError, RecipeError, EngineError, LoadCheckFailed: before anything is trained.
    """
    trials = planned(name, grid)
    plugin = load_task(task, tasks)
    if not isinstance(plugin, EncoderTask):
        generation_task(plugin)
    start = None if options.start_from is None else Start.of(store, options.start_from, plugin)
    if start is not None:
        options = replace(options, start_from=start.adapter.reference)
    for trial in trials:
        recipe = recipe_for(plugin, options.recipe, trial.options(options).settings, start)
        if engine is not None:
            engine.check_recipe(recipe, trial.name)
    trained = []
    with chosen_gpus(options.processes, log):  # once: validation of the first trial may use the GPU in this process
        for number, trial in enumerate(trials, 1):
            log(f"Trial {number} of {len(trials)}: {', '.join(trial.overrides)}")
            trained.append(_trained(task, data, trial, options, store, tasks, bars))
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
    count = prod(map(len, axes.values())) if axes else 0
    if not 1 <= count <= _MAX_TRIALS:
        raise UsageError(f"the grid has {count} trials", where="--grid", fix=f"Give 1 to {_MAX_TRIALS}.")
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


def _trained(
    task: str,
    data: str | Path,
    trial: Trial,
    options: TrainingOptions,
    store: Store,
    tasks: str | Path | None,
    bars: Bars,
) -> Trial:
    """The trial with its adapter, trained if the store has none, or with its error."""
    try:
        with bars() as steps:
            more: dict[str, Any] = {"store": store, "tasks": tasks, "log": _to_stderr, "steps": steps}
            return replace(trial, stored=train(task, data, trial.name, trial.options(options), **more))
    except SearchloraError as error:
        return replace(trial, error=str(error))
    except Exception as error:  # out of memory, or what a library refuses; the other trials go on
        return replace(trial, error=f"{type(error).__name__}: {error}")


def _to_stderr(text: str) -> None:
    """What a trial says: standard output is for the result, which may be JSON."""
    print(text, file=sys.stderr, flush=True)
