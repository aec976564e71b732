"""SIGTERM and Ctrl+C at any moment: nothing is half written and no temporary file stays."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

#: The command, with Ctrl+C as in a terminal: a shell starts background jobs with SIGINT ignored, and so their children.
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from searchlora.cli import main
sys.argv[0] = "searchlora"
main()
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    row = {"query": "kicks", "rewrite": "red shoes"}
    rows = (json.dumps({"id": f"r{n}", "group": f"g{n}", **row, "query": f"kicks {n}"}) for n in range(150_000))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path / "rows.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, {-15}), (signal.SIGINT, {1, 130, -2})])
def test_a_build_that_is_stopped_leaves_nothing(source: Path, number: signal.Signals, codes: set[int]) -> None:
    work = source.parent / "work"
    work.mkdir()
    build = ["data", "build", "rewriting", source, "--format", "native", "--out", work / "out"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, build)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not list(work.iterdir()):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(number)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode in codes
    assert "Traceback" not in complaint
    assert list(work.iterdir()) == []


def test_sigterm_is_handled_as_before_after_a_command(cli) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert cli("tasks", "list").code == 0
    assert signal.getsignal(signal.SIGTERM) == before
