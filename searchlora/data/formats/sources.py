"""A source that is one file, or a folder with a file per split."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from searchlora.data.splits import SPLIT_NAMES, SPLITS
from searchlora.errors import DataError
from searchlora.files import EXTENSIONS


def split_files(source: Path) -> Iterator[tuple[Path, str | None]]:
    """The files of a source, each with the official split that it is.

    A file has none. In a folder, the files with a split in their name ("train.json", "qrecc_test.json.gz", dev for
    validation) are taken, in the order train, validation, test.

    Raises:
        DataError: for a folder without such a file.
    """
    if not source.is_dir():
        yield source, None
        return
    found = sorted(
        (SPLITS.index(split), path, split) for path in source.iterdir() if (split := _split_of(path)) is not None
    )
    if not found:
        raise DataError(
            "no file in the folder has train, dev or test in its name", where=str(source), fix="Name the file itself."
        )
    for _, path, split in found:
        yield path, split


def _split_of(path: Path) -> str | None:
    name = path.name.lower()
    if not name.removesuffix(".gz").endswith(EXTENSIONS):
        return None
    named = {SPLIT_NAMES[word] for word in re.split(r"[\W_]+", name) if word in SPLIT_NAMES}
    return named.pop() if len(named) == 1 else None
