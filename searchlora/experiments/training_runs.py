"""What training runs of every kind share: the run's folder beside the store, and what a manifest says of data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import DataError, TrainingError
from searchlora.recipe import AnyRecipe, load_encoder_recipe, load_recipe
from searchlora.task import EncoderTask, Task
from searchlora.training.training_run import TrainingResult


@contextmanager
def only_run(store: Store, name: str) -> Iterator[None]:
    """Two runs of one name would share a folder; the second is told."""
    from filelock import FileLock, Timeout

    runs = store.root / ".runs"
    runs.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(runs / f"{name}.lock", timeout=0):
            yield
    except Timeout:
        raise TrainingError(f"'{name}' is being trained right now", where=str(runs / name)) from None


def dataset_for(task: Task, data: str | Path) -> Dataset:
    """A dataset of a task, unchanged since it was built. Raises `DataError`."""
    dataset = load_dataset(Path(data))
    if dataset.card.task != task.name:
        raise DataError(f"is a dataset of the task '{dataset.card.task}', not of '{task.name}'", where=str(data))
    dataset.verify()
    return dataset


def recipe_for(task: Task, file: str | Path | None = None, overrides: Sequence[str] = ()) -> AnyRecipe:
    """A task's recipe with a user's file and overrides laid over it. Raises `RecipeError`."""
    load = load_encoder_recipe if isinstance(task, EncoderTask) else load_recipe
    return load(task.default_recipe, file, overrides)


def run_folder(store: Store, name: str, resume: bool, restart: bool, identity: dict[str, Any]) -> Path:
    """The folder of a run, a new one or that of a stopped run.

    Args:
        identity: What must be the same for a stopped run to be gone on with.

    Raises:
        TrainingError: when there is an unfinished run and it may not be gone on with, or none to resume.
    """
    folder = store.root / ".runs" / name
    about = folder / "run.json"
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    if about.is_file():
        if not resume:
            raise TrainingError(
                f"there is an unfinished run of '{name}'",
                where=str(folder),
                fix="Go on with --resume, or throw it away with --restart.",
            )
        then = json.loads(about.read_text(encoding="utf-8"))
        changed = [key for key, value in identity.items() if then.get(key) != value]
        if changed:
            raise TrainingError(
                f"the unfinished run of '{name}' had another {' and another '.join(changed)}",
                where=str(folder),
                fix="Resume it with what it began with, or throw it away with --restart.",
            )
        return folder
    if resume:
        raise TrainingError(f"there is no unfinished run of '{name}' to resume", where=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "run.json.tmp"
    temporary.write_text(json.dumps(identity), encoding="utf-8")
    temporary.replace(about)
    return folder


def summary(dataset: Dataset) -> dict[str, Any]:
    """What a manifest says of the data; the whole card stays with the dataset."""
    card = dataset.card
    return {"format": card.format, "source": card.source["name"], "seed": card.seed, "rows": dict(card.rows)}


def measures(trained: TrainingResult) -> dict[str, float]:
    """What was measured of the adapter that was kept, as a manifest names it."""
    best = trained.summary["best"] or {}
    return {f"validation {key}": value for key, value in best.items() if key != "step"}
