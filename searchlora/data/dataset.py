"""A dataset folder, as everyone after the builder sees it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.data.card import SETTINGS_FILE, DatasetCard, read_card
from searchlora.data.collection import CORPUS_FILE, QRELS_FILE, read_documents
from searchlora.data.splits import SPLITS
from searchlora.errors import DataError, UsageError
from searchlora.eval.trec import Qrels, read_qrels
from searchlora.files import file_sha256
from searchlora.records import Document, Record


@dataclass(frozen=True)
class Dataset:
    """A built dataset.

    Attributes:
        folder: Where it is.
        card: What it is.
    """

    folder: Path
    card: DatasetCard

    def records(self, split: str) -> list[Record]:
        """All records of a split. Raises `UsageError` for a split there is not."""
        return list(self.iter_records(split))

    def iter_records(self, split: str) -> Iterator[Record]:
        """The records of a split one at a time, for datasets that do not fit in memory."""
        if split not in SPLITS:
            raise UsageError(f"there is no split '{split}'", fix=f"The splits are {', '.join(SPLITS)}.")
        path = self._file(f"{split}.jsonl")
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield json.loads(line)
                except ValueError:
                    raise DataError(
                        "is not JSON", where=f"{path}, line {number}", fix="Build the dataset again."
                    ) from None

    @property
    def settings(self) -> dict[str, Any] | None:
        """What the builder found out of the task's settings, for `Task.bound`; None where it has the default ones."""
        if SETTINGS_FILE not in self.card.files:
            return None
        settings: dict[str, Any] = json.loads(self._file(SETTINGS_FILE).read_text(encoding="utf-8"))
        return settings

    def documents(self) -> list[Document] | None:
        """The collection to retrieve from; None where the source has none."""
        return list(read_documents(self._file(CORPUS_FILE))) if self.card.collection is not None else None

    @property
    def relevant(self) -> int:
        """The grade from which on a document counts as relevant in binary measures."""
        return (self.card.collection or {}).get("relevant from grade", 1)

    def qrels(self) -> Qrels | None:
        """The judgments, of all splits; None where the source has none."""
        if self.card.collection is None or not self.card.collection["judgments"]:
            return None
        return read_qrels(self._file(QRELS_FILE))

    def verify(self) -> None:
        """Raise `DataError` naming the first file that is missing or is not the one that the builder wrote."""
        for name, wanted in self.card.files.items():
            found = file_sha256(self._file(name))
            if found != wanted:
                raise DataError(
                    f"was changed after it was built (sha256 {found}, the card says {wanted})",
                    where=str(self.folder / name),
                    fix="Build the dataset again.",
                )

    @property
    def fingerprint(self) -> str:
        """sha256 over the names and hashes of the files on the card."""
        return hashlib.sha256(json.dumps(dict(sorted(self.card.files.items()))).encode()).hexdigest()

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise DataError("the file is missing", where=str(path), fix="Build the dataset again.")
        return path


def load_dataset(folder: str | Path) -> Dataset:
    """Open a dataset folder.

    Raises:
        DataError: when it is not one, or a newer version of searchlora built it.
    """
    return Dataset(Path(folder), read_card(Path(folder)))
