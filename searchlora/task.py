"""Contracts of task plugins, and plugin discovery.

`Task` defines what every task provides: a record schema, source formats, a recipe and an evaluator. `GenerationTask`
adds the contract of tasks that prompt an LLM, `EncoderTask` that of tasks that train a text encoder.

A plugin is a package that exports `task`, with the files `record.schema.json`, `recipe.yaml`, `examples.jsonl` and, for
a prompted task, `prompt.jinja`. Plugins are found through the entry-point group `searchlora.tasks`, or as folders in a
directory given by `--tasks DIR` or by the environment variable SEARCHLORA_TASKS.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

from searchlora.encoder_baseline import EncoderBaseline
from searchlora.errors import DataError, UsageError
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.trec import Qrels, Run
from searchlora.files import json_object
from searchlora.outputs import InvalidOutput, OutputSpec
from searchlora.plugins import Plugin, installed_plugins
from searchlora.recipe_reading import read_recipe
from searchlora.records import Evidence, Format, GradedTarget, Judgment, Options, Record, SearchContext
from searchlora.rewards import INVALID, RewardContext

GROUP = "searchlora.tasks"

#: Field of a training record with a completion to train on in place of `GenerationTask.target`.
COMPLETION = "completion"

#: Names of candidates of `GenerationTask.candidates`: the record's own target, and the input as it is.
REFERENCE, UNCHANGED = "reference", "unchanged"


@dataclass(frozen=True)
class EvaluationInput:
    """Everything that `Task.evaluate` may measure.

    Attributes:
        records: The gold records.
        outputs: One output per record, in the same order; `InvalidOutput` where parsing failed.
        run: The run retrieved with the outputs, for a task that is evaluated by retrieval.
        qrels: The relevance judgments for that run.
        relevant: The lowest grade that counts as relevant in binary measures.

    Raises:
        ValueError: if the numbers of records and outputs differ.

    Examples:
        >>> inputs = EvaluationInput([{"id": "q1", "group": "g", "kind": "short"}], [InvalidOutput("?", "no grade")])
        >>> inputs.ids, inputs.clusters, inputs.invalid, inputs.slices("kind")
        (['q1'], {'q1': 'g'}, {'q1': 'no grade'}, {'kind': {'q1': 'short'}})
    """

    records: Sequence[Record]
    outputs: Sequence[Any | InvalidOutput]
    run: Run | None = None
    qrels: Qrels | None = None
    relevant: int = 1

    def __post_init__(self) -> None:
        if len(self.records) != len(self.outputs):
            raise ValueError(f"there are {len(self.outputs)} outputs for {len(self.records)} records")

    @property
    def ids(self) -> list[str]:
        """The id of each record, in order."""
        return [str(record["id"]) for record in self.records]

    @property
    def clusters(self) -> dict[str, str]:
        """Record id -> group. Records of one group are not independent, so intervals resample whole groups."""
        return {str(record["id"]): str(record["group"]) for record in self.records}

    @property
    def invalid(self) -> dict[str, str]:
        """Record id -> why its output could not be parsed, for the invalid outputs only."""
        return {
            id_: output.reason
            for id_, output in zip(self.ids, self.outputs, strict=True)
            if isinstance(output, InvalidOutput)
        }

    @property
    def valid(self) -> dict[str, Any]:
        """Record id -> its output; None for an invalid one."""
        pairs = zip(self.ids, self.outputs, strict=True)
        return {id_: None if isinstance(output, InvalidOutput) else output for id_, output in pairs}

    def slices(self, *fields: str) -> dict[str, dict[str, str]]:
        """Field -> record id -> value, over the records that have the field; fields that no record has are left out."""
        values = {
            field: {str(record["id"]): str(record[field]) for record in self.records if field in record}
            for field in fields
        }
        return {field: rows for field, rows in values.items() if rows}


class Task(ABC):
    """A step of the search pipeline for which adapters are trained and evaluated.

    Args:
        folder: The plugin folder, which holds schema, recipe and examples; default: the folder of the class's module.

    Attributes:
        name: The name of the task, equal to its entry point or folder.
        version: Increased whenever prompts, outputs or measures change.
        formats: Format name -> source format that the dataset builder reads.
        upper_bounds: Names of baselines that are made from the expected outputs. No adapter has to beat them.
        settings: A team's own choices: labels, grades, a guideline, an abstention. `settings_of` derives them when a
            dataset is built; the dataset and the manifest of each adapter store them. JSON values only.
        tuned: Values chosen on validation records after training (`tune`): a temperature, thresholds. The manifest of
            the adapter stores them; empty for a bare base model. JSON values only.
    """

    name: str
    version: int = 1
    formats: Mapping[str, Format] = {}
    default_settings: Mapping[str, Any] = {}
    upper_bounds: frozenset[str] = frozenset()

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(inspect.getfile(type(self))).parent
        self.settings: Mapping[str, Any] = self.default_settings
        self.tuned: Mapping[str, Any] = {}

    def bound(self, settings: Mapping[str, Any] | None = None, tuned: Mapping[str, Any] | None = None) -> Self:
        """A copy of the task with other settings and tuned values.

        Args:
            settings: None: the default settings.
            tuned: None: nothing is tuned.
        """
        task = copy.copy(self)
        task.settings = self.default_settings if settings is None else settings
        task.tuned = {} if tuned is None else tuned
        return task

    def settings_of(self, options: Options, records: Iterable[Record]) -> Mapping[str, Any]:
        """The settings that the builder stores with a dataset.

        Args:
            options: The `--option` values of the build.
            records: The records of the training split, read lazily.

        Raises:
            DataError, UsageError: if an option names an unusable file, or the records contradict the options.
        """
        del options, records
        return self.default_settings

    def judgment(self, record: Record) -> Judgment | None:
        """The judgment that a record is, for a task that learns from judgments; None for every other record."""
        del record
        return None

    def training_warnings(self, records: Iterable[Record]) -> Iterable[str]:
        """Warnings about the training rows of a dataset with this task's settings, for its card."""
        del records
        return ()

    def check_training(self, records: Iterable[Record]) -> None:
        """Check the training rows of all datasets before training.

        Raises:
            DataError: if nothing can be learned from them.
        """
        del records

    def queries(self, record: Record) -> Sequence[str]:
        """The texts under which judgments may know a record's information need, its own query first."""
        return [record["query"]] if "query" in record else []

    def check_dataset(self, settings: Mapping[str, Any]) -> None:
        """Check that this task can be evaluated on a dataset with the given settings.

        Raises:
            UsageError: if they are incompatible with the task's own settings.
        """
        del settings

    def tune(self, records: Sequence[Record], outputs: Sequence[Any | InvalidOutput]) -> Mapping[str, Any]:
        """The values to store as `tuned`, chosen on validation records.

        Args:
            outputs: The untuned outputs of the trained adapter, one per record.
        """
        del records, outputs
        return {}

    def check_tuned(self, tuned: Mapping[str, Any]) -> None:
        """Check values that a pipeline file gives in place of the tuned values of an adapter's manifest.

        Raises:
            UsageError: for values that the task does not know or that are not tuned yet; by default for any.
        """
        if tuned:
            raise UsageError(f"the task '{self.name}' takes no tuned values from a pipeline")

    @cached_property
    def record_schema(self) -> Mapping[str, Any]:
        """JSON Schema of a record. `id` and `group` are required strings in every task."""
        schema: Mapping[str, Any] = json_object(self._read("record.schema.json"), self._where("record.schema.json"))
        return schema

    @cached_property
    def default_recipe(self) -> Mapping[str, Any]:
        """The task's recipe, which a user's recipe file and overrides extend. Raises `RecipeError`."""
        return read_recipe(self.folder / "recipe.yaml")

    @cached_property
    def examples(self) -> Sequence[Record]:
        """A few synthetic records. Manifests store them as golden records, so they contain nobody's data."""
        where = self._where("examples.jsonl")
        lines = enumerate(self._read("examples.jsonl").splitlines(), 1)
        return [json_object(line, f"{where}, line {number}") for number, line in lines if line.strip()]

    def input_text(self, record: Record) -> str:
        """The model's input as text. The leak check compares it: two splits may not share it."""
        return json.dumps({key: value for key, value in record.items() if key not in ("id", "group")}, sort_keys=True)

    @abstractmethod
    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        """Measure outputs over all records; an invalid output counts as the task's fallback, or else as worst."""

    def baselines(self, records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[Any]]:
        """Outputs of baselines without a model: name -> one output per record. Reports show them beside the adapter.

        Args:
            dataset: The dataset folder, for baselines that are fitted on its training split; without a training row
                they are left out.
        """
        del records, dataset
        return {}

    def learned_baselines(self, records: Sequence[Record]) -> frozenset[str] | None:
        """Names of the baselines of these records that learn from training rows, which must be enough rows.

        Returns:
            None if unknown: then every baseline counts as learned.
        """
        del records
        return None

    def baseline_class(self, record: Record) -> str | None:
        """What a learned baseline predicts for a record, of a small set of classes; None where it is no class."""
        del record
        return None

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"is not UTF-8 text ({error.reason})", where=self._where(name)) from None

    def _where(self, name: str) -> str:
        return str(self.folder / name)


