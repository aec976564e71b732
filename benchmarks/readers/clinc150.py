"""Reader of CLINC150: texts with one of 150 intents, and texts of none of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from searchlora.data.splits import SPLIT_NAMES
from searchlora.errors import DataError
from searchlora.files import check_file, json_file
from searchlora.records import RejectedRow, SourceRow


def read_clinc150(source: Path) -> Iterator[SourceRow | RejectedRow]:
    """CLINC150 (Larson et al. 2019, arXiv:1909.02027): 150 intents, and queries of none of them.

    `data_full.json` and its variants: `{"train": [[text, intent], ...], "oos_train": [[text, "oos"], ...], ...}`.

    Yields:
        `id` (the published split and the number in it), `text`, `label`, `split`.

    Raises:
        DataError: if the file is missing, not JSON, or not of this layout.
    """
    check_file(source)
    parts = json_file(source)
    if not isinstance(parts, dict):
        fix = "Name data_full.json or one of its variants."
        raise DataError("is not an object of splits", where=str(source), fix=fix)
    for name, rows in parts.items():
        split = SPLIT_NAMES.get(name.removeprefix("oos_"))
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
