"""Text files that grow batch by batch, with a log on disk from which a killed run continues.

The files stand in a hidden folder beside the final ones until all batches are done. A batch counts once the log has a
line with the sizes of all files after it. What a kill left behind those sizes is cut off, so a continued run writes the
bytes of an uninterrupted one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from searchlora.errors import DataError
from searchlora.files import parse_json, resumable_folder

_LOG = "batches.jsonl"


class KeptBatches:
    """The files of a run and its log.

    Args:
        folder: Where they are.
        parts: Number of files.
        key: All that their content depends on, as JSON. Batches that were kept for another key are discarded.
        target: The file that the user asked for, for error messages.

    Attributes:
        files: The files, in order; plain text.
        done: Number of rows in all kept batches.

    Raises:
        DataError: if the folder cannot be written.
    """

    def __init__(self, folder: Path, parts: int, key: Mapping[str, Any], target: Path) -> None:
        self.files = [folder / f"{number}.txt" for number in range(parts)]
        self.done = 0
        self._folder = folder
        self._log = folder / _LOG
        self._target = target
        with self._writing():
            if not self._continued(json.dumps(key, sort_keys=True)):
                self._begun(json.dumps(key, sort_keys=True))

    def append(self, rows: int, texts: Sequence[str]) -> None:
        """Keep a batch: the next text of each file. After the call a kill does not lose it.

        Raises:
            DataError: if a file cannot be written, or a text has no UTF-8 form.
        """
        sizes = []
        with self._writing():
            for file, text in zip(self.files, texts, strict=True):
                sizes.append(_append(file, text))
            _append(self._log, json.dumps({"done": self.done + rows, "sizes": sizes}) + "\n")
        self.done += rows

    def _continued(self, key: str) -> bool:
        """Whether batches of the same key are there; the files end with the last complete one."""
        try:
            content = self._log.read_bytes()
            complete = content[: content.rfind(b"\n") + 1]
            first, *rest = complete.decode("utf-8").splitlines()
            last: dict[str, Any] = parse_json(rest[-1]) if rest else {"done": 0, "sizes": [0] * len(self.files)}
            done, sizes = last["done"], last["sizes"]
            if first != key or len(sizes) != len(self.files):
                return False
            if any(type(number) is not int or number < 0 for number in (done, *sizes)):
                return False
            if any(file.stat().st_size < size for file, size in zip(self.files, sizes, strict=True)):
                return False
        except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is of another release
            return False
        for file, size in ((self._log, len(complete)), *zip(self.files, sizes, strict=True)):
            os.truncate(file, size)
        self.done = done
        return True

    def _begun(self, key: str) -> None:
        for entry in self._folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for file in self.files:
            _append(file, "")
        _append(self._log, f"{key}\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"cannot be written ({error.strerror or error})", where=str(self._target)) from None
        except UnicodeEncodeError as error:
            what = repr(error.object[error.start : error.end])
            raise DataError(f"{what} cannot be written as UTF-8", where=str(self._target)) from None


@contextmanager
def kept_batches(target: Path, parts: int, key: Mapping[str, Any]) -> Iterator[KeptBatches]:
    """The kept batches of a run whose first file is `target`; the folder is removed at the end of the block.

    After an error in the block the folder stays, if a batch is complete.

    Raises:
        DataError: if another process writes the same target, or the folder cannot be written.
    """
    with resumable_folder(target) as folder:
        batches = KeptBatches(folder, parts, key, target)
        try:
            yield batches
        except BaseException:
            if not batches.done:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _append(file: Path, text: str) -> int:
    """Append to a file and flush it to disk; returns its size in bytes."""
    content = text.encode("utf-8")
    with file.open("ab") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
        return out.tell()
