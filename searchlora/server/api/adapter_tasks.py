"""The tasks of adapters as requests use them: their settings, input fields, prompts of chats, and descriptions.

Nothing here knows a task by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from searchlora.adapters.load_check import check_settings
from searchlora.adapters.store import Store
from searchlora.errors import PipelineError, UsageError
from searchlora.files.json_schema import schema_validator
from searchlora.outputs import Continued, Grammar, escape_regex
from searchlora.prompts import Message
from searchlora.prompts import messages as messages_of
from searchlora.records import Record
from searchlora.server.api.errors import ApiError
from searchlora.task import GenerationTask, generation_task, load_task

#: Versions whose task is kept in memory.
_VERSIONS = 256


@dataclass(frozen=True)
class AdapterTask:
    """The task of an adapter version.

    Attributes:
        name: The name of the task.
        prompted: The task with the adapter's settings and tuning; None if it has no prompt or is not installed here.
        max_new_tokens: The recipe's limit of generated tokens; 0 without a prompt.
    """

    name: str
    prompted: GenerationTask | None
    max_new_tokens: int

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of the input fields, see `input_schema`."""
        return {} if self.prompted is None else input_schema(self.prompted)


class AdapterTasks:
    """The tasks of stored adapters, kept in memory by exact version: versions never change. Safe for threads.

    Args:
        store: The adapter store.
        folder: A folder of further task plugins.
    """

    def __init__(self, store: Store, folder: Path | None = None) -> None:
        self._store, self._folder = store, folder
        self._of_version = lru_cache(_VERSIONS)(self._load)

    def get(self, pinned: str) -> AdapterTask:
        """The task of an exact version. Raises `NotInStore`, `ManifestError`."""
        try:
            return self._of_version(pinned)
        except UsageError:  # its plugin is not installed
            return AdapterTask(self._store.get(pinned).manifest.task, None, 0)

    def required(self, pinned: str) -> tuple[GenerationTask, int]:
        """The task of an exact version, and the recipe's limit of generated tokens.

        Raises:
            NotInStore, ManifestError: for an adapter that cannot be read.
            LoadCheckFailed: for one whose settings cannot be used.
            UsageError: for a task that is not installed.
            ApiError: 400, for an adapter of an encoder.
        """
        task = self._of_version(pinned)
        if task.prompted is None:
            message = f"{pinned} is an adapter for an encoder. POST texts to /v1/embeddings."
            raise ApiError(400, "invalid_value", message, param="model")
        return task.prompted, task.max_new_tokens

    def _load(self, pinned: str) -> AdapterTask:
        stored = self._store.get(pinned)
        manifest = stored.manifest
        task = load_task(manifest.task, self._folder)
        if not isinstance(task, GenerationTask):
            return AdapterTask(manifest.task, None, 0)
        check_settings(stored, task)
        bound = generation_task(task.bound(manifest.settings, manifest.tuned))
        return AdapterTask(manifest.task, bound, manifest.max_new_tokens)


@dataclass(frozen=True)
class TaskPrompt:
    """What an adapter's task makes of a chat.

    Attributes:
        messages: The prompt.
        grammar: The constraint of the answer, if the task has one.
        max_new_tokens: The recipe's limit of generated tokens.
    """

    messages: tuple[Message, ...]
    grammar: Grammar | None
    max_new_tokens: int


def task_prompt(
    task: AdapterTask | None, messages: Sequence[Message], fields: Mapping[str, Any] | None = None
) -> TaskPrompt | None:
    """The prompt of an adapter's task for a chat.

    None where the messages are the prompt themselves: to the base model, in a conversation or with a system message,
    and where the task needs more than a query.

    Args:
        task: The adapter's task; None for the base model.
        messages: The chat.
        fields: The input fields of the task, if the request gives them.

    Raises:
        ApiError: 400, for input fields that the task does not take, or to a model without a task.
    """
    is_query = len(messages) == 1 and messages[0]["role"] == "user"
    if task is None:
        if fields is not None:
            raise ApiError(400, "invalid_value", "A base model has no task: name an adapter.", param="task_input")
        return None
    if fields is None and not is_query:
        return None
    if task.prompted is None:
        if fields is not None:
            message = f"The task '{task.name}' of this adapter takes no input fields on this server."
            raise ApiError(400, "invalid_value", message, param="task_input")
        return None
    schema = task.input_schema
    if fields is None:
        try:
            record = task.prompted.records_from({"id": "0", "query": messages[0]["content"]})[0]
        except PipelineError:  # it needs more than a query, such as passages
            return None
        fields = {name: value for name, value in record.items() if name in schema["properties"]}
        if not schema_validator(schema).is_valid(fields):
            return None
    record = record_of(task.prompted, fields)
    spec = task.prompted.output(record)
    choices = None if isinstance(spec, Continued) and spec.continues else spec.choices
    grammar = Grammar("regex", "|".join(map(escape_regex, choices))) if choices else spec.grammar
    return TaskPrompt(messages_of(task.prompted, record), grammar, task.max_new_tokens)


def description(pinned: str, task: AdapterTask) -> dict[str, Any]:
    """What the page of an adapter says besides its entry: the task, its input fields, and a request that works."""
    if task.prompted is None:
        return {"task": task.name}
    schema = task.input_schema
    example = {name: value for name, value in task.prompted.examples[0].items() if name in schema["properties"]}
    body = {"model": pinned, "input": example}
    request = {"method": "POST", "path": f"/v1/tasks/{task.name}", "body": body}
    return {"task": task.name, "input": schema, "example": request}


def input_schema(task: GenerationTask) -> dict[str, Any]:
    """JSON Schema of a task's input: the record's schema without the fields of the expected output.

    Examples:
        >>> sorted(input_schema(generation_task(load_task("rewriting")))["properties"])
        ['history', 'query']
    """
    schema = task.record_schema
    properties = {name: schema["properties"][name] for name in task.reads if name in schema["properties"]}
    required = [name for name in schema.get("required", []) if name in properties]
    inputs = {"type": "object", "additionalProperties": False, "properties": properties, "required": required}
    return inputs | ({"$defs": schema["$defs"]} if "$defs" in schema else {})


def record_of(task: GenerationTask, fields: Mapping[str, Any], number: int = 0) -> Record:
    """A record with these input fields. Raises `ApiError` 400 for fields that the task does not take."""
    schema = input_schema(task)
    if error := next(iter(schema_validator(schema).iter_errors(dict(fields))), None):
        place = ".".join(map(str, error.absolute_path))
        message = f"Input {number + 1}{f', {place}' if place else ''}: {error.message[:200]}."
        raise ApiError(400, "invalid_value", f"{message} Fields: {', '.join(schema['properties'])}.", param="input")
    return {"id": str(number), "group": str(number), **fields}
