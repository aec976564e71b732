"""Answers of the intent task: the gold answer of a record as text, the output form, and the fields of the prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from searchlora.errors import UsageError
from searchlora.outputs import JsonObject, LabelSet, OneLabel, OutputSpec
from searchlora.records import Record

#: The kinds of answer; each is also the name of the record field that holds it.
KINDS = ("label", "labels", "object")

#: The prompt lists at most this many labels. A longer list is left out: an adapter has learned the labels, and
#: constrained decoding holds the base model to them.
MAX_LABELS_SHOWN = 20

#: The prompt lists at most this many fields of a schema, and at most this many values of one field.
MAX_FIELDS_SHOWN = 12
MAX_VALUES_SHOWN = 6


def kind_of(record: Record) -> str | None:
    """The kind of a record's answer; None for a record without an answer.

    Examples:
        >>> kind_of({"query": "my parcel", "label": "delivery"}), kind_of({"query": "my parcel"})
        ('label', None)
    """
    return next((kind for kind in KINDS if kind in record), None)


def prompt_fields(settings: Mapping[str, Any], record: Record) -> Mapping[str, Any]:
    """Variables of `prompt.jinja`: the query, the kind of answer, and short descriptions of labels and fields."""
    labels = settings.get("labels", [])
    return {
        "query": " ".join(str(record["query"]).split()),
        "kind": settings.get("kind") or kind_of(record) or "label",
        "labels": labels if len(labels) <= MAX_LABELS_SHOWN else [],
        "form": _described(settings.get("schema", {})),
    }


def target_text(record: Record) -> str:
    """The completion to train on: the label itself, or compact JSON.

    Raises:
        UsageError: for a record without an answer.

    Examples:
        >>> target_text({"query": "nordvik jacket", "object": {"brand": "Nordvik"}})
        '{"brand":"Nordvik"}'
    """
    kind = kind_of(record)
    if kind is None:
        raise UsageError("has no answer to train on", where=f"record {record.get('id')}")
    answer = record[kind]
    return str(answer) if kind == "label" else json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


def output_spec(settings: Mapping[str, Any]) -> OutputSpec:
    """The output form of every answer. Raises `UsageError` for a task without settings."""
    kind = settings.get("kind")
    if kind == "label":
        return OneLabel(tuple(settings["labels"]))
    if kind == "labels":
        return LabelSet(tuple(settings["labels"]))
    if kind == "object":
        return JsonObject(settings["schema"])
    raise UsageError(
        "the intent task has no settings, so its set of answers is unknown",
        fix="Take them from a dataset or an adapter: `searchlora data build intent` writes them.",
    )


def enum_values(schema: Any) -> Sequence[Any]:
    """The `enum` of a field's schema; empty where it has none."""
    return schema.get("enum", ()) if isinstance(schema, Mapping) else ()


def _described(schema: Mapping[str, Any]) -> str:
    """The fields of an object with their values: `need (buy, ask), brand`; empty where there are too many fields."""
    fields: Mapping[str, Any] = schema.get("properties", {})
    if len(fields) > MAX_FIELDS_SHOWN:
        return ""
    return ", ".join(name + _listed(enum_values(field)) for name, field in fields.items())


def _listed(values: Sequence[Any]) -> str:
    return f" ({', '.join(map(str, values))})" if 0 < len(values) <= MAX_VALUES_SHOWN else ""
