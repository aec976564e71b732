"""Many items in several processes, which are really forked: results, errors, kills and ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from searchlora.errors import SearchloraError, TrainingError
from searchlora.models.load import load_tokenizer
from searchlora.prompts import Renderer
from searchlora.recipe import load_recipe
from searchlora.training import rendering
from searchlora.training.rendering import in_order
from searchlora.training.rows import render_rows
from tests.child_scripts import wait_until
from tests.factories import first_word, word_records


def refuse_odd_thousands(number):
    if number % 1000 == 999:
        raise TrainingError(f"{number} is refused", where="here", fix="Leave it out.")
    return number, os.getpid()


def test_several_processes_give_the_results_and_the_error_of_one():
    results = list(in_order(refuse_odd_thousands, range(1_000, 1_999), processes=2))
    assert [number for number, _ in results] == list(range(1_000, 1_999))
    assert {process for _, process in results} == {os.getpid()}  # too few to start others
    several, before = in_order(refuse_odd_thousands, range(4_000), processes=2), []
    with pytest.raises(TrainingError, match=r"here: 999 is refused. Leave it out."):
        before.extend(several)
    assert [number for number, _ in before] == list(range(999))
    assert os.getpid() not in {process for _, process in before}


def kills_its_process(number):
    if number == 1_000:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


class TwoArguments(Exception):
    """An error that is pickled and cannot be unpickled."""

    def __init__(self, first, second):
        super().__init__(first + second)


def raises_two_arguments(number):
    if number == 1_000:
        raise TwoArguments("one", "two")
    return number


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (kills_its_process, "a process that renders rows was killed"),
        (raises_two_arguments, r"\(TwoArguments: onetwo\)"),
    ],
)
def test_a_killed_process_and_an_error_that_cannot_be_sent_are_errors(function, told):
    with pytest.raises(SearchloraError, match=told):
        list(in_order(function, range(4_000), processes=2))


def surroundings(_):
    return (
        signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        os.environ["TOKENIZERS_PARALLELISM"],
    )


def test_processes_have_no_signal_handlers_of_the_command():
    handler = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("not in a child"))
    try:
        assert set(in_order(surroundings, range(4_000), processes=2)) == {(True, True, "false")}
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_processes_are_as_many_as_cpus_of_those_that_train_together(monkeypatch):
    monkeypatch.setattr(rendering, "allowed_cpus", lambda: 5)
    monkeypatch.setenv("WORLD_SIZE", "2")
    results = in_order(refuse_odd_thousands, [1] * 4_000)
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert multiprocessing.active_children() == []
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert set(in_order(refuse_odd_thousands, [1] * 4_000)) == {(1, os.getpid())}


@pytest.mark.slow
def test_many_rows_are_the_same_by_several_processes_and_an_error_ends_these(tiny_base, tmp_path, monkeypatch):
    task, renderer = first_word(tmp_path), Renderer(load_tokenizer(tiny_base))
    records, recipe = word_records(2_100), load_recipe({}, overrides=["max_length=200"])
    rows = {}
    for cpus in (1, 2):
        monkeypatch.setattr(rendering, "allowed_cpus", lambda cpus=cpus: cpus)
        rows[cpus] = render_rows(task, renderer, records, recipe).examples
    assert len(rows[1]) == 2_100 and list(rows[1]) == list(rows[2])
    records[3] = {"id": "long", "group": "long", "text": "tent " * 100}
    with pytest.raises(TrainingError, match=r"record long: has 5.. tokens"):
        render_rows(task, renderer, records, recipe)
    assert multiprocessing.active_children() == []


SLEEPER = """
import os, sys, time
from pathlib import Path
from searchlora.training.rendering import in_order

def sleeps(_):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(120)

list(in_order(sleeps, range(4_000), processes=2))
"""


@pytest.mark.slow
def test_no_process_outlives_a_killed_parent(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", SLEEPER, tmp_path], cwd=Path(__file__).parents[2])
    try:
        wait_until(lambda: len([*tmp_path.iterdir()]) == 2)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(Path("/proc", child.name, "cmdline").exists() for child in tmp_path.iterdir()))
