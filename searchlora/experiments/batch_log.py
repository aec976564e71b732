"""Results of a run batch by batch, in a log on disk from which a killed run continues.

The log stands in a hidden folder beside the run's first file until all batches are done; then the files are written
from it, so a continued run writes the bytes of an uninterrupted one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from searchlora.errors import DataError
from searchlora.files import resumable_folder
from searchlora.files.append_log import AppendLog


class BatchLog:
    """The batches of a run.

    Args:
        log: Where they are written; each line is a batch.
        files: Number of files that the run writes.

    Attributes:
        done: Number of rows in all batches.
    """

    def __init__(self, log: AppendLog, files: int) -> None:
        self._log = log
        self._files = files
        try:
            self.done = sum(rows for rows, _ in self._batches())
        except (DataError, ValueError, KeyError, TypeError):  # somebody changed it, or it is of another release
            log.clear()
            self.done = 0

    def append(self, rows: int, texts: Sequence[str]) -> None:
        """Add a batch: the next text of each file. After the call a kill does not lose it. Raises `DataError`."""
        self._log.append({"rows": rows, "texts": texts})
        self.done += rows

    def texts(self, file: int) -> Iterator[str]:
        """The texts of one file, in order."""
        return (texts[file] for _, texts in self._batches())

    def _batches(self) -> Iterator[tuple[int, list[str]]]:
        for batch in self._log:
            rows, texts = batch["rows"], batch["texts"]
            if type(rows) is not int or rows < 1 or len(texts) != self._files or set(map(type, texts)) != {str}:
                raise ValueError("is not a batch")
            yield rows, texts


@contextmanager
def batch_log(target: Path, files: int, key: dict[str, Any]) -> Iterator[BatchLog]:
    """The batches of a run whose first file is `target`; they are removed at the end of the block.

    After an error in the block they stay, if a batch is complete.

    Args:
        key: All that their content depends on, as JSON. Batches of another key are discarded.

    Raises:
        DataError: if another process writes the same target, or its folder cannot be written.
    """
    with resumable_folder(target) as folder:
        batches = None
        try:
            with AppendLog(folder / "batches.jsonl", key) as log:
                batches = BatchLog(log, files)
                yield batches
        except BaseException:
            if batches is None or not batches.done:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
