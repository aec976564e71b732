"""Source formats of the intent task, and the check of each row against the label list or the schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from searchlora.data.formats import tables
from searchlora.data.formats.clinc150 import read_clinc150
from searchlora.data.formats.common import NATIVE, Converted, mapped, native, native_columns, with_options, with_split
from searchlora.data.validation import RecordCheck
from searchlora.errors import UsageError
from searchlora.eval.text_identity import normalised
from searchlora.files import Rows
from searchlora.records import Format, Options, Record
from searchlora.tasks.intent.settings import KINDS, OPTIONS, read_labels, read_schema, requested_kind

SHOP_RECORDS = "intent.jsonl"
SHOP_SCHEMA = "intent.schema.json"

REQUIRED_FIELDS = ("id", "group", "query")

#: Fields that a table cell holds as JSON.
JSON_FIELDS = ("labels", "object")


@dataclass
class AnswerCheck:
    """Checks rows one by one: every row has the same kind of answer, and the answer fits the label set or the schema.

    Args:
        kind: The required kind; None: that of the first row.
        labels: The label set; None: any label is accepted.
        schema: JSON Schema of an object answer.
    """

    kind: str | None
    labels: frozenset[str] | None
    schema: Mapping[str, Any] | None
    requested: bool = field(init=False)

    def __post_init__(self) -> None:
        self.requested = self.kind is not None
        self._object_check = RecordCheck(self.schema) if self.schema is not None else None

    @classmethod
    def from_options(cls, options: Options) -> AnswerCheck:
        """Build the check from the builder's options. Raises `UsageError` or `DataError` for unusable options."""
        labels = None
        if "labels" in options:
            # The out-of-scope label may occur in test rows only, so the list need not contain it.
            labels = frozenset({*read_labels(Path(options["labels"])), options.get("out_of_scope") or ""}) - {""}
        schema = read_schema(Path(options["schema"])) if "schema" in options else None
        return cls(requested_kind(options), labels, schema)

    def checked(self, data: Record) -> Converted:
        """The record with its single answer in canonical order, or the reason why it is rejected."""
        present = [kind for kind in KINDS if kind in data]
        if self.kind is None and len(present) == 1:
            self.kind = present[0]
        problem = self._problem(data, present)
        if problem is not None:
            return problem
        kind = self.kind or present[0]
        return {**{name: value for name, value in data.items() if name not in KINDS}, kind: self._ordered(data[kind])}

    def _problem(self, data: Mapping[str, Any], present: list[str]) -> str | None:
        if not present:
            return f"has none of the fields {', '.join(KINDS)}"
        if not self.requested and len(present) > 1:
            return f"has the fields {' and '.join(present)}; choose one with --option kind={present[0]}"
        if self.kind not in present:
            return f"has the field '{present[0]}', but '{self.kind}' is required (first row, or --option kind)"
        answer = data[self.kind]
        if self.kind == "object":
            return self._object_problem(answer)
        # Values that are not strings are rejected by the record schema.
        labels = [label for label in (answer if isinstance(answer, list) else [answer]) if isinstance(label, str)]
        unknown = next((label for label in labels if self.labels is not None and label not in self.labels), None)
        return None if unknown is None else f"field '{self.kind}': '{unknown}' is not in the list of labels"

    def _object_problem(self, answer: Any) -> str | None:
        if self._object_check is None:
            raise UsageError("the answers are objects, but no schema was given", fix="Give --option schema=FILE.")
        problem = self._object_check.fault(answer)
        return None if problem is None else f"object: {problem}"

    def _ordered(self, answer: Any) -> Any:
        """Labels sorted; the fields of an object in the order of the schema, in which constrained decoding writes."""
        if self.kind == "labels" and isinstance(answer, list):
            return sorted(answer, key=str)
        if self.kind == "object" and self.schema is not None:
            return _in_schema_order(self.schema, answer)
        return answer


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


def _native(source: Path, options: Options) -> Rows:
    return native(source, options, REQUIRED_FIELDS, JSON_FIELDS)


def _labelled(data: Record) -> Record:
    """The record of a labelled text. Texts that differ in case or punctuation only share a group."""
    text = data["text"]
    record = {"id": data["id"], "group": normalised(text), "query": text, "label": data["label"]}
    return with_split(record, data["split"])


def _shop_options(source: Path, given: Options) -> Options:
    del given
    from searchlora.shop.intents import OUT_OF_SCOPE

    return {"schema": str(source / SHOP_SCHEMA), "out_of_scope": OUT_OF_SCOPE}


FORMATS: Mapping[str, Format] = {
    format.name: with_options(format, OPTIONS, lambda options: AnswerCheck.from_options(options).checked)
    for format in (
        Format(
            name="native",
            description=NATIVE,
            read=_native,
            options=native_columns(*REQUIRED_FIELDS, "label", "object"),
        ),
        Format(
            name="banking77",
            description="BANKING77 (train.csv and test.csv with text,category), or one of the files",
            read=mapped(lambda source, _: tables.read_labelled(source, tables.BANKING77), _labelled),
        ),
        Format(
            name="clinc150",
            description="CLINC150 (data_full.json and its variants), including its out-of-scope rows (oos)",
            read=mapped(lambda source, _: read_clinc150(source), _labelled),
        ),
        Format(
            name="csv",
            description="two columns, text and label (CSV, TSV, JSONL, JSON, Parquet), or a folder with one file "
            "per split",
            read=mapped(tables.read_labelled, _labelled),
            options=tables.LABEL_COLUMNS,
            needs=("text", "label"),
        ),
        Format(
            name="shop",
            graded_by="synthetic",
            description="a folder written by the synthetic shop",
            read=lambda source, options: _native(source / SHOP_RECORDS, options),
            implied=_shop_options,
        ),
    )
}
