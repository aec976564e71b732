"""What an answer looks like: in a record, in the prompt's hints, as the completion, and as an output form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from searchlora.errors import UsageError
from searchlora.outputs import JsonObject, OneLabel, OutputSpec
from searchlora.records import Record
from searchlora.tasks.intent.labelset import LabelSet

#: The kinds of answer; each is the field of the record that holds it.
KINDS = ("label", "labels", "object")

#: A longer list of labels is not in the prompt: an adapter has learned it, and constraint holds the base to it.
LABELS_SHOWN = 20

#: The same for the fields of a schema, and for the values of one field.
FIELDS_SHOWN = 12
VALUES_SHOWN = 6


def kind_of(record: Record) -> str | None:
    """The kind of a record's answer: the first of its fields that holds one; None where it holds none."""
    return next((kind for kind in KINDS if kind in record), None)


def prompt_fields(settings: Mapping[str, Any], record: Record) -> Mapping[str, Any]:
    """What the template sees: the query, the kind, the labels if they are few, the form of the object if it is."""
    labels = settings.get("labels", [])
    return {
        "query": " ".join(str(record["query"]).split()),
        "kind": settings.get("kind") or kind_of(record) or "label",
        "labels": labels if len(labels) <= LABELS_SHOWN else [],
        "form": _shown(settings.get("schema", {})),
    }


def written(record: Record) -> str:
    """The completion: the label as it is, or compact JSON."""
    kind = kind_of(record)
    if kind is None:
        raise UsageError("has no answer to train on", where=f"record {record.get('id')}")
    answer = record[kind]
    return str(answer) if kind == "label" else json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


def form(settings: Mapping[str, Any]) -> OutputSpec:
    """The form of every answer. Raises `UsageError` for a task that has no settings yet."""
    kind = settings.get("kind")
    if kind == "label":
        return OneLabel(tuple(settings["labels"]))
    if kind == "labels":
        return LabelSet(tuple(settings["labels"]))
    if kind == "object":
        return JsonObject(settings["schema"])
    raise UsageError(
        "the intent task has no settings, so nobody knows what answers there are",
        fix="Take them from a dataset or an adapter: `searchlora data build intent` finds them.",
    )


def _shown(schema: Mapping[str, Any]) -> str:
    """The fields of an object with their values, `need (buy, ask), brand`; nothing where they are many."""
    fields: Mapping[str, Any] = schema.get("properties", {})
    if len(fields) > FIELDS_SHOWN:
        return ""
    return ", ".join(name + _listed(values_of(form)) for name, form in fields.items())


def values_of(form: Any) -> Sequence[Any]:
    """The values that the schema of a field lists; none where it lists none."""
    return form.get("enum", ()) if isinstance(form, Mapping) else ()


def _listed(values: Sequence[Any]) -> str:
    return f" ({', '.join(map(str, values))})" if 0 < len(values) <= VALUES_SHOWN else ""
