"""Every benchmark module can be imported: no name that it uses has moved."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
    if not {"tasks", "work", "results"} & set(path.relative_to(ROOT).parts)
)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_imported(module):
    importlib.import_module(module)
