"""The files of a shop's folder, each synced and hashed as it is written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path


class ShopFiles:
    """Writes files into a folder.

    Attributes:
        sha256: Name of each file written so far -> its hash.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.sha256: dict[str, str] = {}

    def lines(self, name: str, lines: Iterable[str]) -> None:
        """Text with its line ends."""
        file = self._folder / name
        file.parent.mkdir(exist_ok=True)
        digest = hashlib.sha256()
        with file.open("wb") as stream:
            for line in lines:
                data = line.encode()
                digest.update(data)
                stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        self.sha256[name] = digest.hexdigest()

    def rows(self, name: str, rows: Iterable[Mapping[str, object]]) -> None:
        """One JSON object a line."""
        self.lines(name, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def value(self, name: str, value: object, *, indent: int = 1) -> None:
        """One JSON value over several lines, in ASCII."""
        self.lines(name, [json.dumps(value, indent=indent) + "\n"])
