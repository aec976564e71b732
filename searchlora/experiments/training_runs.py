"""Training runs of all task kinds: folder, lock, identity, resuming, and storing the result exactly once."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from searchlora.adapters.ancestry import training_queries, write_training_queries
from searchlora.adapters.manifest import TEACHERS, TRAINING_RUN, Precision
from searchlora.adapters.manifest import Dataset as ManifestDataset
from searchlora.adapters.operations import Origin, store_adapter
from searchlora.adapters.references import check_name
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.data.mixture import Mixture
from searchlora.errors import DataError, RecipeError, TrainingError
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.start import Start
from searchlora.files import parse_json
from searchlora.models.fingerprint import fingerprint
from searchlora.models.resolve import BaseModel
from searchlora.progress import Steps, no_log, no_progress
from searchlora.recipe import AnyRecipe, for_size, load_encoder_recipe, load_recipe
from searchlora.task import EncoderTask, Task
from searchlora.training.processes import run_in_child
from searchlora.training.training_run import TrainingResult

_RUN = "run.json"

#: Environment variable with the folder of TensorBoard's files, which transformers reads.
_TENSORBOARD = "TENSORBOARD_LOGGING_DIR"

#: Seconds in which the training process of a killed one ends.
_CHILD_ENDS = 60.0

#: Key of the dataset card in a manifest: the further datasets of a training run.
MORE_DATA = "more data"


@dataclass(frozen=True)
class TrainingJob(ABC):
    """What is trained: a task's dataset and recipe on a base. Subclasses implement a kind of training.

    Attributes:
        task: Bound to the settings of the dataset.
        base: The resolved base of the recipe.
        rebuild: Makes this job in another process, from the steps of that process.
        start: The adapter to train further; None: a new one.
        verb: Past participle of what the job does, for messages.
    """

    verb: ClassVar[str] = "trained"

    task: Task
    recipe: AnyRecipe
    dataset: Dataset
    base: BaseModel
    rebuild: Callable[[Steps], TrainingJob] = field(compare=False)
    steps: Steps = field(default=no_progress, compare=False)
    start: StoredAdapter | None = None

    @abstractmethod
    def train(self, folder: Path, resume: bool) -> TrainingResult:
        """Train in the folder of a training run; in a process of its own (`train_in`)."""

    def with_smaller_batches(self, recipe: AnyRecipe) -> AnyRecipe | None:
        """The recipe with the same rows per step in smaller batches, for memory that ran out; None if it has none."""
        del recipe
        return None

    @property
    def mixture(self) -> Mixture:
        """The training rows: those of the dataset, and of further ones where a kind of training takes them."""
        return Mixture(self.task, self.dataset)

    @abstractmethod
    def queries(self) -> Iterable[str] | None:
        """The queries of training and validation records; None for a task that reads no query.

        A judge must not grade queries that it was trained on. The dataset may be deleted by then, so hashes of the
        queries are stored with the weights.
        """

    def parents(self) -> Sequence[StoredAdapter]:
        """The adapters from which this one is made; their training queries count as its own."""
        return () if self.start is None else (self.start,)

    def tune(self, adapter: Path) -> Mapping[str, Any]:
        """Values chosen on validation rows with the trained adapter, see `Task.tune`."""
        del adapter
        return {}

    def identity(self) -> dict[str, Any]:
        """What must be unchanged to resume an interrupted run."""
        return {
            "task": f"{self.task.name} version {self.task.version}",
            "settings": dict(self.task.settings),
            "recipe": self.recipe.model_dump(),
            **self.data(),
            "base": fingerprint(self.base.path).model_dump(),
            "adapter to start from": self.start.reference if self.start else None,
        }

    def data(self) -> dict[str, Any]:
        """Fingerprints of the datasets, by what they are for."""
        return {"dataset": self.dataset.fingerprint, "more data": self.mixture.identity()}

    def _read(self, recipe: Mapping[str, Any]) -> AnyRecipe | None:
        """The recipe of a manifest, also of an older one; None if it is none today."""
        try:
            return type(self.recipe).model_validate(recipe)
        except (ValidationError, RecipeError):
            return None

    def produced(self, stored: StoredAdapter) -> bool:
        """Whether a stored version came from this version of the task, recipe, dataset and base."""
        manifest = stored.manifest
        return (
            manifest.task == self.task.name
            and manifest.task_version == self.task.version
            and manifest.dataset is not None
            and manifest.dataset.fingerprint == self.dataset.fingerprint
            and _more_data(manifest.dataset.card) == self.mixture.identity()
            and self._read(manifest.recipe) == self.recipe
            and manifest.base.fingerprint == fingerprint(self.base.path)
            and manifest.parents == [parent.reference for parent in self.parents()]
        )


@dataclass(frozen=True)
class TrainingRunFolder:
    """The folder of a training run, `.runs/NAME` in the store."""

    path: Path
    id: str

    def remove(self) -> None:
        """Delete the folder, `run.json` last, so that a process killed meanwhile leaves a recognisable run."""
        for entry in self.path.iterdir():
            if entry.name == _RUN:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        shutil.rmtree(self.path)


def train_and_store(
    job: TrainingJob, name: str, store: Store, options: TrainingOptions, log: Callable[[str], None] | None = None
) -> StoredAdapter:
    """Train, verify and store the next version of `name`; exactly one, however often it is killed and resumed."""
    check_name(name)
    log = log if log is not None and options.reuse else no_log
    if options.reuse:
        if stored := _newest_of(store, name, job):
            _remove_finished_run(store, stored)
            log(f"Reusing {stored.reference}, {job.verb} on this dataset with this recipe")
            return stored
        is_unfinished = _run_file(store, name).is_file()
        options = replace(options, resume=is_unfinished and not options.restart)
        if is_unfinished:
            log("Discarding an unfinished training run" if options.restart else "Resuming an unfinished training run")
    store.check_task(name, job.task.name)
    with _exclusive_run(store, name):
        if options.resume and not _run_file(store, name).is_file() and (stored := _newest_of(store, name, job)):
            return stored  # killed after the run was deleted
        folder = _run_folder(store, name, options, job.identity())
        stored = store.stored_by(name, folder.id) if options.resume else None
        if stored is None:
            result = train_in(job, store, name, folder, options)
            stored = _store(job, name, store, result, folder.id)
        folder.remove()
    seconds = float(stored.manifest.training["seconds"])
    log(f"{job.verb.capitalize()} {stored.reference} in {seconds:.0f} s: {stored.path}")
    return stored


def train_in(
    job: TrainingJob, store: Store, name: str, folder: TrainingRunFolder, options: TrainingOptions
) -> TrainingResult:
    """Train in the folder of a run, in a child process. TensorBoard files outlive it in `.logs/NAME` unless the user
    chose a folder.

    After memory ran out, a further process continues from the last checkpoint in smaller batches, with the same rows
    per step. transformers' `auto_find_batch_size` would change the rows of a step, and begin anew with trained weights.
    """
    from searchlora.inference.out_of_memory import is_out_of_memory

    chosen = os.environ.get(_TENSORBOARD)
    os.environ.setdefault(_TENSORBOARD, str(store.root / ".logs" / name))
    try:
        recipe, resume = job.recipe, options.resume
        while True:
            work = partial(_train, job.rebuild, job.data(), recipe, job.base, folder.path, resume)
            try:
                return run_in_child(work, job.steps, where=str(folder.path))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                smaller = job.with_smaller_batches(recipe)
                if smaller is None:
                    raise TrainingError(
                        "memory ran out",
                        where=str(folder.path),
                        fix="Lower optim.batch_size or set optim.gradient_checkpointing=true, and use --restart.",
                    ) from error
                recipe, resume = smaller, True
    finally:
        if chosen is None:  # else it would be the folder of the next name, too
            os.environ.pop(_TENSORBOARD, None)


def _train(
    rebuild: Callable[[Steps], TrainingJob],
    data: Mapping[str, Any],
    recipe: AnyRecipe,
    base: BaseModel,
    folder: Path,
    resume: bool,
    steps: Steps,
) -> TrainingResult:
    """In the child: train with the recipe and the base of the parent; refuse a dataset that was built again."""
    from filelock import FileLock

    with FileLock(folder.with_name(f"{folder.name}@child.lock"), timeout=0):
        job = rebuild(steps)
        if job.data() != data:
            raise TrainingError(
                "a dataset was built again after the run began", where=str(folder), fix="Train on it with --restart."
            )
        return replace(job, recipe=recipe, base=base).train(folder, resume)


def _store(job: TrainingJob, name: str, store: Store, result: TrainingResult, run_id: str) -> StoredAdapter:
    best = result.summary["best"] or {}
    measured = {f"validation {key}": value for key, value in best.items() if key != "step"}
    parents = [parent.reference for parent in job.parents()]
    seen = [training_queries(store, parent) for parent in parents]
    teachers = job.mixture.teachers()
    extra_files = [result.folder / "metrics.jsonl", result.folder / "loss.svg", *result.files]
    if (queries := job.queries()) is not None and None not in seen:
        known = {digest for hashes in seen if hashes is not None for digest in hashes}
        extra_files.append(write_training_queries(result.folder, queries, known))
    return store_adapter(
        store,
        name,
        result.adapter,
        task=job.task,
        recipe=job.recipe,
        base=job.base,
        origin=Origin(
            dataset=ManifestDataset(fingerprint=job.dataset.fingerprint, card=_dataset_summary(job)),
            metrics=measured,
            evaluated=(Precision(quantization=result.validated, precision=job.recipe.precision) if measured else None),
            training={**result.summary, TRAINING_RUN: run_id, **({TEACHERS: teachers} if teachers else {})},
            tuned=job.tune(result.adapter),
            parents=parents,
        ),
        extra_files=extra_files,
    )


def _newest_of(store: Store, name: str, job: TrainingJob) -> StoredAdapter | None:
    """The newest version of a name if this job produced it."""
    if not store.versions(name):
        return None
    stored = store.get(name)
    return stored if job.produced(stored) else None


def _remove_finished_run(store: Store, stored: StoredAdapter) -> None:
    """Delete the training run of a stored version, if a killed process left it."""
    name = stored.manifest.name
    run = _read_run(_run_file(store, name))
    if run and run.get("id") == stored.manifest.training.get(TRAINING_RUN, ""):
        TrainingRunFolder(_run_file(store, name).parent, str(run["id"])).remove()


@contextmanager
def _exclusive_run(store: Store, name: str) -> Iterator[None]:
    """Hold the lock of a name's training run in a store that can be written.

    Raises `TrainingError` if another process trains it, and as `Store.check_writable`.

    The child of a killed process ends a moment after it; until then it holds a lock of its own.
    """
    from filelock import FileLock, Timeout

    store.check_writable()
    runs = store.root / ".runs"
    with ExitStack() as held:
        try:
            runs.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(runs / f"{name}@run.lock", timeout=0))
            with FileLock(runs / f"{name}@child.lock", timeout=_CHILD_ENDS):
                pass
        except Timeout:
            raise TrainingError(f"'{name}' is being trained by another process", where=str(runs / name)) from None
        except OSError as error:
            raise TrainingError(f"cannot be written ({error.strerror})", where=str(runs)) from error
        yield


def _run_folder(store: Store, name: str, options: TrainingOptions, identity: Mapping[str, Any]) -> TrainingRunFolder:
    """The folder of a new run, or of an interrupted run that may be resumed."""
    file = _run_file(store, name)
    folder = file.parent
    if options.restart:
        shutil.rmtree(folder, ignore_errors=True)
    run = _read_run(file)
    if run is not None:
        if not options.resume:
            raise TrainingError(
                f"there is an unfinished run of '{name}'",
                where=str(folder),
                fix="Continue it with --resume, or delete it with --restart.",
            )
        changed = [key for key, value in identity.items() if run.get(key) != value]
        if changed:
            raise TrainingError(
                f"the unfinished run of '{name}' had another {' and another '.join(changed)}",
                where=str(folder),
                fix="Resume it with the same inputs, or delete it: with --restart, or this folder by hand.",
            )
        if "id" in run:
            return TrainingRunFolder(folder, str(run["id"]))
    elif options.resume:
        raise TrainingError(f"there is no unfinished run of '{name}' to resume", where=str(folder))
    run = {**identity, "id": uuid.uuid4().hex}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(run), encoding="utf-8")
        temporary.replace(file)
    except OSError as error:
        raise TrainingError(f"cannot be written ({error.strerror})", where=str(folder), fix="Make room.") from error
    return TrainingRunFolder(folder, str(run["id"]))


def _run_file(store: Store, name: str) -> Path:
    return store.root / ".runs" / name / _RUN


def _read_run(file: Path) -> dict[str, Any] | None:
    """The content of a `run.json`; None if there is none."""
    try:
        return dict(parse_json(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"cannot be read ({error})", where=str(file), fix="Delete the run with --restart."
        ) from None


def dataset_for(task: Task, data: str | Path) -> Dataset:
    """A dataset of a task, unchanged since it was built. Raises `DataError`."""
    dataset = load_dataset(Path(data), task)
    if dataset.card.task != task.name:
        raise DataError(f"is a dataset of the task '{dataset.card.task}', not of '{task.name}'", where=str(data))
    dataset.verify()
    return dataset


def recipe_for(
    task: Task,
    file: str | Path | None = None,
    overrides: Sequence[str] = (),
    start: Start | None = None,
    parameters: int | None = None,
) -> AnyRecipe:
    """A task's recipe, overridden by a user's file and by `key=value` settings. Raises `RecipeError`."""
    load = load_encoder_recipe if isinstance(task, EncoderTask) else load_recipe
    default = task.default_recipe if start is None else start.default(task.default_recipe)
    recipe = load(default if parameters is None else for_size(default, parameters), file, overrides)
    if start is not None:
        start.check(recipe)
    return recipe


def _dataset_summary(job: TrainingJob) -> dict[str, Any]:
    """The part of a dataset card that a manifest records, and the further datasets."""
    card, more = job.dataset.card, job.mixture.summary()
    about = {"format": card.format, "source": card.source["name"], "seed": card.seed, "rows": dict(card.rows)}
    return {**about, **({MORE_DATA: more} if more else {})}


def _more_data(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Fingerprint and weight of the further datasets of a manifest, as `Mixture.identity`."""
    return [{"fingerprint": more["fingerprint"], "weight": more["weight"]} for more in card.get(MORE_DATA, [])]
