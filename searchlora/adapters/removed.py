"""`removed.json`: the versions of a name that were taken away; their numbers are not given again."""

from __future__ import annotations

import json
from pathlib import Path

from searchlora.adapters.files import replace_text
from searchlora.errors import StoreError


class Removed:
    """The removed versions of one name. Whoever adds one holds the name's lock."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "removed.json"

    def numbers(self) -> list[int]:
        """Ascending. Raises `StoreError` when the file is damaged."""
        if not self.file.is_file():
            return []
        try:
            return [int(number) for number in json.loads(self.file.read_text(encoding="utf-8"))]
        except (ValueError, TypeError):
            raise StoreError("is not a list of version numbers", where=str(self.file), fix="Restore it.") from None

    def add(self, number: int) -> None:
        """Add a version."""
        replace_text(self.file, json.dumps(sorted({*self.numbers(), number})) + "\n")
