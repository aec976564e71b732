"""The verb `improve`: an adapter learns from its own measure, by rejection-sampling fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from searchlora.adapters.references import check_name
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.collection import CORPUS_FILE
from searchlora.data.dataset import Dataset
from searchlora.errors import RecipeError, UsageError
from searchlora.eval.measures import parse_measure
from searchlora.experiments.improve.job import DEFAULT_PIPELINE, ImproveJob
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.start import Start, check_unseen
from searchlora.experiments.training_runs import dataset_for, train_and_store
from searchlora.inference.settings import EngineSettings, LocalSettings
from searchlora.models.devices import chosen_gpu
from searchlora.models.memory import base_parameters
from searchlora.models.resolve import resolve
from searchlora.progress import Steps, no_log, no_progress
from searchlora.recipe import for_size, load_recipe
from searchlora.task import GenerationTask, load_generation_task

#: Rows of a batch of samples, unless the engine's settings say otherwise.
BATCH_ROWS = 64


def improve(
    adapter: str | None,
    data: str | Path,
    name: str,
    options: TrainingOptions = TrainingOptions(),
    *,
    pipeline: str | Path | Sequence[str | Path] = DEFAULT_PIPELINE,
    index: str | Path | None = None,
    engine: EngineSettings | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    log: Callable[[str], None] | None = None,
    steps: Steps = no_progress,
) -> StoredAdapter:
    """Improve an adapter on its task's reward, and store the result as the next version of `name`.

    In each round the adapter samples candidates for the training rows; the task rewards them together with the rows'
    references, the unchanged inputs and its rules; a new adapter is trained on the best ones. The round whose greedy
    outputs have the highest reward on the validation rows is stored, with `improve.json` and `improve.md`
    beside its weights. An interrupted run stays in the store (`.runs/NAME`), as with `train`.

    Args:
        adapter: A reference; None starts from the bare base of the recipe, with the rules' best in the first round.
        data: A dataset folder of the adapter's task. Its rows need judgments, not references.
        name: Of the improved adapter.
        options: The section `improve` is the recipe's part for this verb. The default is the recipe of the adapter.
        pipeline: A pipeline whose retrieve stage rewards rewrites: a YAML file, or a built-in name such as `hybrid`.
            The rewards of several are averaged; the first one chooses the words of the rule `listed_words`.
        index: An index folder of the dataset's corpus.jsonl for these pipelines; None: it is indexed for this run.
        engine: Where candidates are sampled and rounds are validated; None: in this process. A server must be able to
            load the adapters of the rounds: `searchlora serve` on the same store, or vLLM with `load`.
        store: The adapter store; SEARCHLORA_STORE or `./store` if None.
        tasks: A folder of task plugins.
        log: Receives a sentence about the GPU that is chosen of several; with `options.reuse`, about what is reused,
            resumed or done.
        steps: Progress of each step.

    Raises:
        RecipeError, DataError, BaseModelError, InvalidName, NameTaken, NotInStore: before anything is computed.
        UsageError: for an adapter of another task, or one that was trained on test rows of the dataset; for an index
            of other documents, or with a task that writes no query.
        TrainingError: for an unfinished run without `resume` or `restart`, or rows of which none can be rewarded.
        LoadCheckFailed: for an adapter that does not pass verification; its run is kept.
        EngineError: if a server cannot be asked, or loads no adapters.
    """
    store = Store.of(store)
    check_name(name)
    with chosen_gpu(log or no_log):
        job = _job(adapter, data, options, pipeline, index, store, tasks, engine, steps)
        if job.start is not None:
            check_unseen(store, job.start, job.task, job.dataset)
        return train_and_store(job, name, store, options, log)


def _job(
    reference: str | None,
    data: str | Path,
    options: TrainingOptions,
    pipeline: str | Path | Sequence[str | Path],
    index: str | Path | None,
    store: Store | str,
    tasks: str | Path | None,
    engine: EngineSettings | None,
    steps: Steps,
) -> ImproveJob:
    from searchlora.data.dataset import load_dataset

    store = Store.of(store)

    if options.more_data:
        raise UsageError("improve samples for the rows of one dataset", where="more_data", fix="Leave it out.")
    if options.start_from is not None:
        raise UsageError("improve starts from the adapter that it improves", where="start_from", fix="Leave it out.")
    parent = store.get(store.pin(reference)) if reference is not None else None
    task = load_generation_task(parent.manifest.task if parent else load_dataset(data).card.task, tasks)
    dataset = dataset_for(task, data)
    task = task.bound(dataset.settings)
    if index is not None:
        _check_index(Path(index), task, dataset)
    start = None if parent is None else Start.of(store, parent.reference, task)
    default = task.default_recipe if start is None else start.recipe.model_dump()
    recipe = load_recipe(default, options.recipe, options.settings)
    if recipe.is_full:
        raise RecipeError(
            "improve trains adapters, not all weights", where="recipe", fix="Set method=lora or qlora, on an adapter."
        )
    if recipe.improve.reward is not None and task.writes == "query":
        parse_measure(recipe.improve.reward)
    if start is not None and recipe.improve.start == "adapter":
        start.check(recipe, "Or set improve.start=base.")
    base = resolve(recipe.base) if start is None else start.base(recipe)
    if start is None:
        default = for_size(default, base_parameters(base.path))
        recipe = load_recipe(default, options.recipe, options.settings)
    settings = engine or LocalSettings(max_num_seqs=BATCH_ROWS)
    settings.check_recipe(recipe, "recipe")
    reference = parent.reference if parent else None
    return ImproveJob(
        task,
        recipe,
        dataset,
        base,
        partial(_job, reference, data, options, pipeline, index, store.place, tasks, engine),
        steps,
        parent,
        store=store,
        pipelines=tuple(map(str, [pipeline] if isinstance(pipeline, str | Path) else pipeline)),
        index=None if index is None else Path(index),
        engine=settings,
    )


def _check_index(index: Path, task: GenerationTask, dataset: Dataset) -> None:
    """Raise `UsageError` unless an index is of the dataset's documents, which the task retrieves."""
    from searchlora.retrieval.index_manifest import read_manifest

    if task.writes != "query":
        raise UsageError(f"the task '{task.name}' retrieves nothing", where="index", fix="Leave it out.")
    if read_manifest(index).corpus.content != (dataset.card.files.get(CORPUS_FILE), {}):
        raise UsageError(
            f"is not an index of {dataset.folder / CORPUS_FILE}",
            where=str(index),
            fix="Build one of this file: searchlora index build.",
        )
