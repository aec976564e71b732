"""The verb `train`: dataset and recipe in, a checked adapter in the store out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from searchlora.adapters.manifest import Dataset as TrainedOn
from searchlora.adapters.manifest import Precision
from searchlora.adapters.names import check_name
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.adapters.storing import store_adapter
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import DataError, TrainingError
from searchlora.experiments.evaluate import Steps, prompted, retrieving
from searchlora.experiments.trial import Trial
from searchlora.experiments.validation import Validator
from searchlora.inference.local import LocalEngine
from searchlora.models.fingerprint import fingerprint
from searchlora.models.resolve import BaseModel, resolve
from searchlora.progress import silent
from searchlora.recipe import Recipe, load_recipe
from searchlora.task import PromptedTask
from searchlora.training.run import Trained, train_adapter


def train(
    task: str,
    data: str | Path,
    name: str,
    *,
    base: str | None = None,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    restart: bool = False,
    store: Store | None = None,
    tasks: str | Path | None = None,
    steps: Steps = lambda _: silent,
) -> StoredAdapter:
    """Train an adapter on a dataset, check it, and store it as the next version of `name`.

    A run that was stopped stays beside the store (`.runs/NAME`) until it is resumed or restarted.

    Args:
        task: Name of a prompted task.
        data: A dataset folder of that task.
        base: Instead of the recipe's base.
        recipe: A YAML file laid over the task's recipe; `overrides` (`lora.r=8`) are laid over both.
        resume: Go on from the last checkpoint. Recipe, base and data must be those of the stopped run.
        restart: Throw a stopped run away and begin anew.

    Raises:
        RecipeError, DataError, BaseModelError, InvalidName, NameTaken: before anything is trained.
        TrainingError: when there is an unfinished run and neither `resume` nor `restart` was given, or it is another.
        LoadCheckFailed: when the trained adapter does not pass; its run is kept.
    """
    store = store or Store()
    check_name(name)
    plugin = prompted(task, tasks)
    wanted = load_recipe(plugin.default_recipe, recipe, [*overrides, *([f"base={base}"] if base else [])])
    dataset = _dataset(plugin, data)
    store.check_task(name, plugin.name)
    model = resolve(wanted.base)
    folder = _run_folder(store, name, resume, restart, _identity(plugin, wanted, dataset, model))
    validator = _validator(plugin, wanted, dataset, model, steps)
    trained = train_adapter(
        plugin,
        wanted,
        model,
        dataset.records("train"),
        folder,
        validate=validator,
        resume=resume,
        progress=steps("Training"),
    )
    stored = store_adapter(
        store,
        name,
        trained.adapter,
        task=plugin,
        recipe=wanted,
        base=model,
        dataset=TrainedOn(fingerprint=dataset.fingerprint, card=_summary(dataset)),
        metrics=_measures(trained),
        evaluated=Precision(quantization="none", precision=wanted.precision),
        training=trained.summary,
        beside=[trained.folder / "metrics.jsonl", trained.folder / "loss.svg"],
    )
    shutil.rmtree(folder)
    return stored


def _dataset(task: PromptedTask, data: str | Path) -> Dataset:
    dataset = load_dataset(Path(data))
    if dataset.card.task != task.name:
        raise DataError(f"is a dataset of the task '{dataset.card.task}', not of '{task.name}'", where=str(data))
    dataset.verify()
    return dataset


def _identity(task: PromptedTask, recipe: Recipe, dataset: Dataset, base: BaseModel) -> dict[str, Any]:
    """What must be the same for a stopped run to be gone on with."""
    return {
        "task": f"{task.name} version {task.version}",
        "prompt": task.template,
        "recipe": recipe.model_dump(),
        "dataset": dataset.fingerprint,
        "base": fingerprint(base.path).model_dump(),
    }


def _run_folder(store: Store, name: str, resume: bool, restart: bool, identity: dict[str, Any]) -> Path:
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


def _validator(task: PromptedTask, recipe: Recipe, dataset: Dataset, base: BaseModel, steps: Steps) -> Validator | None:
    records = dataset.records("validation")
    if not records:
        return None
    trial = None
    generated = records[: recipe.validation.generate_rows]
    if generated:
        retrieve = retrieving(task, dataset, progress=steps("Indexing"))
        trial = Trial(task, generated, retrieve, dataset.qrels(), recipe.max_new_tokens)
    return Validator(task, LocalEngine(base, precision=recipe.precision), records[: recipe.validation.rows], trial)


def _summary(dataset: Dataset) -> dict[str, Any]:
    """What a manifest says of the data; the whole card stays with the dataset."""
    card = dataset.card
    return {"format": card.format, "source": card.source["name"], "seed": card.seed, "rows": dict(card.rows)}


def _measures(trained: Trained) -> dict[str, float]:
    best = trained.summary["best"] or {}
    return {f"validation {key}": value for key, value in best.items() if key != "step"}