class GenerationTask(Task):
    """A task that prompts an LLM.

    Attributes:
        reads: Record field -> the field of the search context from which a pipeline stage fills it.
        writes: The field of the search context to which a pipeline stage writes the output. A task that writes `query`
            is evaluated by retrieval with its outputs.
    """

    reads: Mapping[str, str]
    writes: str

    def input_text(self, record: Record) -> str:
        """Not available: the input of a prompted task is the rendered prompt, see `prompts.input_text`."""
        raise NotImplementedError

    @cached_property
    def template(self) -> str:
        """Source of `prompt.jinja`, with the blocks `system` and `user` (see `searchlora.prompts`)."""
        return self._read("prompt.jinja")

    def fields(self, record: Record) -> Mapping[str, Any]:
        """The variables of the template. Override it to truncate a conversation or to number passages."""
        return record

    def query(self, record: Record) -> str | None:
        """The record field that a pipeline fills with the query; None where there is none."""
        field = next((field for field, source in self.reads.items() if source == "query"), None)
        return str(record[field]) if field is not None and field in record else None

    @abstractmethod
    def target(self, record: Record) -> str:
        """The expected completion of a record that has one, see `has_target`."""

    def has_target(self, record: Record) -> bool:
        """Whether a record has an expected completion. Records without one can be evaluated and improved on."""
        del record
        return True

    def labelled(self, record: Record, output: Any) -> Record:
        """The record with a teacher's output as its target, for `data label`.

        Raises:
            UsageError: if outputs of this task are no targets.
        """
        del record, output
        raise UsageError(
            f"the task '{self.name}' does not say how an output becomes a target", fix="Give it `labelled`."
        )

    def has_completion(self, record: Record) -> bool:
        """Whether a record has a completion to learn or to be measured by its probability."""
        return COMPLETION in record or self.has_target(record)

    def completion(self, record: Record) -> str:
        """The completion to train on: the record's field `completion`, or else its target."""
        return str(record[COMPLETION]) if COMPLETION in record else self.target(record)

    def graded_target(self, record: Record) -> GradedTarget | None:
        """The grades among which `target` is one, for ranking losses and soft labels; None: the target is no grade."""
        del record
        return None

    def baseline_class(self, record: Record) -> str | None:
        """The label or grade, if the output is one of several choices."""
        if self.output(record).choices is None or not self.has_target(record):
            return None
        return self.target(record).partition("\n")[0]

    def encoder_baselines(self) -> Sequence[EncoderBaseline]:
        """Classical models over a frozen encoder to compare an adapter with, if there are enough training rows."""
        return ()

    @abstractmethod
    def output(self, record: Record) -> OutputSpec:
        """The output form of this record's answer."""

    def parse(self, text: str, record: Record) -> Any | InvalidOutput:
        """Parse a completion strictly: a value, or `InvalidOutput`."""
        return self.output(record).parse(text)

    def whole_part(self, text: str) -> str | None:
        """The part of a text that was cut off which is an answer in itself; None: there is none."""
        del text
        return None

    def apply_tuning(self, output: Any, record: Record) -> Any:
        """A valid output with the tuned values (temperature, thresholds) applied."""
        del record
        return output

    def fallback(self, record: Record) -> Any | None:
        """The value that replaces an invalid output in pipelines and headline figures; None: it counts as worst."""
        del record
        return None

    def candidates(
        self, records: Sequence[Record], dataset: Path, context: RewardContext
    ) -> Sequence[Mapping[str, str]]:
        """Completions of training records that need no model, for `searchlora improve`: name -> completion.

        The name `UNCHANGED` is that of the input as it is, which wins over candidates with an equal reward. A name is
        `kind` or `kind: part, part`. Names are counted by their kind; with `improve.kind_weight`, parts have effects
        of their own, which add up.

        Args:
            dataset: The dataset folder, for rules that are fitted on its training split.
        """
        del dataset, context
        return [{REFERENCE: self.target(record)} if self.has_target(record) else {} for record in records]

    def settled(self, record: Record) -> str | None:
        """The completion that `searchlora improve` trains on whatever its reward; None: candidates compete."""
        del record
        return None

    def variants(self, record: Record, completion: str) -> Mapping[str, str]:
        """Further candidates made of a sampled completion: name -> completion."""
        del record, completion
        return {}

    def keeps_protected(self, record: Record, completion: str) -> bool:
        """Whether a completion keeps what must not be lost, such as protected words; other candidates never win."""
        del record, completion
        return True

    def reward(
        self, records: Sequence[Record], outputs: Sequence[Any | InvalidOutput], context: RewardContext
    ) -> list[float | None]:
        """The reward of each output, for `searchlora improve`; higher is better.

        By default it is the headline measure of each record, negated where less is better.

        Args:
            records: One per output. A record may be there several times, with several outputs.
            outputs: Parsed outputs; an `InvalidOutput` has the reward `rewards.INVALID`.

        Returns:
            One reward per output; None for a record that cannot be rewarded, such as a query without a judgment.

        Raises:
            UsageError: for a measure that the task does not have, or a headline without values per record.
        """
        numbered = [{**record, "id": f"{row}"} for row, record in enumerate(records)]
        evaluation = self.evaluate(EvaluationInput(numbered, outputs))
        measure = context.measure or evaluation.headline
        values = evaluation.values.get(measure)
        if values is None:
            known = ", ".join(sorted(evaluation.values)) or "none"
            raise UsageError(
                f"'{measure}' has no value per record, so it is no reward", fix=f"Measures with one: {known}."
            )
        sign = -1.0 if measure in evaluation.less_is_better else 1.0
        return [
            INVALID if isinstance(output, InvalidOutput) else sign * values[str(row)] if str(row) in values else None
            for row, output in enumerate(outputs)
        ]

    @property
    def reads_as_declared(self) -> bool:
        """Whether a stage reads and writes what `reads` and `writes` say, and nothing else of a search."""
        own = type(self)
        return own.records_from is GenerationTask.records_from and own.updates is GenerationTask.updates

    def records_from(self, context: SearchContext) -> list[Record]:
        """The records of one search: a single record, or one per hit for a task that judges hits."""
        fields = {field: context[source] for field, source in self.reads.items() if source in context}
        return [{"id": str(context["id"]), "group": str(context["id"]), **fields}]

    def updates(self, context: SearchContext, outputs: Sequence[Any]) -> Mapping[str, Any]:
        """The fields that a pipeline stage writes to the search context.

        Args:
            outputs: Valid values, one per record of `records_from`; invalid ones are replaced by the fallback.
        """
        del context
        return {self.writes: outputs[0]}

    def evidence(self, context: SearchContext, output: Any) -> tuple[Evidence, ...]:
        """The sentences of an answer, each with what supports it; empty for a task that does not answer.

        Args:
            context: The search, with the `passages` that the answer was made from.
            output: A valid output.
        """
        del context, output
        return ()


