"""The verb `train` for encoder tasks: an adapter in the store, or all weights in a model folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters import staging
from searchlora.adapters.references import check_name
from searchlora.adapters.store import Store
from searchlora.errors import NameTaken, RecipeError, TrainingError, UsageError
from searchlora.eval.formatting import write_json
from searchlora.experiments.training_runs import (
    TRAINING_RUN,
    TrainingJob,
    TrainingOptions,
    dataset_for,
    exclusive_run,
    run_folder,
    train_in,
    validation_measures,
)
from searchlora.experiments.validation import EncoderValidator
from searchlora.files import json_object
from searchlora.models.fingerprint import fingerprint
from searchlora.models.resolve import resolve
from searchlora.recipe import EncoderRecipe, load_encoder_recipe
from searchlora.records import Record
from searchlora.retrieval.retriever import Retriever
from searchlora.task import EncoderTask
from searchlora.training.contrastive import train_encoder
from searchlora.training.pairs import PairRow, pair_rows
from searchlora.training.training_run import TrainingResult

#: File beside the weights of a model trained in full: base, dataset, recipe, metrics and training summary.
TRAINING_FILE = "searchlora_training.json"


@dataclass(frozen=True)
class TrainedModel:
    """A model folder, and the summary of its training."""

    path: Path
    summary: dict[str, Any]

    @property
    def bytes(self) -> int:
        """Total size of all files."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


@dataclass(frozen=True)
class EncoderJob(TrainingJob):
    """Contrastive training of an encoder task."""

    task: EncoderTask
    recipe: EncoderRecipe

    def train(self, folder: Path, resume: bool) -> TrainingResult:
        records = self.dataset.records("train")
        return train_encoder(
            self.recipe,
            self.base,
            self._rows(records),
            folder,
            validate=self._validator(records),
            resume=resume,
            progress=self.steps("Training"),
        )

    def queries(self) -> Iterator[str]:
        return (
            self.task.query(record) for split in ("train", "validation") for record in self.dataset.iter_records(split)
        )

    def _validator(self, labelled: Sequence[Record]) -> EncoderValidator | None:
        """None if the validation split has no two pairs, for example one record per class."""
        records = self.dataset.records("validation")[: self.recipe.validation.rows]
        try:
            return EncoderValidator(self.task, self.recipe, self.base, records, labelled)
        except TrainingError:
            return None

    def _rows(self, records: Sequence[Record]) -> list[PairRow]:
        settings = self.recipe.negatives
        mined: dict[str, list[str]] = {}
        if settings.source != "none" and records and self.task.label(records[0]) is None:
            mined = self._mined(records)
        return pair_rows(self.task, records, mined=mined, negatives=settings.per_query, seed=self.recipe.seed)

    def _mined(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Hard negatives of the training records, mined from the dataset's documents."""
        from searchlora.models.load import load_encoder
        from searchlora.retrieval.bm25 import BM25Index
        from searchlora.retrieval.dense import DenseIndex
        from searchlora.retrieval.encoder import Encoder
        from searchlora.retrieval.mining import MiningConfig, MiningQuery, mine

        settings = self.recipe.negatives
        documents = self.dataset.documents()
        if not documents:
            raise RecipeError(
                f"negatives.source = '{settings.source}' needs documents, which the dataset lacks",
                where="recipe",
                fix="Build it with --corpus and --qrels, or set negatives.source=none.",
            )
        retrievers: list[Retriever] = []
        if settings.source in ("bm25", "both"):
            retrievers.append(BM25Index(documents, progress=self.steps("Indexing")))
        if settings.source in ("model", "both"):
            encoder = Encoder(load_encoder(self.base), self.base.name)
            retrievers.append(DenseIndex(documents, encoder, progress=self.steps("Encoding")))
        qrels = self.dataset.qrels() or {}
        sought = [
            MiningQuery(
                str(record["id"]),
                self.task.query(record),
                self.task.positives(record),
                {name for name, grade in qrels.get(str(record["id"]), {}).items() if grade > 0},
            )
            for record in records
        ]
        how = MiningConfig(settings.per_query, settings.depth, settings.skip, settings.margin, self.recipe.seed)
        return mine(sought, documents, retrievers, how, self.steps("Mining negatives"))


def encoder_job(task: EncoderTask, data: str | Path, options: TrainingOptions, *, full: bool = False) -> EncoderJob:
    """A training job of an encoder task.

    Args:
        full: Train all weights; False refuses a recipe that does.

    Raises:
        RecipeError: for a recipe that trains all weights, whose result is no adapter.
        UsageError: for several datasets.
        DataError, BaseModelError.
    """
    overrides = (*options.overrides, "full=true") if full else options.overrides
    recipe = load_encoder_recipe(task.default_recipe, options.recipe, overrides)
    if options.base is not None:
        recipe = recipe.model_copy(update={"base": options.base})
    if recipe.full and not full:
        raise RecipeError(
            "full = true trains a whole model, which is no adapter",
            where="recipe",
            fix="Give a folder for the model with --out.",
        )
    if options.more_data:
        raise UsageError("several datasets are for tasks with a prompt only", where="--data", fix="Build one dataset.")
    dataset = dataset_for(task, data)
    return EncoderJob(task.bound(dataset.settings), recipe, dataset, resolve(recipe.base), options.steps)


def train_full_model(
    task: EncoderTask,
    data: str | Path,
    name: str,
    out: str | Path,
    options: TrainingOptions,
    *,
    store: Store,
) -> TrainedModel:
    """Train all weights of an encoder and write the model to a new folder.

    Args:
        name: Of the training run, while it is unfinished.
        out: The folder: float32 safetensors, and `searchlora_training.json`.
        store: Holds the unfinished run.

    Raises:
        NameTaken: for an `out` that exists and is not empty, unless it is the result of the run being resumed.
        What `train.train` raises.
    """
    check_name(name)
    target = Path(out).absolute()
    is_free = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    if not is_free and not (options.resume and read_training_file(target)):
        raise NameTaken("the folder is not empty", where=str(out), fix="Give a folder that does not exist.")
    job = encoder_job(task, data, options, full=True)
    with exclusive_run(store, name):
        folder = run_folder(store, name, options, job.identity())
        summary = read_training_file(target).get("training", {})
        if not is_free and summary.get(TRAINING_RUN) != folder.id:
            raise NameTaken("the folder is not empty", where=str(out), fix="Give a folder that does not exist.")
        if is_free:
            result = train_in(job, store, name, folder, options)
            summary = {**result.summary, TRAINING_RUN: folder.id}
            _write_model(job, result, summary, target)
        folder.remove()
    return TrainedModel(target, summary)


def _write_model(job: EncoderJob, result: TrainingResult, summary: dict[str, Any], target: Path) -> None:
    with staging.staging_folder(target.parent) as new:
        shutil.copytree(result.adapter, new, dirs_exist_ok=True)
        content = {
            "task": f"{job.task.name} version {job.task.version}",
            "base": {"name": job.base.name, "fingerprint": fingerprint(job.base.path).model_dump()},
            "dataset": job.dataset.fingerprint,
            "recipe": job.recipe.model_dump(),
            "metrics": validation_measures(result),
            "training": summary,
        }
        write_json(new / TRAINING_FILE, content)
        staging.publish(new, target)


def read_training_file(folder: str | Path) -> dict[str, Any]:
    """The `searchlora_training.json` of a model; empty for a model that `train_full_model` did not write."""
    file = Path(folder) / TRAINING_FILE
    return json_object(file.read_text(encoding="utf-8", errors="surrogateescape"), str(file)) if file.is_file() else {}
