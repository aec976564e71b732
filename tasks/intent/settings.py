"""Settings of the intent task (kind of answer, label set, schema), from the builder's options and the records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError
from searchlora.files import parse_json, read_text
from searchlora.files.json_schema import check_json_schema
from searchlora.records import Option, Options, Record
from searchlora.tasks.intent.answers import KINDS, enum_values, kind_of

#: Options of every format of the task.
OPTIONS: Mapping[str, Option] = {
    "kind": Option(
        "the answer to use where records have several", "label, labels or object", "the one that the records have"
    ),
    "labels": Option("the label set, one label per line", "file", "the labels of the training rows"),
    "schema": Option("the JSON Schema of the object; required where answers are objects", "file"),
    "out_of_scope": Option(
        "the label, or the value of a field, for queries that no other label fits; empty: none",
        "text",
        "the label oos, if rows have it",
    ),
}

#: The usual name of the out-of-scope label in public data (CLINC150 and later sets).
DEFAULT_OOS_LABEL = "oos"


def settings_from(options: Options, records: Iterable[Record]) -> Mapping[str, Any]:
    """The settings of a dataset: kind, labels, out-of-scope label, schema; see `IntentTask`.

    Args:
        options: Options of the dataset builder, see `OPTIONS`.
        records: The records of the training split.

    Raises:
        DataError: if a file cannot be used, or there are fewer than two labels.
        UsageError: if answers are objects and no schema was given or none of its fields has the out-of-scope value;
            or if an out-of-scope label is given for records with several labels.
    """
    kind = None
    labels: set[str] = set()
    for record in records:
        kind = kind or kind_of(record)
        labels |= {record["label"]} if "label" in record else set(record.get("labels", []))
    if kind == "object":
        if "schema" not in options:
            raise UsageError("the answers are objects, but no schema was given", fix="Give --option schema=FILE.")
        schema = read_schema(Path(options["schema"]))
        oos_value = options.get("out_of_scope") or None
        if oos_value and scope_field(schema, oos_value) is None:
            raise UsageError(
                f"no field of the schema has '{oos_value}' among its values (enum)", where="--option out_of_scope"
            )
        return {"kind": kind, "schema": schema, "out_of_scope": oos_value}
    default = DEFAULT_OOS_LABEL if DEFAULT_OOS_LABEL in labels else None
    oos_label = options.get("out_of_scope", default) or None
    if "labels" in options:
        labels = {*read_labels(Path(options["labels"])), *(labels & {oos_label})}
    if len(labels) < 2:
        raise DataError(
            f"the training rows have {len(labels)} label, but at least two are required",
            fix="Give the label set with --option labels=FILE, or more data.",
        )
    if kind == "labels":
        if options.get("out_of_scope"):
            raise UsageError("records with several labels have no out-of-scope label", where="--option out_of_scope")
        return {"kind": kind, "labels": sorted(labels)}
    return {"kind": kind, "labels": sorted(labels), "out_of_scope": oos_label}


def requested_kind(options: Options) -> str | None:
    """The kind of answer in the options, if any. Raises `UsageError` for an unknown kind."""
    kind = options.get("kind")
    if kind is not None and kind not in KINDS:
        raise UsageError(f"there is no kind '{kind}'", where="--option kind", fix=f"Known kinds: {', '.join(KINDS)}.")
    return kind


def read_labels(path: Path) -> list[str]:
    """The labels of a file, one per line. Raises `DataError` if it is unreadable or empty, or repeats a label."""
    labels = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    repeated = next((label for label, count in Counter(labels).items() if count > 1), None)
    if not labels or repeated is not None:
        what = "contains no label" if repeated is None else f"contains the label '{repeated}' twice"
        raise DataError(what, where=str(path), fix="Write each label once, one per line.")
    return labels


def read_schema(path: Path) -> dict[str, Any]:
    """The JSON Schema of an object answer.

    Raises:
        DataError: if the file is not a JSON Schema of an object, or constrained decoding does not support it.
    """
    from llguidance import LLMatcher

    try:
        schema = parse_json(read_text(path))
    except ValueError as error:
        raise DataError(f"is not JSON ({error})", where=str(path)) from None
    if not isinstance(schema, dict) or schema.get("type") != "object" or not schema.get("properties"):
        raise DataError(
            "is not the schema of an object with named fields",
            where=str(path),
            fix='Write {"type": "object", "properties": {...}, "required": [...], "additionalProperties": false}.',
        )
    check_json_schema(schema, str(path))
    refused = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    if refused:
        raise DataError(
            f"is not supported by constrained decoding ({refused.strip()})",
            where=str(path),
            fix="Write the schema without the unsupported keyword.",
        )
    return schema


def scope_field(schema: Mapping[str, Any], oos_value: str) -> str | None:
    """The field whose `enum` contains the out-of-scope value; None where no field has it."""
    return next((name for name, form in schema["properties"].items() if oos_value in enum_values(form)), None)