class EncoderTask(Task):
    """A task that trains an encoder, which maps texts to vectors so that related texts are close.

    A record either has positive texts, and is evaluated by retrieval over the documents and judgments of its dataset;
    or it has a label, and is evaluated by classification. A dataset holds records of one kind only.
    """

    @abstractmethod
    def query(self, record: Record) -> str:
        """The text to encode: a query, or a text to classify."""

    def positives(self, record: Record) -> Sequence[str]:
        """Texts that are relevant to the query, as an index holds them (`Document.searchable`)."""
        del record
        return ()

    def negatives(self, record: Record) -> Sequence[str]:
        """Hard negatives: texts that are similar but not relevant to the query."""
        del record
        return ()

    def label(self, record: Record) -> str | None:
        """The class of a record; None for a record that is evaluated by retrieval."""
        del record
        return None

    def baseline_class(self, record: Record) -> str | None:
        return self.label(record)

    def target(self, record: Record) -> str:
        """The expected result in one line, for reports: the label, or the positives."""
        return self.label(record) or " | ".join(self.positives(record))

    def input_text(self, record: Record) -> str:
        return self.query(record)


def load_tasks(
    folder: str | Path | None = None, *, skipped: Callable[[UsageError], None] | None = None
) -> dict[str, Task]:
    """All task plugins by name: installed ones, then those in `folder`.

    Args:
        folder: A directory of plugin folders; default: the environment variable SEARCHLORA_TASKS.
        skipped: Called with the error of each plugin that cannot be used, for a command that needs none in particular;
            without it the first such error is raised.

    Raises:
        UsageError: if two plugins share a name, or one cannot be imported or does not export a `Task` called `task`.

    Examples:
        >>> sorted(load_tasks())
        ['embedding', 'intent', 'judgment', 'rag_answer', 'rewriting']
    """
    tasks: dict[str, Task] = {}
    for name, plugin in _plugins(folder).items():
        try:
            tasks[name] = _loaded(name, plugin)
        except UsageError as error:
            if skipped is None:
                raise
            skipped(error)
    return tasks


