"""Source formats of the intent task: what each public format calls a thing -> what a record calls it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from searchlora.data.files import Rows
from searchlora.data.formats import clinc150, labelled
from searchlora.data.formats.own_records import NATIVE, mapped, native
from searchlora.data.text import normalised
from searchlora.records import Format, Options, Record, RejectedRow, SourceReport, SourceRow
from searchlora.tasks.intent.checking import AnswerCheck
from searchlora.tasks.intent.settings import OPTIONS

SHOP_RECORDS = "intent.jsonl"
SHOP_SCHEMA = "intent.schema.json"

NEEDED = ("id", "group", "query")

#: Fields that a table cell holds as JSON.
NOT_TEXT = ("labels", "object")


def _native(source: Path, options: Options) -> Rows:
    del options
    return native(source, NEEDED, NOT_TEXT)


def _labelled(data: Mapping[str, Any]) -> Record:
    """A text with its label; rows of the same text, but for case and punctuation, are one group."""
    text, label = data["text"], data["label"]
    label = str(label).strip() if isinstance(label, str | int) else label
    record = {"id": data["id"], "group": normalised(str(text)), "query": text, "label": label}
    return {**record, "split": data["split"]} if data["split"] is not None else record


def _shop_options(source: Path) -> Options:
    from searchlora.shop.intents import OUT_OF_SCOPE

    return {"schema": str(source / SHOP_SCHEMA), "out_of_scope": OUT_OF_SCOPE}


def _checking(format: Format) -> Format:
    """The format with the task's options; each row is checked against them."""

    def read(source: Path, options: Options) -> Iterator[SourceRow | RejectedRow | SourceReport]:
        check = AnswerCheck.of(options)
        for row in format.read(source, {key: value for key, value in options.items() if key not in OPTIONS}):
            yield check.checked(row) if isinstance(row, SourceRow) else row

    return replace(format, read=read, options={**(format.options or {}), **OPTIONS})


FORMATS: Mapping[str, Format] = {
    format.name: _checking(format)
    for format in (
        Format(
            name="native",
            description=NATIVE,
            read=_native,
        ),
        Format(
            name="banking77",
            description="BANKING77 (train.csv and test.csv with text,category), or one of the files",
            read=mapped(lambda source, _: labelled.read_banking77(source), _labelled),
        ),
        Format(
            name="clinc150",
            description="CLINC150 (data_full.json and its kin) with its rows that are out of scope (oos)",
            read=mapped(lambda source, _: clinc150.read(source), _labelled),
        ),
        Format(
            name="csv",
            description="any two columns, text and label (CSV, TSV, JSONL, JSON, Parquet), or a folder with a file "
            "per split",
            read=mapped(labelled.read, _labelled),
            options=labelled.COLUMNS,
        ),
        Format(
            name="shop",
            description="a folder written by the made shop",
            read=lambda source, options: _native(source / SHOP_RECORDS, options),
            implied=_shop_options,
        ),
    )
}
