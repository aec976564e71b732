"""The verb `train` for an encoder task: an adapter into the store, or all weights into a model folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters import files
from searchlora.adapters.ancestry import write_training_queries
from searchlora.adapters.manifest import Dataset as TrainedOn
from searchlora.adapters.manifest import Precision
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.references import check_name
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.errors import NameTaken, RecipeError, TrainingError
from searchlora.eval.formatting import write_json
from searchlora.experiments.encoder_validation import EncoderValidator
from searchlora.experiments.training_runs import dataset_for, measures, only_run, run_folder, summary
from searchlora.models.fingerprint import fingerprint
from searchlora.models.resolve import BaseModel, resolve
from searchlora.progress import Steps, unwatched
from searchlora.recipe import EncoderRecipe, load_encoder_recipe
from searchlora.records import Record
from searchlora.retrieval.retriever import Retriever
from searchlora.task import EncoderTask
from searchlora.training.contrastive import train_encoder
from searchlora.training.pairs import PairRow, pair_rows
from searchlora.training.training_run import TrainingResult

#: Beside the weights of a model that was trained in full: what it was made from.
ABOUT = "searchlora_training.json"


@dataclass(frozen=True)
class TrainedModel:
    """A model folder, and what training it took."""

    path: Path
    summary: dict[str, Any]

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def train_encoder_adapter(
    task: EncoderTask,
    data: str | Path,
    name: str,
    *,
    base: str | None = None,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    restart: bool = False,
    store: Store,
    steps: Steps = unwatched,
) -> StoredAdapter:
    """As `train.train`, for an encoder task.

    Raises:
        RecipeError: also for a recipe that trains all weights, whose outcome is no adapter.
    """
    wanted = _recipe(task, base, recipe, overrides)
    if wanted.full:
        raise RecipeError(
            "full = true trains a whole model, which is no adapter",
            where="recipe",
            fix="Give a folder for the model with --out.",
        )
    check_name(name)
    store.check_task(name, task.name)
    dataset = dataset_for(task, data)
    with _trained(task.bound(dataset.settings), wanted, dataset, name, resume, restart, store, steps) as (
        model,
        trained,
    ):
        found = measures(trained)
        queries = (task.query(each) for split in ("train", "validation") for each in dataset.iter_records(split))
        return store_adapter(
            store,
            name,
            trained.adapter,
            task=task,
            recipe=wanted,
            base=model,
            dataset=TrainedOn(fingerprint=dataset.fingerprint, card=summary(dataset)),
            metrics=found,
            evaluated=Precision(quantization="none", precision="fp32") if found else None,
            training=trained.summary,
            extra_files=[
                trained.folder / "metrics.jsonl",
                trained.folder / "loss.svg",
                write_training_queries(trained.folder, queries),
            ],
        )


def train_full_model(
    task: EncoderTask,
    data: str | Path,
    name: str,
    out: str | Path,
    *,
    base: str | None = None,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    restart: bool = False,
    store: Store,
    steps: Steps = unwatched,
) -> TrainedModel:
    """Train all weights of an encoder, on the same rows and by the same recipe, and write the model to a new folder.

    Args:
        name: Of the run, while it is unfinished.
        out: The folder; float32 safetensors, with what it was made from in `searchlora_training.json`.

    Raises:
        NameTaken: when there is something in `out`.
        What `train.train` raises.
    """
    wanted = _recipe(task, base, recipe, (*overrides, "full=true"))
    target = Path(out).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise NameTaken("there is something already", where=str(out), fix="Give a folder that does not exist.")
    check_name(name)
    dataset = dataset_for(task, data)
    with (
        _trained(task.bound(dataset.settings), wanted, dataset, name, resume, restart, store, steps) as (
            under,
            trained,
        ),
        files.whole_folder(target.parent) as new,
    ):
        shutil.copytree(trained.adapter, new, dirs_exist_ok=True)
        about = {
            "task": f"{task.name} version {task.version}",
            "base": {"name": under.name, "fingerprint": fingerprint(under.path).model_dump()},
            "dataset": dataset.fingerprint,
            "recipe": wanted.model_dump(),
            "metrics": measures(trained),
            "training": trained.summary,
        }
        write_json(new / ABOUT, about)
        files.publish(new, target)
    return TrainedModel(target, trained.summary)


def read_about(folder: str | Path) -> dict[str, Any]:
    """What `train_full_model` wrote beside a model; empty for a model that came from elsewhere."""
    file = Path(folder) / ABOUT
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _recipe(task: EncoderTask, base: str | None, recipe: str | Path | None, overrides: Sequence[str]) -> EncoderRecipe:
    wanted = load_encoder_recipe(task.default_recipe, recipe, overrides)
    return wanted if base is None else wanted.model_copy(update={"base": base})


@contextmanager
def _trained(
    task: EncoderTask,
    recipe: EncoderRecipe,
    dataset: Dataset,
    name: str,
    resume: bool,
    restart: bool,
    store: Store,
    steps: Steps,
) -> Iterator[tuple[BaseModel, TrainingResult]]:
    """The base and a finished run, whose folder is there until its outcome is kept."""
    base = resolve(recipe.base)
    records = dataset.records("train")
    with only_run(store, name):
        folder = run_folder(store, name, resume, restart, _identity(task, recipe, dataset, base))
        # Where the user says nothing else, TensorBoard's files outlive the run's folder.
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(store.root / ".logs" / name))
        trained = train_encoder(
            recipe,
            base,
            _rows(task, recipe, dataset, records, base, steps),
            folder,
            validate=_validator(task, recipe, base, dataset, records),
            resume=resume,
            progress=steps("Training"),
        )
        yield base, trained
        shutil.rmtree(folder)


def _validator(
    task: EncoderTask, recipe: EncoderRecipe, base: BaseModel, dataset: Dataset, known: Sequence[Record]
) -> EncoderValidator | None:
    """None where the validation split has no two pairs (each class once, say)."""
    records = dataset.records("validation")[: recipe.validation.rows]
    try:
        return EncoderValidator(task, recipe, base, records, known)
    except TrainingError:
        return None


def _identity(task: EncoderTask, recipe: EncoderRecipe, dataset: Dataset, base: BaseModel) -> dict[str, Any]:
    """What must be the same for a stopped run to be gone on with."""
    return {
        "task": f"{task.name} version {task.version}",
        "settings": dict(task.settings),
        "recipe": recipe.model_dump(),
        "dataset": dataset.fingerprint,
        "base": fingerprint(base.path).model_dump(),
    }


def _rows(
    task: EncoderTask,
    recipe: EncoderRecipe,
    dataset: Dataset,
    records: Sequence[Record],
    base: BaseModel,
    steps: Steps,
) -> list[PairRow]:
    wanted = recipe.negatives
    mined: dict[str, list[str]] = {}
    if wanted.source != "none" and records and task.label(records[0]) is None:
        mined = _mined(task, recipe, dataset, records, base, steps)
    return pair_rows(task, records, mined=mined, negatives=wanted.per_query, seed=recipe.seed)


def _mined(
    task: EncoderTask,
    recipe: EncoderRecipe,
    dataset: Dataset,
    records: Sequence[Record],
    base: BaseModel,
    steps: Steps,
) -> dict[str, list[str]]:
    """Hard negatives of the training records, among the dataset's documents."""
    from searchlora.models.load import load_encoder
    from searchlora.retrieval.bm25 import BM25Index
    from searchlora.retrieval.dense import DenseIndex
    from searchlora.retrieval.encoder import Encoder
    from searchlora.retrieval.mining import Mining, Sought, mine

    wanted = recipe.negatives
    documents = dataset.documents()
    if not documents:
        raise RecipeError(
            f"negatives.source = '{wanted.source}' needs documents to look in, which the dataset has not",
            where="recipe",
            fix="Build it with --corpus and --qrels, or set negatives.source=none.",
        )
    retrievers: list[Retriever] = []
    if wanted.source in ("bm25", "both"):
        retrievers.append(BM25Index(documents, progress=steps("Indexing")))
    if wanted.source in ("model", "both"):
        encoder = Encoder(load_encoder(base), base.name)
        retrievers.append(DenseIndex(documents, encoder, progress=steps("Encoding")))
    qrels = dataset.qrels() or {}
    sought = [
        Sought(
            str(record["id"]),
            task.query(record),
            task.positives(record),
            {name for name, grade in qrels.get(str(record["id"]), {}).items() if grade > 0},
        )
        for record in records
    ]
    how = Mining(wanted.per_query, wanted.depth, wanted.skip, wanted.margin, recipe.seed)
    return mine(sought, documents, retrievers, how, steps("Mining negatives"))
