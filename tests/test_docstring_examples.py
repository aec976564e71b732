"""Every `>>>` example in a docstring of the package is run."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "searchlora"


def modules_with_examples() -> list[str]:
    """Dotted names of the modules that hold an example."""
    files = [file for folder in _folders(PACKAGE) for file in sorted(folder.glob("*.py"))]
    named = [file for file in files if ">>> " in file.read_text(encoding="utf-8")]
    return [
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for file in named
    ]


def _folders(folder: Path) -> list[Path]:
    """A package and its subpackages; `rglob` would not follow the links to tasks, pipelines and eval."""
    return [folder, *(inner for each in sorted(folder.iterdir()) if each.is_dir() for inner in _folders(each))]


@pytest.mark.slow
@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_of_module(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted
    assert result.failed == 0
