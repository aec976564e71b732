"""Checkpoints that were written to their end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


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


def step_of(checkpoint: Path | None) -> int:
    """The step after which a checkpoint was written; 0 for none."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
