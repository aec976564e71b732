"""The rows that are refused while a dataset is built: listed in a file, counted, the first of them told."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from searchlora.errors import DataError, RejectedRows
from searchlora.records import RejectedRow, SourceReport

REJECTED_FILE = "rejected.jsonl"
SHOWN = 3  # rejected rows in an error's text
REASONS = 50  # different reasons counted apart


def beside(out: Path, name: str) -> Path:
    """`OUT.name`, for a list that is reported although `out` was not made."""
    return out.with_name(f"{out.name}.{name}")


class Refusals:
    """The list of refused rows.

    Args:
        folder: Where the list is written.

    Attributes:
        counts: Reason -> rows refused for it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / REJECTED_FILE
        self.counts: Counter[str] = Counter()
        self._first: list[RejectedRow] = []
        # A lone surrogate is why a row is rejected; written as \udXXX it does not spoil the list.
        self._out = self.path.open("w", encoding="utf-8", errors="backslashreplace")

    def add(self, row: RejectedRow) -> None:
        """List a row."""
        line = {"where": row.where, "reason": row.reason, "row": row.data}
        self._out.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        # Reasons quote values, so there may be as many of them as rows.
        self.counts[row.reason if row.reason in self.counts or len(self.counts) < REASONS else "other"] += 1
        if len(self._first) < SHOWN:
            self._first.append(row)

    def close(self) -> None:
        """Finish the list."""
        self._out.close()

    def check(self, source: Path, out: Path, taken: int, reports: Sequence[SourceReport], allowed: bool) -> None:
        """Raise unless the rows that were `taken` make a dataset.

        Raises:
            RejectedRows: when rows were refused and that is not `allowed`, or no other was left; the list is then
                copied to `OUT.rejected.jsonl`.
            DataError: when there was no row at all.
        """
        refused = self.counts.total()
        counts = [f"{name}: {count}" for report in reports for name, count in report.counts.items()]
        reported = f" ({', '.join(counts)})" if counts else ""
        if not refused and not taken:
            raise DataError(f"holds no usable row{reported}", where=str(source))
        if not refused or (allowed and taken):
            return
        listing = beside(out, REJECTED_FILE)
        shutil.copyfile(self.path, listing)
        told = "; ".join(f"{row.where}: {row.reason}" for row in self._first)
        more = f"; and {refused - SHOWN} more" if refused > SHOWN else ""
        if not taken:
            raise RejectedRows(
                f"no row is usable{reported}, {refused} were refused: {told}{more}",
                where=str(source),
                fix=f"All are listed in {listing}. Mend them, or choose the format and options that fit the source; "
                "no dataset was written.",
            )
        raise RejectedRows(
            f"{refused} of {refused + taken} rows were refused: {told}{more}",
            where=str(source),
            fix=f"All are listed in {listing}. Mend them, or build from the rest with --allow-rejects; "
            "no dataset was written.",
        )
