"""Child processes of training: results, errors, kills of a child and of the parent. They are really started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from searchlora.errors import DataError, TrainingError
from searchlora.progress import Steps, no_progress
from searchlora.training import processes
from searchlora.training.processes import run_in_child
from tests.child_scripts import wait_until


@pytest.fixture(autouse=True)
def really_started(monkeypatch, training_starts_at_once):
    monkeypatch.setattr(processes, "start", training_starts_at_once)


def counts(steps: Steps) -> int:
    progress = steps("Counting")
    for done in range(1, 4):
        progress(done, 3, f"{done}!")
    print("what a library prints")
    return os.getpid()


def refuses(steps: Steps) -> None:
    del steps
    raise DataError("is empty", where="rows.jsonl", fix="Give rows.")


def divides(steps: Steps) -> float:
    del steps
    return 1 / 0


class TwoArguments(Exception):
    """It is pickled, and cannot be unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def returns_what_cannot_be_read(steps: Steps) -> Exception:
    steps("Training")(1, 2)
    return TwoArguments("first", "second")


def dies(by: signal.Signals, steps: Steps) -> None:
    steps("Training")(3, 9)
    os.kill(os.getpid(), by)


def waits(folder: Path, steps: Steps) -> None:
    del steps
    (folder / str(os.getpid())).touch()
    time.sleep(120)


def test_result_and_progress_come_from_another_process():
    shown = []
    found = run_in_child(counts, lambda step: lambda *report: shown.append((step, *report)), where="here")
    assert found != os.getpid()
    assert shown == [("Counting", done, 3, f"{done}!") for done in (1, 2, 3)]


def test_an_error_of_the_child_is_that_of_the_parent():
    with pytest.raises(DataError) as raised:
        run_in_child(refuses, no_progress, where="here")
    assert str(raised.value) == "rows.jsonl: is empty. Give rows."
    assert (raised.value.what, raised.value.where, raised.value.fix) == ("is empty", "rows.jsonl", "Give rows.")


def test_an_unexpected_error_shows_the_lines_of_the_child():
    with pytest.raises(ZeroDivisionError) as raised:
        run_in_child(divides, no_progress, where="here")
    assert "return 1 / 0" in raised.value.__notes__[0]


def test_a_result_that_cannot_be_read_is_an_error():
    with pytest.raises(TrainingError, match=r"what the training process sent cannot be read \(TypeError"):
        run_in_child(returns_what_cannot_be_read, no_progress, where="here")


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_child_is_told_with_its_last_step(by):
    with pytest.raises(TrainingError) as raised:
        run_in_child(partial(dies, by), no_progress, where="store/.runs/r")
    text = f"store/.runs/r: the training process was ended by {by.name} in 'Training' at 3 of 9. Continue"
    assert str(raised.value).startswith(text) and "--resume" in str(raised.value)
    assert ("optim.batch_size" in str(raised.value)) == (by == signal.SIGKILL)


PARENT = """
import sys
from functools import partial
from pathlib import Path
from searchlora.progress import no_progress
from searchlora.training.processes import run_in_child
from tests.training.test_processes import waits
run_in_child(partial(waits, Path(sys.argv[1])), no_progress, where="here")
"""


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_child_outlives_its_parent(tmp_path, by):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, tmp_path], cwd=Path(__file__).parents[2])
    try:
        wait_until(lambda: any(tmp_path.iterdir()))
        parent.send_signal(by)
        parent.wait(30)
    finally:
        parent.kill()
    wait_until(lambda: not any(Path("/proc", child.name, "cmdline").exists() for child in tmp_path.iterdir()))
