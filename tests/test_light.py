"""Start-up time: `import searchlora` imports nothing heavy, and `--help` is fast."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import searchlora


def run(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout


def test_importing_searchlora_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'peft', 'trl', 'datasets', 'numpy', 'pydantic', 'matplotlib', 'bm25s'}"
    assert run("-c", f"import sys, searchlora; print(sorted({heavy} & set(sys.modules)))").strip() == "[]"


@pytest.mark.slow
def test_store_commands_import_no_torch():
    heavy = "{'torch', 'transformers', 'peft', 'fsspec'} & set(sys.modules)"
    assert run("-c", f"import sys, searchlora; searchlora.adapters.list(); print({heavy})").strip() == "set()"


@pytest.mark.slow
def test_help_takes_less_than_half_a_second():
    script = Path(sys.executable).with_name("searchlora")
    took = []
    for _ in range(5):
        started = time.monotonic()
        subprocess.run([script, "--help"], capture_output=True, check=True)
        took.append(time.monotonic() - started)
    assert min(took) < 0.5  # the least of five: other processes on the machine only ever add


def test_the_verbs_are_functions_of_the_same_names():
    assert all(callable(getattr(searchlora, verb)) for verb in ("train", "evaluate", "run", "demo"))
    assert {"train", "adapters", "data"} <= set(dir(searchlora))
    assert callable(searchlora.data.build)
    assert callable(searchlora.adapters.verify)
