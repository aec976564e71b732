"""Trainer callbacks: live metrics, and validation with selection of the best step and early stopping."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import psutil
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerControl, TrainerState

from searchlora.errors import DataError, TrainingError
from searchlora.progress import Progress
from searchlora.recipe import AnyRecipe
from searchlora.training.metrics import MetricsLog, read_metrics

#: Files in a training run's folder: step and measures of the best validation, and after which step it stopped early.
BEST, STOPPED = "best.json", "stopped_after.txt"

#: Called with a plain PEFT folder of the current adapter (a model folder where all weights are trained). Returns
#: measures by name, `loss` among them. A callable may have an attribute `less_is_better`: the names of measures other
#: than `loss` for which a lower value is better; and a method `use`, which receives the model that is trained. In eval
#: mode that must not compute with 4-bit layers on a CPU: see `experiments.validation.evaluating`.
Validate: TypeAlias = Callable[[Path], Mapping[str, float]]


class MetricsCallback(TrainerCallback):  # type: ignore[misc]
    """Reports loss, tokens per second and memory (GB) to the progress bar and to `metrics.jsonl`.

    Raises `TrainingError` for a loss or gradient norm that is not finite.
    """

    def __init__(self, log: MetricsLog, progress: Progress, tokens_seen: Callable[[], int], if_not_finite: str) -> None:
        self.log = log
        self.progress = progress
        self.tokens_seen = tokens_seen
        self.if_not_finite = if_not_finite
        self.started = self.last = (time.monotonic(), 0)

    def on_train_begin(self, args: object, state: TrainerState, control: object, **_: object) -> None:
        del args, control
        self.started = self.last = (time.monotonic(), 0)
        self.progress(state.global_step, state.max_steps)

    def on_log(
        self, args: object, state: TrainerState, control: object, logs: Mapping[str, float], **_: object
    ) -> None:
        del args, control
        if "loss" not in logs:
            return
        for key, name in (("loss", "loss"), ("grad_norm", "gradient norm")):
            if not math.isfinite(value := float(logs.get(key, 0.0))):
                what = f"the {name} is {value} at step {state.global_step}"
                raise TrainingError(what, where="training", fix=self.if_not_finite)
        now = (time.monotonic() - self.log.paused, self.tokens_seen())
        speed = (now[1] - self.last[1]) / max(now[0] - self.last[0], 1e-9)
        self.last = now
        loss, memory = float(logs["loss"]), _memory()
        self.log.add(
            state.global_step,
            {
                "loss": loss,
                "learning_rate": float(logs["learning_rate"]),
                "tokens_per_second": round(speed, 1),
                "memory_gb": round(memory, 2),
                "tokens": self.log.tokens_before + now[1],
                "seconds": round(self.log.seconds_before + now[0] - self.started[0], 1),
            },
        )
        self.progress(state.global_step, state.max_steps, f"loss {loss:.3f}  {speed:,.0f} tokens/s  {memory:.1f} GB")


def peak_memory() -> float:
    """Peak memory of this process so far in GB: allocated on the GPU if there is one, else resident."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 1e9
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:  # not Linux; `ru_maxrss` includes what the process inherited from its parent
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024 / 1e9


def _memory() -> float:
    """GB: peak allocation on the GPU if there is one, else the current resident memory of this process."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 1e9
    return float(psutil.Process().memory_info().rss) / 1e9


class ValidationCallback(TrainerCallback):  # type: ignore[misc]
    """Saves the adapter, has `validate` measure it, keeps the best step, and stops training when nothing improves.

    `best/` in the folder holds the best adapter so far, `best.json` its step and measures.
    """

    def __init__(
        self, recipe: AnyRecipe, folder: Path, validate: Validate, save: Callable[[Path], None], log: MetricsLog
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.validate = validate
        self.save = save
        self.log = log

    @property
    def best(self) -> dict[str, Any] | None:
        file = self.folder / BEST
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **_: object) -> None:
        del args
        if not self._is_due(state.global_step, state.max_steps):
            return
        started = time.monotonic()
        stop = self._validated(state.global_step)
        self.log.paused += time.monotonic() - started
        if stop:
            control.should_training_stop = True

    def _validated(self, step: int) -> bool:
        """Measure the current weights and keep them if they are the best; whether training stops early."""
        current = self.folder / "current"
        shutil.rmtree(current, ignore_errors=True)
        self.save(current)
        started = time.monotonic()
        try:
            measures = dict(self.validate(current))
        except (OSError, SafetensorError, DataError) as error:
            raise TrainingError(
                f"validation failed ({error})", where=str(self.folder), fix="Correct this, then continue with --resume."
            ) from error
        seconds = round(time.monotonic() - started, 1)
        self.log.add(
            step, {**{f"validation_{name}": value for name, value in measures.items()}, "validation_seconds": seconds}
        )
        best = self.best
        if best is None or self._is_better(measures, best):
            self._keep(current, {"step": step, **measures})
        elif self._validations_since(best["step"]) >= (self.recipe.validation.patience or math.inf):
            # Resuming must not continue the run.
            (self.folder / STOPPED).write_text(str(step), encoding="utf-8")
            return True
        return False

    def _is_due(self, step: int, last_step: int) -> bool:
        """At the last step, and at each interval before it unless the last step follows within half an interval."""
        interval = self.recipe.validation.every_steps or max(1, last_step // 4)
        return step == last_step or (step % interval == 0 and last_step - step >= interval / 2)

    def _validations_since(self, step: int) -> int:
        return sum("validation_loss" in line and line["step"] > step for line in read_metrics(self.log.path))

    def _is_better(self, measures: Mapping[str, float], best: Mapping[str, float]) -> bool:
        metric = self.recipe.validation.metric
        if math.isnan(best[metric]):  # an undefined value, such as kappa of constant grades, never compares as worse
            return True
        less_is_better = metric in ("loss", *getattr(self.validate, "less_is_better", ()))
        return measures[metric] < best[metric] if less_is_better else measures[metric] > best[metric]

    def _keep(self, current: Path, measured: Mapping[str, Any]) -> None:
        metric = self.recipe.validation.metric
        if metric not in measured:
            names = ", ".join(sorted(measured.keys() - {"step"}))
            raise TrainingError(f"validation.metric = '{metric}' was not measured", fix=f"Measured: {names}.")
        best = self.folder / "best"
        shutil.rmtree(best, ignore_errors=True)
        current.replace(best)
        temporary = self.folder / f"{BEST}.tmp"
        temporary.write_text(json.dumps(measured), encoding="utf-8")
        temporary.replace(self.folder / BEST)


def stopped_step(folder: Path) -> int | None:
    """The step after which training stopped early; None where it did not."""
    try:
        return int((folder / STOPPED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
