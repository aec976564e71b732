"""Every benchmark module can be imported."""

from __future__ import annotations

import importlib.util
import re
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


@pytest.mark.parametrize("module", [name for name in MODULES if "." in name])
def test_the_commands_in_the_text_of_a_module_name_modules(module):
    file = ROOT / f"{module.replace('.', '/')}.py"
    for name in re.findall(r"python -m (benchmarks[a-z0-9_.]*[a-z0-9_])(?![A-Z.])", file.read_text(encoding="utf-8")):
        assert importlib.util.find_spec(name) is not None, name
