"""Settings of the intent task (kind of answer, label set, schema), and answers as a prompt and a target show them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError
from searchlora.files import parse_json, read_text
from searchlora.files.json_schema import check_json_schema
from searchlora.records import Option, Options, Record

#: The kinds of answer; each is also the name of the record field that holds it.
KINDS = ("label", "labels", "object")

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
    """The settings of a dataset: kind, labels, out-of-scope label, schema; see `IntentTask`."""
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
    """The JSON Schema of an object answer."""
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


#: The prompt lists at most this many labels. A longer list is left out: an adapter has learned the labels, and
#: constrained decoding holds the base model to them.
MAX_LABELS_SHOWN = 20

#: The prompt lists at most this many fields of a schema, and at most this many values of one field.
MAX_FIELDS_SHOWN = 12
MAX_VALUES_SHOWN = 6


def kind_of(record: Record) -> str | None:
    """The kind of a record's answer; None for a record without an answer."""
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
    """The completion to train on: the label itself, or compact JSON."""
    kind = kind_of(record)
    if kind is None:
        raise UsageError("has no answer to train on", where=f"record {record.get('id')}")
    answer = record[kind]
    return str(answer) if kind == "label" else json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


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
