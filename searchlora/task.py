"""The contracts of a task plugin, and how plugins are found.

`Task` is what every task has: a record schema, formats to read, a recipe, an evaluator. `PromptedTask` adds what a
task needs that is done by a prompted LLM, `EncoderTask` what one needs that is done by an encoder of texts.

A plugin is a folder (`record.schema.json`, `recipe.yaml`, `prompt.jinja`, `examples.jsonl`, Python for the rest)
whose package exports `task`. It is found through the entry-point group `searchlora.tasks`, or in a folder of one's
own named by `--tasks DIR` or the variable SEARCHLORA_TASKS.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Self

from searchlora.errors import UsageError
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.trec import Qrels, Run
from searchlora.outputs import InvalidOutput, OutputSpec
from searchlora.recipe import read_recipe
from searchlora.records import Format, Options, Record, SearchContext

GROUP = "searchlora.tasks"


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

    def slices(self, *fields: str) -> dict[str, dict[str, str]]:
        """Field -> record id -> value, over the records that have the field; fields that no record has are left out."""
        values = {
            field: {str(record["id"]): str(record[field]) for record in self.records if field in record}
            for field in fields
        }
        return {field: rows for field, rows in values.items() if rows}


class Task(ABC):
    """A job of the search pipeline for which an adapter can be trained.

    Args:
        folder: The plugin's folder, from which schema, recipe and examples are read.

    Attributes:
        settings: What a team decided about its own task: labels, grades, a guideline, an abstention. The builder finds
            them (`settings_of`), the dataset and each adapter's manifest keep them; a task just loaded has its default
            ones. Plain JSON.
        tuned: What was chosen on validation rows after training (`tune`): a temperature, thresholds. An adapter's
            manifest keeps it; empty for a bare base. Plain JSON.
    """

    name: str
    version: int = 1
    default_settings: Mapping[str, Any] = {}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: Mapping[str, Any] = self.default_settings
        self.tuned: Mapping[str, Any] = {}

    def bound(self, settings: Mapping[str, Any] | None = None, tuned: Mapping[str, Any] | None = None) -> Self:
        """This task with other settings and tuned values; None: the default ones, and nothing tuned."""
        task = copy.copy(self)
        task.settings = self.default_settings if settings is None else settings
        task.tuned = {} if tuned is None else tuned
        return task

    def settings_of(self, options: Options, records: Iterable[Record]) -> Mapping[str, Any]:
        """What the builder keeps as the settings of a dataset.

        Args:
            options: As given to the format's reader.
            records: Of the training split, read lazily.

        Raises:
            DataError, UsageError: when an option names a file that cannot be used, or the rows contradict it.
        """
        del options, records
        return self.default_settings

    def check_dataset(self, settings: Mapping[str, Any]) -> None:
        """Refuse to be measured on a dataset with these settings, where under this task's own that makes no sense.

        Raises:
            UsageError: saying how the two differ.
        """
        del settings

    def tune(self, records: Sequence[Record], outputs: Sequence[Any | InvalidOutput]) -> Mapping[str, Any]:
        """What to choose on validation rows, from the trained adapter's outputs (one per record) as they are."""
        del records, outputs
        return {}

    @cached_property
    def record_schema(self) -> Mapping[str, Any]:
        """JSON Schema of a record. `id` and `group` are required strings in every task."""
        schema: Mapping[str, Any] = json.loads(self._read("record.schema.json"))
        return schema

    @cached_property
    def default_recipe(self) -> Mapping[str, Any]:
        """The task's own recipe, over which a user's file and overrides are laid. Raises `RecipeError`."""
        return read_recipe(self.folder / "recipe.yaml")

    @cached_property
    def examples(self) -> Sequence[Record]:
        """A few made records. They go into manifests as golden renders, so they hold nobody's data."""
        return [json.loads(line) for line in self._read("examples.jsonl").splitlines() if line.strip()]

    @property
    @abstractmethod
    def formats(self) -> Mapping[str, Format]:
        """The source formats that the dataset builder reads, by name."""

    def input_text(self, record: Record) -> str:
        """Everything of a record that a model without a prompt sees; two splits may not share it."""
        return json.dumps({key: value for key, value in record.items() if key not in ("id", "group")}, sort_keys=True)

    @abstractmethod
    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        """Measure outputs over all records; an invalid output counts as the task's fallback, or else as worst."""

    def baselines(self, records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[Any]]:
        """Outputs without any model, by name, that are always reported beside the adapter."""
        del records, dataset
        return {}

    def _read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


