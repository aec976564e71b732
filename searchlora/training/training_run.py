"""One training run: arguments, checkpoints, resuming, validation and metrics, shared by all trainers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from searchlora.errors import DataError, TrainingError
from searchlora.models.libraries import quiet
from searchlora.progress import Progress, silent
from searchlora.recipe import AnyRecipe
from searchlora.training.metrics import MetricsLog, plot_losses, read_metrics

if TYPE_CHECKING:
    from searchlora.training.callbacks import Validate

_STATE = "trainer_state.json"


@dataclass(frozen=True)
class TrainingResult:
    """A finished training run."""

    adapter: Path
    folder: Path
    summary: dict[str, Any]
    files: tuple[Path, ...] = ()
    validated: Literal["nf4", "none"] = "none"


class TrainingRun:
    """A training run in a folder of its own. Creating it seeds all random generators."""

    def __init__(
        self,
        recipe: AnyRecipe,
        folder: Path,
        *,
        validate: Validate | None = None,
        resume: bool = False,
        progress: Progress = silent,
    ) -> None:
        from transformers import set_seed

        self.recipe = recipe
        self.folder = folder
        self.validate = validate
        self.progress = progress
        self.rate_key = f"optim.{'full_' if recipe.is_full else ''}learning_rate"
        self.checkpoints = folder / "checkpoints"
        if not resume:
            _remove_earlier_run(self.folder)
        self.checkpoint = last_complete_checkpoint(folder) if resume else None
        self.folder.mkdir(parents=True, exist_ok=True)
        set_seed(recipe.seed)

    def arguments(self) -> dict[str, Any]:
        """The `transformers.TrainingArguments` that all trainers share."""
        import torch

        on_cpu = not torch.cuda.is_available()
        optim = self.recipe.optim
        return {
            "output_dir": str(self.checkpoints),
            "per_device_train_batch_size": optim.batch_size,
            "gradient_accumulation_steps": optim.gradient_accumulation,
            "learning_rate": optim.full_learning_rate if self.recipe.is_full else optim.learning_rate,
            "lr_scheduler_type": optim.schedule,
            "warmup_steps": optim.warmup_ratio,
            "weight_decay": optim.weight_decay,
            "max_grad_norm": optim.max_grad_norm,
            "num_train_epochs": optim.epochs,
            "max_steps": optim.max_steps or -1,
            "seed": self.recipe.seed,
            "data_seed": self.recipe.seed,
            "use_cpu": on_cpu,
            "eval_strategy": "no",  # `ValidationCallback` validates
            "save_strategy": "steps",
            "save_steps": self.recipe.checkpoints.every_steps,
            "save_total_limit": self.recipe.checkpoints.keep,
            "logging_steps": 1,
            "logging_first_step": True,
            "logging_nan_inf_filter": False,  # `MetricsCallback` raises an error instead
            "disable_tqdm": True,
            "report_to": list(self.recipe.report_to) or "none",
            "dataloader_pin_memory": not on_cpu,
        }

    @property
    def _if_not_finite(self) -> str:
        # Encoders, and models of which all weights are trained, are computed in fp32 anyway.
        in_bf16 = not self.recipe.is_full and self.recipe.precision == "bf16"
        return (
            f"Lower {self.rate_key} or optim.max_grad_norm{', or set precision=fp32' if in_bf16 else ''}, and use "
            "--restart."
        )

    def execute(
        self, trainer: Any, save: Callable[[Path], None], *, loss_unit: str, details: Mapping[str, Any]
    ) -> TrainingResult:
        """Train to the end and keep the best step."""
        from transformers import PrinterCallback

        from searchlora.training.callbacks import MetricsCallback, ValidationCallback

        trainer.remove_callback(PrinterCallback)
        resumed_step = step_of(self.checkpoint)
        with _write_errors(self.folder):
            log = MetricsLog(self.folder / "metrics.jsonl", resumed_step)
            trainer.add_callback(
                MetricsCallback(log, self.progress, lambda: int(trainer.tokens_seen), self._if_not_finite)
            )
            best = None
            if self.validate is not None:
                validation = ValidationCallback(self.recipe, self.folder, self.validate, save, log)
                trainer.add_callback(validation)
            with quiet():
                _train(trainer, self.checkpoint)
            if self.validate is not None:
                best = validation.best
            adapter = self.folder / ("best" if best else "adapter")
            if not best:
                shutil.rmtree(adapter, ignore_errors=True)
                save(adapter)
            last = [line for line in read_metrics(log.path) if "loss" in line][-1]
            plot_losses(log.path, self.folder / "loss.svg", loss_unit)
        summary = {
            "steps": trainer.state.global_step,
            "seconds": last["seconds"],
            "resumed_from_step": resumed_step,
            "final_loss": last["loss"],
            "tokens": last["tokens"],
            "parameters_trained": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            "best": best,
            **details,
        }
        return TrainingResult(adapter, self.folder, summary)


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, DataError, RuntimeError) as error:
        # torch.save raises a RuntimeError that names its writer or the stream below it.
        if isinstance(error, RuntimeError) and not re.search(
            "PytorchStreamWriter|inline_container|iostream error", str(error)
        ):
            raise
        if isinstance(error, DataError) and not isinstance(error.__cause__, OSError):
            raise
        raise TrainingError(
            f"cannot be written ({getattr(error, 'strerror', None) or error})",
            where=str(folder),
            fix="Make room, then continue with --resume.",
        ) from error


def _remove_earlier_run(folder: Path) -> None:
    """Delete the checkpoints and the best step of an earlier run, which would count as those of the next one."""
    from searchlora.training.callbacks import BEST, STOPPED

    for name in ("checkpoints", "best", "current", "adapter"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (BEST, STOPPED):
        (folder / name).unlink(missing_ok=True)


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a training run. Incomplete ones, which a killed process left, are deleted.

    The trainer writes `trainer_state.json` last, so a checkpoint that has it is complete.
    """
    complete = []
    for checkpoint in (folder / "checkpoints").glob("checkpoint-*"):
        try:
            json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
            complete.append(checkpoint)
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
    return max(complete, key=step_of, default=None)


def step_of(checkpoint: Path | None) -> int:
    """The step after which a checkpoint was written; 0 for None."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def _train(trainer: Any, checkpoint: Path | None) -> None:
    """Train from a checkpoint, or from the start.

    The checkpoint of a run that reached its last step or stopped early is only loaded: `transformers.Trainer` tests
    whether training has ended after each step, so it would train one step too many.
    """
    from transformers import TrainerState

    from searchlora.training.callbacks import stopped_step

    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / _STATE))
    stopped_early = state.global_step == stopped_step(checkpoint.parents[1])
    if state.global_step < state.max_steps and not stopped_early:
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = state