def task_names() -> list[str]:
    """The names of all task plugins, sorted; none is imported."""
    return sorted(_plugins(None))


def load_task(name: str, folder: str | Path | None = None) -> Task:
    """The task of a given name; no other plugin is imported. Raises `UsageError`, which lists the known names.

    Examples:
        >>> load_task("rewriting").writes
        'query'
    """
    plugins = _plugins(folder)
    if name not in plugins:
        known = ", ".join(sorted(plugins)) or "none"
        raise UsageError(
            f"there is no task '{name}'", fix=f"Known tasks: {known}. For your own: --tasks FOLDER or SEARCHLORA_TASKS."
        )
    return _loaded(name, plugins[name])


def load_encoder_task(name: str, folder: str | Path | None = None) -> EncoderTask:
    """The encoder task of a given name. Raises `UsageError`, also for a task of another type."""
    task = load_task(name, folder)
    if not isinstance(task, EncoderTask):
        raise UsageError(f"the task '{name}' does not train an encoder")
    return task


def load_generation_task(name: str, folder: str | Path | None = None) -> GenerationTask:
    """The prompted task of a given name. Raises `UsageError`, also for a task without a prompt."""
    return generation_task(load_task(name, folder))


def generation_task(task: Task) -> GenerationTask:
    """The task, checked to be a `GenerationTask`. Raises `UsageError` otherwise."""
    if not isinstance(task, GenerationTask):
        raise UsageError(f"the task '{task.name}' has no prompt, which this command requires")
    return task