class PromptedTask(Task):
    """A task done by a prompted LLM.

    Attributes:
        reads: Record field -> field of the search context that it is taken from.
        writes: The field of the search context that the output becomes. A task that writes `query` is evaluated by
            retrieving with its outputs.
    """

    reads: Mapping[str, str]
    writes: str

    def input_text(self, record: Record) -> str:
        """Not for prompted tasks: what their model sees is rendered, see `prompts.input_text`."""
        raise NotImplementedError

    @cached_property
    def template(self) -> str:
        """Jinja source with the blocks `system` and `user`; what requests share stands first (see `prompts`)."""
        return self._read("prompt.jinja")

    def fields(self, record: Record) -> Mapping[str, Any]:
        """What the template sees; the place for cutting a long conversation or numbering passages."""
        return record

    def query(self, record: Record) -> str | None:
        """What a record asks: its field that a pipeline fills with the query; None where there is none."""
        field = next((field for field, source in self.reads.items() if source == "query"), None)
        return str(record[field]) if field is not None and field in record else None

    @abstractmethod
    def target(self, record: Record) -> str:
        """The completion to train on."""

    @abstractmethod
    def output(self, record: Record) -> OutputSpec:
        """The form of the answer to this record."""

    def parse(self, text: str, record: Record) -> Any | InvalidOutput:
        """Read a completion strictly: a value, or `InvalidOutput`."""
        return self.output(record).parse(text)

    def apply_tuning(self, output: Any, record: Record) -> Any:
        """A valid output with the tuned values (temperature, thresholds) applied."""
        del record
        return output

    def fallback(self, record: Record) -> Any | None:
        """What a pipeline goes on with, and the headline figure counts, where the output is invalid; None: worst."""
        del record
        return None

    def records_from(self, context: SearchContext) -> list[Record]:
        """The records to ask the model about in this search: one, or one per hit for a task that judges hits."""
        fields = {field: context[source] for field, source in self.reads.items() if source in context}
        return [{"id": str(context["id"]), "group": str(context["id"]), **fields}]

    def updates(self, context: SearchContext, outputs: Sequence[Any]) -> Mapping[str, Any]:
        """What the stage writes back; `outputs` are valid values, the fallback already in place of invalid ones."""
        del context
        return {self.writes: outputs[0]}


class EncoderTask(Task):
    """A task done by an encoder that turns texts into vectors: what belongs together lies close together.

    A record either has texts that its query shall find, and is evaluated by retrieval over the documents and judgments
    of its dataset, or it has a label, and is evaluated by classification. A dataset holds records of one kind.
    """

    @abstractmethod
    def query(self, record: Record) -> str:
        """The text that is encoded for a record: a query, or what is to be classified."""

    def positives(self, record: Record) -> Sequence[str]:
        """Texts that the query shall find, each as an index holds it (`Document.searchable`)."""
        del record
        return ()

    def negatives(self, record: Record) -> Sequence[str]:
        """Texts that the query shall not find although one might think so."""
        del record
        return ()

    def label(self, record: Record) -> str | None:
        """The class of a record; None for a record that is evaluated by retrieval."""
        del record
        return None

    def target(self, record: Record) -> str:
        """What is right for a record, in a line that a reader of a report is shown."""
        return self.label(record) or " | ".join(self.positives(record))

    def input_text(self, record: Record) -> str:
        return self.query(record)


def load_tasks(folder: str | Path | None = None) -> dict[str, Task]:
    """Every task plugin, by name: the installed ones, then those in `folder` (or SEARCHLORA_TASKS).

    Raises:
        UsageError: when two plugins share a name, one cannot be imported or does not export a `Task` called `task`.
    """
    return {name: load() for name, load in _plugins(folder).items()}


def load_task(name: str, folder: str | Path | None = None) -> Task:
    """One task by name; the others are not imported. Raises `UsageError` with the names there are."""
    plugins = _plugins(folder)
    if name not in plugins:
        raise UsageError(f"there is no task '{name}'", fix=f"Known tasks: {', '.join(sorted(plugins)) or 'none'}.")
    return plugins[name]()


def load_encoder_task(name: str, folder: str | Path | None = None) -> EncoderTask:
    """One encoder task by name. Raises `UsageError`, also for a task of another kind."""
    task = load_task(name, folder)
    if not isinstance(task, EncoderTask):
        raise UsageError(f"the task '{name}' is not done by an encoder")
    return task


def load_prompted_task(name: str, folder: str | Path | None = None) -> PromptedTask:
    """One prompted task by name. Raises `UsageError`, also for a task that has no prompt."""
    return prompted(load_task(name, folder))


def prompted(task: Task) -> PromptedTask:
    """The task itself, which has a prompt. Raises `UsageError` where it has none."""
    if not isinstance(task, PromptedTask):
        raise UsageError(f"the task '{task.name}' has no prompt, so this verb does not know what to ask a model")
    return task


def _plugins(folder: str | Path | None) -> dict[str, Callable[[], Task]]:
    """Name -> what imports the plugin: the name of the entry point, or of the package in a folder of one's own."""
    found: dict[str, Callable[[], Task]] = {}
    for point in entry_points(group=GROUP):
        if point.name in found:
            raise UsageError(f"there are two tasks called '{point.name}'", fix="Uninstall one of them.")
        found[point.name] = partial(_loaded, point.name, point.load, f"entry point {point.name} = {point.value}")
    own = folder or os.environ.get("SEARCHLORA_TASKS")
    if own:
        if not Path(own).is_dir():
            raise UsageError("is not a folder of tasks", where=str(own))
        for package in sorted(Path(own).iterdir()):
            if (package / "__init__.py").is_file():
                if package.name in found:
                    raise UsageError(f"there are two tasks called '{package.name}'", where=str(package))
                found[package.name] = partial(_loaded, package.name, partial(_import_folder, package), str(package))
    return found


def _loaded(name: str, load: Callable[[], object], where: str) -> Task:
    try:
        task = load()
    except Exception as error:  # a plugin may fail in any way; whose it is, is what the user needs to know
        raise UsageError(f"the task cannot be imported ({type(error).__name__}: {error})", where=where) from error
    if not isinstance(task, Task):
        raise UsageError("does not export a searchlora Task called 'task'", where=where)
    if task.name != name:
        raise UsageError(
            f"the task calls itself '{task.name}', but its entry point or folder is called '{name}'",
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
