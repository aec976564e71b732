"""What commands write on a terminal, and where there is none."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from searchlora.cli import terminal
from searchlora.eval.policy import RuleResult


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass between two readings of the clock, one after another."""

    def set_clock(*seconds):
        times = itertools.accumulate(seconds, initial=0.0)
        monkeypatch.setattr(terminal.time, "monotonic", lambda: next(times))

    return set_clock


def reports(capsys, *numbers, total=360):
    with terminal.progress_bars() as steps:
        progress = steps("Training")
        for done in numbers:
            progress(done, total)
    return [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]


def test_a_remaining_time_is_that_of_what_a_resumed_run_has_left(capsys, clock):
    clock(30, 40, 40)
    assert reports(capsys, 200, 220, 260) == [
        "Training: 200/360 after 30 s",
        "Training: 220/360 after 70 s, 280 s left",
        "Training: 260/360 after 110 s, 133 s left",
    ]


def test_the_first_estimate_comes_before_the_first_tenth_and_without_the_time_of_loading(capsys, clock):
    clock(60, 5, 11, 4, 340)
    assert reports(capsys, 0, 1, 3, 4, 36) == [
        "Training: 0/360 after 60 s",
        "Training: 3/360 after 76 s, 1904 s left",
        "Training: 36/360 after 420 s, 3240 s left",
    ]
    clock(1, 20)
    assert reports(capsys, 10, 150_000, total=None) == ["Training: 10 after 1 s", "Training: 150000 after 21 s"]


def test_lists_in_the_findings_of_rules_are_shown(capsys):
    terminal.print_rules([RuleResult("a [b]", False, "baselines.systems was all, is [bm25]")])
    out = capsys.readouterr().out
    assert "a [b]" in out and "is [bm25]" in out


# SIGTERM and Ctrl+C at any moment: nothing is half written and no temporary file stays

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
