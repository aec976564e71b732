"""CLINC150: 150 intents and queries that are none of them (Larson et al. 2019, arXiv:1909.02027)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from searchlora.data.splits import SPLIT_NAMES
from searchlora.errors import DataError
from searchlora.files import check_file, open_bytes
from searchlora.records import RejectedRow, SourceRow

OUT_OF_SCOPE = "oos"

#: `val` is what this publisher calls validation.
_SPLITS = {**SPLIT_NAMES, "val": "validation"}


def read(source: Path) -> Iterator[SourceRow | RejectedRow]:
    """`data_full.json` and its kin: `{"train": [[text, intent], ...], "oos_train": [[text, "oos"], ...], ...}`.

    Yields:
        `id` (the split as published, and the number in it), `text`, `label`, `split`.

    Raises:
        DataError: when the file is missing, not JSON, or not of this layout.
    """
    for name, rows in _parts(source).items():
        split = _SPLITS.get(name.removeprefix(f"{OUT_OF_SCOPE}_"))
        if split is None or not isinstance(rows, list):
            raise DataError(
                f"'{name}' is no list of a split",
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


def _parts(source: Path) -> dict[str, Any]:
    check_file(source)
    with open_bytes(source) as file:
        try:
            parts = json.load(file)
        except ValueError as error:
            raise DataError(f"is not JSON ({error})", where=str(source), fix="Fetch it again.") from None
    if not isinstance(parts, dict):
        raise DataError("is not an object of splits", where=str(source), fix="Name data_full.json or one of its kin.")
    return parts
