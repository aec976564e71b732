"""The tasks of adapters as requests use them: their settings, input fields, and prompts of chats.

Nothing here knows a task by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from searchlora.adapters.load_check import check_settings
from searchlora.adapters.store import Store
from searchlora.errors import PipelineError, UsageError
from searchlora.files.json_schema import schema_validator
from searchlora.inference.engine import Request
from searchlora.outputs import Continued, Grammar, escape_regex
from searchlora.prompts import messages as messages_of
from searchlora.records import Record
from searchlora.server.api.errors import ApiError
from searchlora.task import GenerationTask, generation_task, load_task

#: Versions whose task is kept in memory.
_VERSIONS = 256


@dataclass(frozen=True)
class AdapterTask:
    """The task of an adapter version."""

    name: str
    prompted: GenerationTask | None = None
    max_new_tokens: int = 0  # the recipe's limit of generated tokens; 0 without a prompt


def task_reader(store: Store, folder: Path | None = None) -> Callable[[str], AdapterTask]:
    """A function that returns the task of an exact version, kept in memory: versions never change.

    It raises `NotInStore` or `ManifestError` for an adapter that cannot be read, and `LoadCheckFailed` for one whose
    settings cannot be used.
    """

    @lru_cache(_VERSIONS)
    def read(pinned: str) -> AdapterTask:
        stored = store.get(pinned)
        manifest = stored.manifest
        try:
            task = load_task(manifest.task, folder)
        except UsageError:  # its plugin is not installed
            return AdapterTask(manifest.task)
        if not isinstance(task, GenerationTask):
            return AdapterTask(manifest.task)
        check_settings(stored, task)
        bound = generation_task(task.bound(manifest.settings, manifest.tuned))
        return AdapterTask(manifest.task, bound, manifest.max_new_tokens)

    return read


def task_request(request: Request, task: AdapterTask | None, fields: Mapping[str, Any] | None = None) -> Request | None:
    """A chat as the task of its adapter asks it: with the task's prompt, constraint and limit of tokens.

    None where the messages are the prompt themselves: to the base model, in a conversation or with a system message.
    """
    if task is None:
        if fields is not None:
            message = "The model has no task that takes input fields: name an adapter."
            raise ApiError(400, "invalid_value", message, param="task_input")
        return None
    if task.prompted is None:
        message = (
            f"The task '{task.name}' of this adapter has no prompt on this server: install its plugin, or send the"
            " whole prompt with 'prompt' (in a chat) or 'prompt_format' set to 'raw'."
        )
        raise ApiError(400, "invalid_value", message, param="model")
    if fields is None and (len(request.messages) != 1 or request.messages[0]["role"] != "user"):
        return None
    if fields is None:
        fields = _fields_of_query(task.prompted, request.messages[0]["content"])
    record = record_of(task.prompted, fields)
    spec = task.prompted.output(record)
    choices = None if isinstance(spec, Continued) and spec.continues else spec.choices
    grammar = Grammar("regex", "|".join(map(escape_regex, choices))) if choices else spec.grammar
    return replace(
        request,
        messages=messages_of(task.prompted, record),
        grammar=request.grammar or grammar,
        max_new_tokens=task.max_new_tokens,
    )


def _fields_of_query(task: GenerationTask, query: str) -> dict[str, Any]:
    schema = input_schema(task)
    try:
        record = task.records_from({"id": "0", "query": query})[0]
    except PipelineError:  # it needs passages
        record = {}
    fields = {name: value for name, value in record.items() if name in schema["properties"]}
    if not fields or not schema_validator(schema).is_valid(fields):
        needed = ", ".join(schema["required"])
        message = (
            f"The task '{task.name}' of this adapter needs more than a query ({needed}). Give them as 'task_input' in"
            " /v1/chat/completions, or send the whole prompt with 'prompt' (in a chat) or 'prompt_format' set to 'raw'."
        )
        raise ApiError(400, "invalid_value", message, param="messages")
    return fields


def input_schema(task: GenerationTask) -> dict[str, Any]:
    """JSON Schema of a task's input: the record's schema without the fields of the expected output.

    Examples:
        >>> sorted(input_schema(generation_task(load_task("rewriting")))["properties"])
        ['history', 'query', 'titles']
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
