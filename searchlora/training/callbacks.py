"""What happens beside training: live figures, `metrics.jsonl`, validation on another copy, early stop."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from transformers import TrainerCallback

from searchlora.errors import TrainingError
from searchlora.eval.files import atomic_text
from searchlora.progress import Progress
from searchlora.recipe import AnyRecipe
from searchlora.training.checkpoints import mark_stopped

#: Called with a plain PEFT folder of the adapter as it is now (a model's, where all weights are trained); returns
#: measures by name, `loss` among them. It must not touch the model being trained (on a 4-bit CPU base one eval-mode
#: forward there makes all later gradients wrong).
Validate = Callable[[Path], Mapping[str, float]]


class MetricsLog:
    """`metrics.jsonl`: one line per logged step, appended as training goes.

    Args:
        path: The file. Lines later than `resumed_step` (written after the checkpoint, before the kill) are cut off.
    """

    def __init__(self, path: Path, resumed_step: int = 0) -> None:
        self.path = path
        self.paused = 0.0  # seconds in which something else than training happened
        kept = [line for line in read_metrics(path) if line["step"] <= resumed_step] if path.exists() else []
        trained = [line for line in kept if "loss" in line]
        self.tokens_before = trained[-1]["tokens"] if trained else 0
        self.seconds_before = trained[-1]["seconds"] if trained else 0.0
        with atomic_text(path) as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)

    def add(self, step: int, values: Mapping[str, float | str]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line cut short by a kill is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


class MetricsCallback(TrainerCallback):  # type: ignore[misc]
    """Loss, tokens per second and memory, to the progress bar and to `metrics.jsonl`."""

    def __init__(self, log: MetricsLog, progress: Progress, tokens_seen: Callable[[], int]) -> None:
        self.log = log
        self.progress = progress
        self.tokens_seen = tokens_seen
        self.started = self.last = (time.monotonic(), 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, control, kwargs
        self.started = self.last = (time.monotonic(), 0)
        self.progress(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **kwargs: Any) -> None:
        del args, control, kwargs
        if "loss" not in logs:
            return
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
    """GB: the most that this process has held so far, on the GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 1e9
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:  # not Linux; there, what a process inherits from the one that started it is in it too
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024 / 1e9


def _memory() -> float:
    """GB: what the GPU has allocated at most, or this process's resident memory where there is none."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 1e9
    return float(psutil.Process().memory_info().rss) / 1e9


class ValidationCallback(TrainerCallback):  # type: ignore[misc]
    """Saves the adapter, lets `validate` measure it on another copy, keeps the best, stops when nothing improves.

    Args:
        folder: Of the run; `best/` holds the best adapter so far and `best.json` its step and figures.
        validate: May have `less_is_better`, the measures beside the loss of which less is better.
        save: Writes the adapter as it is now into a folder.
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
        """Step and measures of the best validation so far."""
        file = self.folder / "best.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, kwargs
        if not self._is_due(state.global_step, state.max_steps):
            return
        now = self.folder / "now"
        shutil.rmtree(now, ignore_errors=True)
        self.save(now)
        started = time.monotonic()
        measures = dict(self.validate(now))
        seconds = round(time.monotonic() - started, 1)
        self.log.paused += seconds
        self.log.add(
            state.global_step,
            {**{f"validation_{name}": value for name, value in measures.items()}, "validation_seconds": seconds},
        )
        best = self.best
        if best is None or self._is_better(measures, best):
            self._keep(now, {"step": state.global_step, **measures})
        elif self._validations_since(best["step"]) >= (self.recipe.validation.patience or math.inf):
            control.should_training_stop = True
            mark_stopped(self.folder, state.global_step)

    def _is_due(self, step: int, last: int) -> bool:
        """At the last step, and every so many steps before, but not again just before the last."""
        every = self.recipe.validation.every_steps or max(1, last // 4)
        return step == last or (step % every == 0 and last - step >= every / 2)

    def _validations_since(self, step: int) -> int:
        return sum("validation_loss" in line and line["step"] > step for line in read_metrics(self.log.path))

    def _is_better(self, measures: Mapping[str, float], best: Mapping[str, float]) -> bool:
        metric = self.recipe.validation.metric
        if math.isnan(best[metric]):  # as kappa is where all say the same; no comparison with it ever holds
            return True
        less = metric in ("loss", *getattr(self.validate, "less_is_better", ()))
        return measures[metric] < best[metric] if less else measures[metric] > best[metric]

    def _keep(self, now: Path, about: Mapping[str, Any]) -> None:
        metric = self.recipe.validation.metric
        if metric not in about:
            measured = ", ".join(sorted(about.keys() - {"step"}))
            raise TrainingError(f"validation.metric = '{metric}' was not measured", fix=f"Measured: {measured}.")
        best = self.folder / "best"
        shutil.rmtree(best, ignore_errors=True)
        now.replace(best)
        temporary = self.folder / "best.json.tmp"
        temporary.write_text(json.dumps(about), encoding="utf-8")
        temporary.replace(self.folder / "best.json")
