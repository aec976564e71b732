"""Every script of `examples/` runs, on small models, and is short enough to read at a glance."""

from __future__ import annotations

import runpy
import sys

import pytest

from tests.docs.blocks import ROOT

FOLDER = ROOT / "examples"
SCRIPTS = [script for script in sorted(FOLDER.glob("*.py")) if script.name != "sample.py"]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
@pytest.mark.usefixtures("shared_workplace")
def test_example_runs(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "sample", raising=False)
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("script", [*SCRIPTS, FOLDER / "sample.py"], ids=lambda script: script.stem)
def test_example_is_short_and_has_a_docstring(script):
    text = script.read_text(encoding="utf-8")
    assert text.count("\n") <= 60
    assert text.startswith('"""')
