"""Validation of records against the schema of their task, and the list of rejected rows."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, RejectedRows
from searchlora.files import NOT_UTF8
from searchlora.files.json_schema import check_json_schema, schema_validator
from searchlora.records import RejectedRow, SourceReport

_MAX_FAULTS = 3
_MAX_MESSAGE = 200


class RecordCheck:
    """Validates records against the JSON Schema of a task, compiled once.

    Args:
        schema: JSON Schema of a record, in the draft that its `$schema` names.

    Raises:
        DataError: if the schema is invalid or refers to anything outside itself.

    Examples:
        >>> check = RecordCheck({"properties": {"query": {"type": "string"}}})
        >>> check.fault({"query": 7})
        "field 'query': 7 is not of type 'string'"
        >>> check.fault({"query": "tent"}) is None
        True
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        check_json_schema(schema, "record schema")
        self._validator = schema_validator(schema)

    def fault(self, record: Any) -> str | None:
        """The faults of a record, field by field ("field 'history/0/role': ..."), or None."""
        faults = [_message(error) for error in self._validator.iter_errors(record)]
        if not faults:
            return None
        more = len(faults) - _MAX_FAULTS
        return "; ".join(faults[:_MAX_FAULTS]) + (f"; and {more} more" if more > 0 else "")


def _message(error: Any) -> str:
    message = error.message if len(error.message) <= _MAX_MESSAGE else f"{error.message[:_MAX_MESSAGE]}..."
    field = "/".join(str(part) for part in error.absolute_path)
    return f"field '{field}': {message}" if field else message


REJECTED_FILE = "rejected.jsonl"

#: Rejected rows that are listed. Every line of a file of another kind is one, and takes more room in the list.
MAX_LISTED = 100_000

_ROWS_IN_MESSAGE = 3
_MAX_REASONS = 50  # reasons counted separately


def beside(out: Path, name: str) -> Path:
    """`OUT.name`, the path of a list that is kept although `out` is not written."""
    return out.with_name(f"{out.name}.{name}")


class RejectedList:
    """The rejected rows of a build: listed in a file, counted by reason, the first ones shown in the error.

    Args:
        folder: Folder of the list.

    Attributes:
        counts: Reason -> number of rows rejected for it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / REJECTED_FILE
        self.counts: Counter[str] = Counter()
        self._first: list[RejectedRow] = []
        self._total = 0
        # A rejected row may hold a lone surrogate, which is written as \udXXX.
        self._out = self.path.open("w", encoding="utf-8", errors="backslashreplace")

    def add(self, row: RejectedRow) -> None:
        """Add a row."""
        if self._total < MAX_LISTED:
            line = {"where": row.where, "reason": row.reason, "row": row.data}
            self._out.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        self._total += 1
        # Reasons quote values, so there may be as many reasons as rows.
        self.counts[row.reason if row.reason in self.counts or len(self.counts) < _MAX_REASONS else "other"] += 1
        if len(self._first) < _ROWS_IN_MESSAGE:
            self._first.append(row)

    def close(self) -> None:
        """Close the list."""
        self._out.close()

    def check(self, source: Path, out: Path, accepted: int, reports: Sequence[SourceReport], allowed: bool) -> None:
        """Raise unless the `accepted` rows make a dataset.

        Raises:
            RejectedRows: if rows were rejected and that is not `allowed`, or no other row is left; the list is then
                copied to `OUT.rejected.jsonl`.
            DataError: if there was no row at all.
        """
        rejected = self.counts.total()
        counts = [f"{name}: {count}" for report in reports for name, count in report.counts.items()]
        reported = f" ({', '.join(counts)})" if counts else ""
        if not rejected and not accepted:
            raise DataError(f"holds no usable row{reported}", where=str(source))
        if not rejected or (allowed and accepted):
            return
        listing = beside(out, REJECTED_FILE)
        shutil.copyfile(self.path, listing)
        listed = "All are" if rejected <= MAX_LISTED else f"The first {MAX_LISTED:,} are"
        examples = "; ".join(f"{row.where}: {row.reason}" for row in self._first)
        not_utf8 = any(NOT_UTF8 in reason for reason in self.counts)
        mend = "Give the encoding, as --encoding cp1252, or correct them" if not_utf8 else "Correct them"
        more = f"; and {rejected - _ROWS_IN_MESSAGE} more" if rejected > _ROWS_IN_MESSAGE else ""
        if not accepted:
            raise RejectedRows(
                f"no row is usable{reported}, {rejected} were rejected: {examples}{more}",
                where=str(source),
                fix=f"{listed} listed in {listing}. {mend}, or choose the format and options that fit the "
                "source; no dataset was written.",
            )
        raise RejectedRows(
            f"{rejected} of {rejected + accepted} rows were rejected: {examples}{more}",
            where=str(source),
            fix=f"{listed} listed in {listing}. {mend}, or build from the rest with --allow-rejects; "
            "no dataset was written.",
        )
