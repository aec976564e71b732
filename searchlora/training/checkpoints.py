"""Checkpoints that were written to their end, and going on from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

_STOPPED = "stopped_after.txt"


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run that was written to its end; the trainer writes its state last."""
    found = []
    for checkpoint in (folder / "checkpoints").glob("checkpoint-*"):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)  # killed while writing it
            continue
        found.append(checkpoint)
    return max(found, key=step_of, default=None)


def go_on(trainer: Any, checkpoint: Path | None) -> None:
    """Train from a checkpoint on, or from the start where there is none.

    One of a run that had come to its end, or was stopped early, is only loaded: a transformers Trainer looks whether it
    is done after a step, so it would train one more.
    """
    from transformers import TrainerState

    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    stopped = state.global_step == _stopped_at(checkpoint.parents[1])
    if state.global_step < state.max_steps and not stopped:
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = state


def mark_stopped(folder: Path, step: int) -> None:
    """Note in a run's folder that nothing got better and training ends after this step."""
    (folder / _STOPPED).write_text(str(step), encoding="utf-8")


def _stopped_at(folder: Path) -> int | None:
    try:
        return int((folder / _STOPPED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def step_of(checkpoint: Path | None) -> int:
    """The step after which a checkpoint was written; 0 for none."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
