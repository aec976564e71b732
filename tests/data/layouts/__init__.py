"""Small sources in the published layouts, with synthetic texts: a folder for each, and tables of a user's own."""

from __future__ import annotations

import shutil
from pathlib import Path


def layout(name: str, folder: Path) -> Path:
    """Copies a file or a folder of this package into a folder; its path there, for a folder the folder itself."""
    source = Path(__file__).parent / name
    if source.is_dir():
        return shutil.copytree(source, folder, dirs_exist_ok=True)
    return Path(shutil.copy(source, folder))
