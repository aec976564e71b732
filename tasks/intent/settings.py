"""The settings of the task: which answers there are, from the builder's options and the training records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError
from searchlora.records import Options, Record
from searchlora.tasks.intent.answers import KINDS, kind_of, values_of

#: The options that every format understands, beside its own.
OPTIONS: Mapping[str, str] = {
    "kind": "which answer of a record is used, where it has several: label, labels or object (default: the one it has)",
    "labels": "a text file with the label set, one a line (default: the labels of the training rows)",
    "schema": "a file with the JSON Schema of the object; needed where answers are objects",
    "out_of_scope": "the label, or the value of a field, for what none of the others means; empty for none "
    "(default: the label oos, where rows have it)",
}

#: What data sets call the label for what none of the others means (CLINC150, and those after it).
USUAL_OUT_OF_SCOPE = "oos"


def settings_from(options: Options, records: Iterable[Record]) -> Mapping[str, Any]:
    """Kind, labels, out-of-scope label, schema; see `IntentTask`.

    Raises:
        DataError: when a file cannot be used, or there are fewer labels than two.
        UsageError: when answers are objects and no schema was given, or no field of it has the out-of-scope value; or
            an out-of-scope label is given for rows with several labels.
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
        return {"kind": kind, "schema": schema, "out_of_scope": _value_of(schema, options.get("out_of_scope"))}
    usual = USUAL_OUT_OF_SCOPE if USUAL_OUT_OF_SCOPE in labels else None
    beyond = options.get("out_of_scope", usual) or None
    if "labels" in options:
        labels = {*read_labels(Path(options["labels"])), *(labels & {beyond})}
    if len(labels) < 2:
        raise DataError(
            f"the training rows have {len(labels)} label, and a choice needs two",
            fix="Give the label set with --option labels=FILE, or more data.",
        )
    if kind == "labels":
        if options.get("out_of_scope"):
            raise UsageError("rows with several labels have no label out of scope", where="--option out_of_scope")
        return {"kind": kind, "labels": sorted(labels)}
    return {"kind": kind, "labels": sorted(labels), "out_of_scope": beyond}


def wanted_kind(options: Options) -> str | None:
    """The kind that the options ask for. Raises `UsageError` for one that there is not."""
    kind = options.get("kind")
    if kind is not None and kind not in KINDS:
        raise UsageError(f"there is no kind '{kind}'", where="--option kind", fix=f"Known kinds: {', '.join(KINDS)}.")
    return kind


def read_labels(path: Path) -> list[str]:
    """The lines of a label file. Raises `DataError` for one that cannot be read, is empty, or has a label twice."""
    labels = [line.strip() for line in _text(path, "a list of labels").splitlines() if line.strip()]
    twice = next((label for place, label in enumerate(labels) if label in labels[:place]), None)
    if not labels or twice is not None:
        what = "holds no label" if twice is None else f"holds the label '{twice}' twice"
        raise DataError(what, where=str(path), fix="Write each label once, one a line.")
    return labels


def read_schema(path: Path) -> dict[str, Any]:
    """A JSON Schema of objects.

    Raises:
        DataError: for a file that is none, or one to which generation cannot be constrained.
    """
    import jsonschema
    from llguidance import LLMatcher

    try:
        schema = json.loads(_text(path, "a JSON Schema"))
    except ValueError as error:
        raise DataError(f"is not JSON ({error})", where=str(path)) from None
    if not isinstance(schema, dict) or schema.get("type") != "object" or not schema.get("properties"):
        raise DataError(
            "is no schema of objects with named fields",
            where=str(path),
            fix='Write {"type": "object", "properties": {...}, "required": [...], "additionalProperties": false}.',
        )
    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        raise DataError(f"is no JSON Schema ({error.message})", where=str(path)) from None
    refused = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    if refused:
        raise DataError(
            f"generation cannot be constrained to it ({refused.strip()})",
            where=str(path),
            fix="Write the schema without what is refused.",
        )
    return schema


def scope_field(schema: Mapping[str, Any], beyond: str) -> str | None:
    """The field of an object that has the out-of-scope value among its values."""
    return next((name for name, form in schema["properties"].items() if beyond in values_of(form)), None)


def _value_of(schema: Mapping[str, Any], beyond: str | None) -> str | None:
    if beyond and scope_field(schema, beyond) is None:
        raise UsageError(
            f"no field of the schema has '{beyond}' among its values (enum)", where="--option out_of_scope"
        )
    return beyond or None


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as {what} ({error})", where=str(path)) from None
