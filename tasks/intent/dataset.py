"""Source formats of the intent task, and the check of each row against the label list or the schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from searchlora.data.formats import tables
from searchlora.data.formats.common import Converted, mapped, native_format, shop_format, with_options, with_split
from searchlora.data.validation import RecordCheck
from searchlora.errors import UsageError
from searchlora.eval.text_identity import normalised
from searchlora.records import Format, Options, Record
from searchlora.tasks.intent.settings import KINDS, OPTIONS, read_labels, read_schema, requested_kind

SHOP_SCHEMA = "intent.schema.json"


def answer_check(options: Options) -> Callable[[Record], Converted]:
    """A check of rows, one by one: all have the same kind of answer, and it fits the label set or the schema.

    It returns the record with its single answer in canonical order, or the reason why it is rejected.
    """
    kind = requested = requested_kind(options)
    labels = None
    if "labels" in options:
        # The out-of-scope label may occur in test rows only, so the list need not contain it.
        labels = frozenset({*read_labels(Path(options["labels"])), options.get("out_of_scope") or ""}) - {""}
    schema = read_schema(Path(options["schema"])) if "schema" in options else None
    object_check = RecordCheck(schema) if schema is not None else None

    def problem(answer: Any) -> str | None:
        if kind == "object":
            if object_check is None:
                raise UsageError("the answers are objects, but no schema was given", fix="Give --option schema=FILE.")
            fault = object_check.fault(answer)
            return None if fault is None else f"object: {fault}"
        for label in answer if isinstance(answer, list) else [answer]:
            # Values that are not strings are rejected by the record schema.
            if labels is not None and isinstance(label, str) and label not in labels:
                return f"field '{kind}': '{label}' is not in the list of labels"
        return None

    def checked(data: Record) -> Converted:
        nonlocal kind
        present = [name for name in KINDS if name in data]
        if not present:
            return f"has none of the fields {', '.join(KINDS)}"
        if requested is None and len(present) > 1:
            return f"has the fields {' and '.join(present)}; choose one with --option kind={present[0]}"
        kind = kind or present[0]
        if kind not in present:
            return f"has the field '{present[0]}', but '{kind}' is required (first row, or --option kind)"
        answer = data[kind]
        if (fault := problem(answer)) is not None:
            return fault
        if kind == "labels" and isinstance(answer, list):
            answer = sorted(answer, key=str)
        elif kind == "object":  # constrained decoding writes the fields in the order of the schema
            answer = _in_schema_order(schema, answer)
        return {**{name: value for name, value in data.items() if name not in KINDS}, kind: answer}

    return checked


def checked(format: Format) -> Format:
    """A format whose rows are checked against the label list or the schema."""
    return with_options(format, OPTIONS, answer_check)


def _in_schema_order(schema: Any, value: Any) -> Any:
    """A value with the fields of each object in the order of its schema; fields not in the schema come last."""
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, dict):
        properties: Mapping[str, Any] = schema.get("properties", {})
        names = [*(name for name in properties if name in value), *(name for name in value if name not in properties)]
        return {name: _in_schema_order(properties.get(name, {}), value[name]) for name in names}
    if isinstance(value, list):
        return [_in_schema_order(schema.get("items"), item) for item in value]
    return value


def labelled(data: Record) -> Record:
    """The record of a labelled text. Texts that differ in case or punctuation only share a group."""
    text = data["text"]
    record = {"id": data["id"], "group": normalised(text), "query": text, "label": data["label"]}
    return with_split(record, data["split"])


def _shop_options(source: Path, given: Options) -> Options:
    del given
    from searchlora.shop.intents import OUT_OF_SCOPE

    return {"schema": str(source / SHOP_SCHEMA), "out_of_scope": OUT_OF_SCOPE}


_NATIVE = native_format(("id", "group", "query"), ("label", "object"), as_json=("labels", "object"))

FORMATS: Mapping[str, Format] = {
    format.name: checked(format)
    for format in (
        _NATIVE,
        Format(
            name="csv",
            description="two columns, text and label (CSV, TSV, JSONL, JSON, Parquet), or a folder with one file "
            "per split",
            read=mapped(tables.read_labelled, labelled),
            options=tables.LABEL_COLUMNS,
            needs=("text", "label"),
        ),
        shop_format("intent.jsonl", _NATIVE.read, implied=_shop_options),
    )
}
