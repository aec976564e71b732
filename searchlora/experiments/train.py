"""The verb `train`: train an adapter on a dataset with a recipe, verify it and store it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

from searchlora.adapters.golden import prompt_hash
from searchlora.adapters.references import check_name
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.data.mixture import Mixture
from searchlora.errors import UsageError
from searchlora.eval.significance import detectable_effect
from searchlora.experiments.encoder_train import EncoderJob, pinned
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.start import Start, check_unseen
from searchlora.experiments.training_runs import (
    TrainingJob,
    dataset_for,
    recipe_for,
    train_and_store,
)
from searchlora.experiments.validation import Validator
from searchlora.models.devices import chosen_gpu
from searchlora.models.memory import base_parameters
from searchlora.models.processor import uses_gpu
from searchlora.models.resolve import BaseModel, public_name, resolve
from searchlora.progress import Steps, no_log, no_progress
from searchlora.recipe import AnyRecipe, EncoderRecipe, Recipe, for_size
from searchlora.records import drawn
from searchlora.systems.measures import TaskMeasures, retrieval_stage
from searchlora.task import EncoderTask, GenerationTask, Task, generation_task, load_task
from searchlora.training.sft import train_adapter
from searchlora.training.training_run import TrainingResult

#: Standard deviation over queries of the difference of two systems. In the results of `benchmarks` it is about .2 for
#: nDCG@10, .3 for accuracy and .4 for MRR.
_SPREAD = 0.3


def train(
    task: str,
    data: str | Path,
    name: str,
    options: TrainingOptions = TrainingOptions(),
    *,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    log: Callable[[str], None] | None = None,
    steps: Steps = no_progress,
) -> StoredAdapter:
    """Train an adapter, or a whole model, on a dataset, verify it, and store it as the next version of `name`.

    An interrupted run stays in the store (`.runs/NAME`) until it is resumed or restarted. Resuming a run that was
    killed after it stored its version returns that version.

    Args:
        task: Name of a prompted task or of an encoder task.
        data: A dataset folder of that task.
        name: Of the adapter.
        options: Recipe, base and further data.
        store: The adapter store; SEARCHLORA_STORE or `./store` if None.
        tasks: A folder of task plugins.
        log: Receives a sentence about the GPU that is chosen of several, one about the weights, and one about rows,
            epochs and the test split; with `options.reuse`, about what is reused, resumed or done. After memory ran
            out, one about smaller batches.

    Raises:
        RecipeError, DataError, BaseModelError, InvalidName, NameTaken: before anything is trained.
        TrainingError: for an unfinished run without `resume` or `restart`, or one with other inputs.
        LoadCheckFailed: for a trained adapter that does not pass verification; its run is kept.
    """
    store = Store.of(store)
    check_name(name)
    if options.start_from is not None:
        pinned_start = store.pin(options.start_from)
        if options.start_from == name:  # the next call, or `resume`, would start from what this one stores
            raise UsageError(
                f"the newest '{name}' will be another one",
                where="--start-from",
                fix=f"Name the version: {pinned_start}.",
            )
        options = replace(options, start_from=pinned_start)
    with chosen_gpu(log or no_log):
        job = _job(task, data, options, tasks, store, steps, log)
        for parent in job.parents():
            check_unseen(store, parent, job.task, job.dataset)
        if log is not None and not options.reuse:
            log(_trained(job))
            log(_plan(job))
            if isinstance(job, PromptedJob):
                for warning in (_rate_warning(job.recipe, job.base), _dropout_warning(job.recipe)):
                    if warning is not None:
                        log(warning)
        return train_and_store(job, name, store, options, log)


def _job(
    task: str,
    data: str | Path,
    options: TrainingOptions,
    tasks: str | Path | None,
    store: Store | str,
    steps: Steps,
    log: Callable[[str], None] | None = None,
) -> TrainingJob:
    """The training job of a task."""
    store = Store.of(store)
    plugin = load_task(task, tasks)
    if not isinstance(plugin, EncoderTask):
        generation_task(plugin)
    elif options.more_data:
        raise UsageError("several datasets are for tasks with a prompt only", where="--data", fix="Build one dataset.")
    dataset = dataset_for(plugin, data)
    bound = plugin.bound(dataset.settings)
    start = None if options.start_from is None else Start.of(store, options.start_from, bound)
    recipe = recipe_for(bound, options.recipe, options.settings, start)
    base = resolve(recipe.base) if start is None else start.base(recipe)
    adapter = None if start is None else start.adapter
    rebuild = partial(_job, task, data, options, tasks, store.place)
    if isinstance(bound, EncoderTask):
        assert isinstance(recipe, EncoderRecipe)
        return EncoderJob(bound, pinned(recipe, bound, base, store), dataset, base, rebuild, steps, adapter, store)
    assert isinstance(bound, GenerationTask) and isinstance(recipe, Recipe)
    more = tuple((dataset_for(bound, folder), weight) for folder, weight in options.more_data.items())
    bound.check_training(Mixture(bound, dataset, more).rows()[0])
    recipe = recipe_for(bound, options.recipe, options.settings, start, base_parameters(base.path))
    assert isinstance(recipe, Recipe)
    return PromptedJob(bound, recipe, dataset, base, rebuild, steps, adapter, more, log)


def _trained(job: TrainingJob) -> str:
    """What is trained on which base."""
    recipe = job.recipe
    what = "all weights" if recipe.is_full else f"A and B of rank {recipe.lora.r}"
    parameters = base_parameters(job.base.path)
    return f"Training {what} of {public_name(job.base.name)} ({parameters:,} parameters, method {recipe.method})."


def _rate_warning(recipe: Recipe, base: BaseModel) -> str | None:
    """A warning of a learning rate that is higher than usual for the size of the base, as one for a smaller base is."""
    name = "full_learning_rate" if recipe.is_full else "learning_rate"
    parameters, rate = base_parameters(base.path), getattr(recipe.optim, name)
    usual = for_size({"optim": {name: rate}}, parameters)["optim"][name]
    if rate <= usual:
        return None
    return (
        f"warning: the learning rate {rate:g} is above {usual:g}, the usual one for {parameters:,} parameters: if it "
        f"was chosen for a smaller base, training may fail. `--set optim.{name}={usual:g}` changes it."
    )


def _dropout_warning(recipe: Recipe) -> str | None:
    """A warning of dropout on a CPU, where the compiled kernels train without it."""
    if recipe.is_full or not recipe.lora.dropout or uses_gpu():
        return None
    return (
        f"warning: with dropout {recipe.lora.dropout:g}, PyTorch computes the layers. Without it, the compiled kernels "
        "do for most bases, several times as fast: `--set lora.dropout=0`."
    )


def _plan(job: TrainingJob) -> str:
    """How much is trained, and what an evaluation on the test split will be able to tell."""
    optim = job.recipe.optim
    rows = sum(card.rows["train"] for card in (job.dataset.card, *(other.card for other, _ in job.mixture.more)))
    number, unit = (optim.epochs, "epoch") if optim.max_steps is None else (optim.max_steps, "step")
    length = f"{number:g} {unit}{'' if number == 1 else 's'}"
    groups = job.dataset.card.groups["test"]
    detectable = detectable_effect(groups) * _SPREAD
    tested = (
        f"The {groups:,} groups of the test split detect a difference of {detectable:.2f} (power .8, standard deviation"
        f" of the differences {_SPREAD}); `data build --split-ratios` gives more."
        if groups > 1
        else "The test split is too small to evaluate on; `data build --split-ratios` gives more."
    )
    return f"{rows:,} training rows, {length}. {tested}"


@dataclass(frozen=True)
class PromptedJob(TrainingJob):
    """Supervised fine-tuning of a prompted task, validated and tuned with an engine that has its own base."""

    task: GenerationTask
    recipe: Recipe
    more: tuple[tuple[Dataset, float], ...] = ()
    log: Callable[[str], None] | None = field(default=None, compare=False)

    @cached_property
    def mixture(self) -> Mixture:
        return Mixture(self.task, self.dataset, self.more)

    def train(self, folder: Path, resume: bool) -> TrainingResult:
        records, weights = self.mixture.rows()
        # The model that is trained validates on a GPU, and where only the loss of validation rows is measured.
        in_place = uses_gpu() or not self.recipe.validation.generate_rows
        result = train_adapter(
            self.task,
            self.recipe,
            self.base,
            records,
            folder,
            weights=weights,
            validate=self._validator(in_place=in_place),
            resume=resume,
            start=None if self.start is None else self.start.path,
            progress=self.steps("Training"),
        )
        return replace(result, validated=self.recipe.quantization if in_place else "none")

    def with_smaller_batches(self, recipe: AnyRecipe) -> Recipe | None:
        assert isinstance(recipe, Recipe)
        optim = recipe.optim
        least = recipe.loss.group_size if recipe.loss.ranking else 1
        sizes = (size for size in range(optim.batch_size // 2, least - 1, -1) if optim.batch_size % size == 0)
        if (size := next(sizes, None)) is None:
            return None
        batches = optim.gradient_accumulation * optim.batch_size // size
        if self.log is not None:
            self.log(f"Memory ran out: the rows of a step are now in {batches} batches of {size}.")
        smaller = {"batch_size": size, "gradient_accumulation": batches}
        return recipe.model_copy(update={"optim": optim.model_copy(update=smaller)})

    def tune(self, adapter: Path) -> Mapping[str, Any]:
        records = drawn(self.dataset.records("validation"), self.recipe.validation.tune_rows, self.recipe.seed)
        if type(self.task).tune is Task.tune or not records or (validator := self._validator()) is None:
            return {}
        return validator.tune(adapter, records, self.steps("Tuning"))

    def queries(self) -> Iterator[str] | None:
        if "query" not in self.task.reads.values():
            return None
        records = chain(self.mixture.rows()[0], self.dataset.iter_records("validation"))
        return (query for record in records if (query := self.task.query(record)) is not None)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "prompt": self.task.template}

    def produced(self, stored: StoredAdapter) -> bool:
        return stored.manifest.prompt_hash == prompt_hash(self.task) and super().produced(stored)

    def _validator(self, *, in_place: bool = False) -> Validator | None:
        """With an engine of its own, whose memory is free when both are forgotten; None without validation rows.

        Rows without an expected completion, such as passages with a teacher's score alone, have no loss.
        """
        records = self.dataset.records("validation")
        expected = [record for record in records if self.task.has_completion(record)]
        if not expected:
            return None
        from searchlora.inference.local import LocalEngine
        from searchlora.inference.settings import LocalSettings

        def load(base: BaseModel) -> LocalEngine:
            return LocalEngine(base, precision=self.recipe.precision, prompt_options=self.recipe.prompt)

        def of_model(model: Any) -> LocalEngine:
            settings = LocalSettings(
                precision=self.recipe.precision, quantization=self.recipe.quantization, batch_invariant=False
            )
            return LocalEngine(self.base, settings=settings, model=model, prompt_options=self.recipe.prompt)

        engine: Any = None
        if self.recipe.is_full:
            engine = lambda folder: load(BaseModel("candidate", folder))  # noqa: E731
        elif not in_place:
            engine = load(self.base)
        settings = self.recipe.validation
        generated = drawn(records, settings.generate_rows, self.recipe.seed)
        retrieve = retrieval_stage(self.task, self.dataset, progress=self.steps("Indexing")) if generated else None
        measures = TaskMeasures(self.task, self.dataset.qrels(), self.dataset.relevant, retrieve)
        return Validator(
            self.task,
            engine,
            drawn(expected, settings.rows, self.recipe.seed),
            generated,
            measures,
            self.recipe.max_new_tokens,
            of_model if in_place else None,
        )
