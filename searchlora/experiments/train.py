"""The verb `train`: dataset and recipe in, a checked adapter in the store out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from searchlora.adapters.ancestry import write_training_queries
from searchlora.adapters.golden import prompt_hash
from searchlora.adapters.manifest import Dataset as TrainedOn
from searchlora.adapters.manifest import Precision
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.references import check_name
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.experiments.encoder_train import train_encoder_adapter
from searchlora.experiments.training_runs import dataset_for, measures, only_run, recipe_for, run_folder, summary
from searchlora.experiments.trial import Trial, retrieving
from searchlora.experiments.tuning import tuned_on
from searchlora.experiments.validation import Validator
from searchlora.inference.local import LocalEngine
from searchlora.models.fingerprint import fingerprint
from searchlora.models.resolve import BaseModel, resolve
from searchlora.progress import Steps, unwatched
from searchlora.recipe import Recipe, load_recipe
from searchlora.task import EncoderTask, PromptedTask, load_prompted_task, load_task
from searchlora.training.sft import train_adapter


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
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = unwatched,
) -> StoredAdapter:
    """Train an adapter on a dataset, check it, and store it as the next version of `name`.

    A run that was stopped stays beside the store (`.runs/NAME`) until it is resumed or restarted.

    Args:
        task: Name of a prompted task, or of an encoder's.
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
    place = store if isinstance(store, Store) else Store(store)
    check_name(name)
    if isinstance(plugin := load_task(task, tasks), EncoderTask):
        how: dict[str, Any] = {"recipe": recipe, "overrides": overrides, "resume": resume, "restart": restart}
        return train_encoder_adapter(plugin, data, name, base=base, store=place, steps=steps, **how)
    plugin = load_prompted_task(task, tasks)
    dataset = dataset_for(plugin, data)
    plugin = plugin.bound(dataset.settings)
    wanted = load_recipe(plugin.default_recipe, recipe, overrides)
    if base is not None:
        wanted = wanted.model_copy(update={"base": base})
    place.check_task(name, plugin.name)
    model = resolve(wanted.base)
    with only_run(place, name):
        folder = run_folder(place, name, resume, restart, _identity(plugin, wanted, dataset, model))
        # Where the user says nothing else, TensorBoard's files outlive the run's folder.
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(place.root / ".logs" / name))
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
        found = measures(trained)
        stored = store_adapter(
            place,
            name,
            trained.adapter,
            task=plugin,
            recipe=wanted,
            base=model,
            dataset=TrainedOn(fingerprint=dataset.fingerprint, card=summary(dataset)),
            metrics=found,
            evaluated=Precision(quantization="none", precision=wanted.precision) if found else None,
            training=trained.summary,
            tuned=tuned_on(validator, trained.adapter, dataset, wanted, steps("Tuning")),
            extra_files=[
                trained.folder / "metrics.jsonl",
                trained.folder / "loss.svg",
                *_queries_beside(plugin, dataset, trained.folder),
            ],
        )
        shutil.rmtree(folder)
    return stored


def train_or_reuse(
    task: str,
    data: str | Path,
    name: str,
    *,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    store: Store,
    say: Callable[[str], None] = print,
    steps: Steps = unwatched,
) -> StoredAdapter:
    """The newest version of `name` if it came from this dataset, recipe, prompt and base; else train one.

    An unfinished run of the name is gone on with.

    Args:
        say: Told in a sentence what happened.
    """
    if store.versions(name):
        stored = store.get(name)
        dataset = load_dataset(Path(data))
        plugin = load_task(task).bound(dataset.settings)
        wanted = recipe_for(plugin, recipe, overrides)
        data_of = stored.manifest.dataset
        same = (
            data_of is not None
            and data_of.fingerprint == dataset.fingerprint
            and stored.manifest.recipe == wanted.model_dump()
            and stored.manifest.prompt_hash == (prompt_hash(plugin) if isinstance(plugin, PromptedTask) else None)
            and stored.manifest.base.fingerprint == fingerprint(resolve(wanted.base).path)
        )
        if same:
            say(f"The adapter is there, trained on this dataset with this recipe: {stored.reference}")
            return stored
    unfinished = (store.root / ".runs" / name / "run.json").is_file()
    if unfinished:
        say("Going on with an unfinished training run")
    stored = train(task, data, name, recipe=recipe, overrides=overrides, resume=unfinished, store=store, steps=steps)
    say(f"Trained {stored.reference} in {stored.manifest.training['seconds']:.0f} s: {stored.path}")
    return stored


def _identity(task: PromptedTask, recipe: Recipe, dataset: Dataset, base: BaseModel) -> dict[str, Any]:
    """What must be the same for a stopped run to be gone on with."""
    return {
        "task": f"{task.name} version {task.version}",
        "prompt": task.template,
        "settings": dict(task.settings),
        "recipe": recipe.model_dump(),
        "dataset": dataset.fingerprint,
        "base": fingerprint(base.path).model_dump(),
    }


def _validator(task: PromptedTask, recipe: Recipe, dataset: Dataset, base: BaseModel, steps: Steps) -> Validator | None:
    records = dataset.records("validation")
    if not records:
        return None
    trial = None
    generated = records[: recipe.validation.generate_rows]
    if generated:
        retrieve = retrieving(task, dataset, progress=steps("Indexing"))
        trial = Trial(
            task, generated, retrieve, dataset.qrels(), dataset.relevant, max_new_tokens=recipe.max_new_tokens
        )
    return Validator(task, LocalEngine(base, precision=recipe.precision), records[: recipe.validation.rows], trial)


def _queries_beside(task: PromptedTask, dataset: Dataset, folder: Path) -> list[Path]:
    """The hashes of the queries that the adapter was trained on, and by which its checkpoint was chosen.

    A judge must not grade the topics that it has learnt (law 6). The dataset may be gone by the day it grades, and a
    manifest names only its fingerprint; so what is needed to tell goes with the weights. None for a task that reads
    no query.
    """
    if "query" not in task.reads.values():
        return []
    records = (record for split in ("train", "validation") for record in dataset.iter_records(split))
    return [write_training_queries(folder, (query for each in records if (query := task.query(each)) is not None))]