def _plugins(folder: str | Path | None) -> dict[str, Plugin]:
    """The installed plugins and those of a folder by name. A folder of one's own may not have the name of another."""
    plugins = installed_plugins(GROUP, "searchlora.tasks")
    directory = folder or os.environ.get("SEARCHLORA_TASKS")
    if directory:
        if not Path(directory).is_dir():
            raise UsageError("is not a folder of tasks", where=str(directory))
        for package in sorted(Path(directory).iterdir()):
            if (package / "__init__.py").is_file():
                load = partial(_clash if package.name in plugins else _import_folder, package)
                plugins[package.name] = Plugin(str(package), load)
    return plugins


def _clash(package: Path) -> object:
    raise UsageError(f"there are two tasks called '{package.name}'", where=str(package), fix="Rename the folder.")


def _loaded(name: str, plugin: Plugin) -> Task:
    where = plugin.where
    try:
        task = plugin.load()
        own_name = task.name if isinstance(task, Task) else ""
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may raise anything; the message names the plugin
        raise UsageError(f"the task cannot be imported ({type(error).__name__}: {error})", where=where) from error
    if not isinstance(task, Task):
        raise UsageError("does not export a searchlora Task called 'task'", where=where)
    if own_name != name:
        raise UsageError(
            f"the task is named '{own_name}', but its entry point or folder is named '{name}'",
            where=where,
            fix="Give both the same name.",
        )
    return task


def _import_folder(package: Path) -> object:
    name = f"searchlora_own_tasks.{package.name}"
    spec = importlib.util.spec_from_file_location(
        name, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    if spec is None or spec.loader is None:  # pragma: no cover - a file that exists always has a loader
        raise UsageError("cannot be imported", where=str(package))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return getattr(module, "task", None)
