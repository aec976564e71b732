"""Folders that are there in whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from searchlora.errors import DataError


@contextmanager
def folder_in_the_making(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` that becomes `out` at the end of the block, or goes away on an error.

    Raises:
        DataError: when `out` holds something already, or cannot be written (the disk is full).
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError("is there already", where=str(out), fix="Choose another folder for --out, or remove this one.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            yield folder
            folder.chmod(0o755)
            folder.replace(out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror or error})", where=str(out)) from None


def beside(out: Path, name: str) -> Path:
    """`OUT.name`, for a list that is told although `out` was not made."""
    return out.with_name(f"{out.name}.{name}")


def size(source: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = source.rglob("*") if source.is_dir() else [source]
    return sum(path.stat().st_size for path in files if path.is_file())
