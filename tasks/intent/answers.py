"""Answers of the intent task: the gold answer of a record as text, the output form, and the fields of the prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchlora.errors import UsageError
from searchlora.outputs import Grammar, InvalidOutput, JsonObject, OneLabel, OutputSpec
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


@dataclass(frozen=True)
class LabelSet:
    """Output form: a JSON list of distinct labels of a closed set. The value is in the order of the set.

    Constrained decoding writes the labels in that order too, so every set has exactly one spelling. A JSON Schema
    cannot express this, since llguidance does not support `uniqueItems`.

    Raises:
        ValueError: for an empty set or a repeated label.

    Examples:
        >>> form = LabelSet(("refund", "return"))
        >>> form.parse('["return", "refund"]')
        ['refund', 'return']
        >>> form.parse('["exchange"]').reason
        '"exchange" is not one of the labels'
    """

    labels: tuple[str, ...]
    choices: None = None

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError("a label set needs labels, all different")

    @property
    def grammar(self) -> Grammar:
        """A Lark grammar with two rules per label: `first_i` and `after_i` accept the labels from the i-th on."""
        names = [json.dumps(json.dumps(label, ensure_ascii=False), ensure_ascii=False) for label in self.labels]
        last = len(names)
        rules = ['start: "[]" | "[" first_0 "]"', f"first_{last - 1}: {names[-1]}", f'after_{last}: ""']
        rules += [f"first_{at}: {names[at]} after_{at + 1} | first_{at + 1}" for at in range(last - 1)]
        rules += [f'after_{at}: "," {names[at]} after_{at + 1} | after_{at + 1}' for at in range(1, last)]
        return Grammar("lark", "\n".join(rules))

    def parse(self, text: str) -> list[str] | InvalidOutput:
        """Parse a completion strictly: a list of labels, or `InvalidOutput`."""
        try:
            value = json.loads(text)
        except ValueError as error:
            return InvalidOutput(text, f"not JSON: {error}")
        if not isinstance(value, list):
            return InvalidOutput(text, "not a list")
        unknown = next((label for label in value if label not in self.labels), None)
        if unknown is not None:
            return InvalidOutput(text, f"{json.dumps(unknown)} is not one of the labels")
        if len(set(value)) != len(value):
            return InvalidOutput(text, "a label is repeated")
        return [label for label in self.labels if label in value]


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
