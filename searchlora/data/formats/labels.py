"""Readers of labelled texts: tables with a text and a label (BANKING77 among them), and CLINC150."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from searchlora.data.formats.common import as_word, field_map, read_table, split_files
from searchlora.data.splits import SPLIT_NAMES
from searchlora.errors import DataError
from searchlora.files import Rows, check_file, json_file
from searchlora.records import Option, RejectedRow, SourceRow

#: Options of `read_labelled`: column -> meaning; each names a column that is called differently in the source.
LABEL_COLUMNS: Mapping[str, Option] = {
    "text": Option("the text", "columns", "text"),
    "label": Option("the label of the text", "column", "label"),
    "id": Option("the id, one word", "column", "the split, if any, and the number of the row"),
}


def read_labelled(source: Path, options: Mapping[str, str]) -> Rows:
    """Labelled texts, from one file or a folder with a file per split.

    Args:
        options: Name of each of `LABEL_COLUMNS` in the source, if different. Ids are read only if their column is
            named.

    Yields:
        `id`, `text`, `label`, `split` (None for a single file). Rows are numbered from 1 in each split, rejected
        rows included.
    """
    fields = field_map(options, LABEL_COLUMNS)
    numbers = Counter[str | None]()
    for path, split in split_files(source):
        for row in read_table(path, fields, ("text", "label"), texts=("text",)):
            numbers[split] += 1
            if isinstance(row, RejectedRow):
                yield row
                continue
            name = as_word(row.data["id"]) if "id" in fields else f"{split or 'row'}-{numbers[split]}"
            label = row.data["label"]
            label = str(label).strip() if isinstance(label, str | int) else label
            yield replace(row, data={"id": name, "text": row.data["text"], "label": label, "split": split})


def read_banking77(source: Path) -> Rows:
    """BANKING77 (Casanueva et al. 2020, arXiv:2003.04807): `train.csv` and `test.csv` with `text,category`."""
    return read_labelled(source, {"label": "category"})


CLINC150_OOS = "oos"


def read_clinc150(source: Path) -> Iterator[SourceRow | RejectedRow]:
    """CLINC150 (Larson et al. 2019, arXiv:1909.02027): 150 intents, and queries of none of them.

    `data_full.json` and its variants: `{"train": [[text, intent], ...], "oos_train": [[text, "oos"], ...], ...}`.

    Yields:
        `id` (the published split and the number in it), `text`, `label`, `split`.

    Raises:
        DataError: if the file is missing, not JSON, or not of this layout.
    """
    for name, rows in _clinc150_parts(source).items():
        split = SPLIT_NAMES.get(name.removeprefix(f"{CLINC150_OOS}_"))
        if split is None or not isinstance(rows, list):
            raise DataError(
                f"'{name}' is not a list of a split",
                where=source.name,
                fix="The keys are train, val, test, oos_train, oos_val and oos_test.",
            )
        for number, row in enumerate(rows, start=1):
            where = f"{source.name}, {name} row {number}"
            if isinstance(row, list) and len(row) == 2 and all(isinstance(part, str) for part in row):
                text, label = row
                yield SourceRow({"id": f"{name}-{number}", "text": text, "label": label, "split": split}, where)
            else:
                yield RejectedRow(where, "is not a pair of text and intent", row)


def _clinc150_parts(source: Path) -> dict[str, Any]:
    check_file(source)
    parts = json_file(source)
    if not isinstance(parts, dict):
        raise DataError(
            "is not an object of splits", where=str(source), fix="Name data_full.json or one of its variants."
        )
    return parts
