"""Idle OpenMP threads spin on an idle machine, and sleep soon while other processes are busy."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from searchlora.spinning import BUSY_SHARE, OtherProcesses, busy_seconds, can_adapt

linux = pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP and /proc/stat are on Linux only")
CPUS = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def test_a_large_machine_has_small_processes_in_the_background():
    others = OtherProcesses(cpus=64)
    assert not others.are_busy(1.0) and others.are_busy(64 * BUSY_SHARE + 0.1)


@linux
def test_busy_seconds_are_those_of_the_cpus_of_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    file = tmp_path / "stat"
    file.write_text(
        "cpu 9 9 9 9 9 9 9 9 9 9\n"
        "cpu0 100 20 30 5000 600 7 8 9 1000 1000\n"
        "cpu1 1000 1000 1000 1 1 1 1 1 0 0\n"
        "cpu2 10 0 0 5000 0 0 0 16 0 0\n"
        "intr 1 2 3\n"
    )
    assert busy_seconds(file) == pytest.approx((100 + 20 + 30 + 7 + 8 + 9 + 10 + 16) / 100)


@linux
@pytest.mark.parametrize("text", ["", "cpu0 0 0 0 0 0 0 0 0\n", "cpu0 a b c\n", "cpuX 1\n", "\xff"])
def test_unknown_times_are_none(tmp_path, text):
    file = tmp_path / "stat"
    file.write_text(text)
    assert busy_seconds(file) is None
    assert busy_seconds(tmp_path / "absent") is None


@linux
def test_only_a_thread_for_each_cpu_can_be_adapted():
    assert can_adapt(2, 2)
    assert not can_adapt(3, 2) and not can_adapt(1, 1) and not can_adapt(1, 2) and not can_adapt(2, 4)


@linux
@pytest.mark.slow
@pytest.mark.skipif(CPUS < 2, reason="one CPU has no idle threads")
def test_excess_threads_end_the_spinning_of_the_others():
    """The CPU time of a team that waits between parallel operations; nothing but the waiting differs."""
    code = """
        import time, torch
        from searchlora.spinning import ExcessThreads

        x, excess = torch.ones(1 << 18), ExcessThreads()

        def seconds():
            time.sleep(0.2)  # a new thread makes its team
            x.add_(1)
            before = time.process_time()
            for _ in range(60):
                x.add_(1)
                time.sleep(0.005)
            return time.process_time() - before

        for wanted in (False, True, True, False, False, True):
            excess.set(wanted)
            print(seconds())
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=kept).stdout
    spinning, short, still, again, on, once_more = map(float, output.split())
    assert max(short, still, once_more) < 0.5 * min(spinning, again, on)


@linux
@pytest.mark.slow
@pytest.mark.skipif(CPUS < 2, reason="one CPU has no idle threads")
def test_loading_a_model_starts_the_watch(tiny_base):
    code = """
        import sys, threading
        from searchlora.models.load import load_model
        from searchlora.models.resolve import resolve
        load_model(resolve(sys.argv[1]))
        print(sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("searchlora")))
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_", "KMP_"))}
    command = [sys.executable, "-c", textwrap.dedent(code), str(tiny_base.path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=kept).stdout
    assert "searchlora-spinning" in output
