"""The number of CPU threads and how idle ones wait: chosen before PyTorch starts OpenMP, unless the user has chosen."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from searchlora import threads
from searchlora.spinning import BUSY_SHARE, OtherProcesses, busy_seconds, can_adapt
from searchlora.threads import Threads, choose_threads, cpu_quota

VARIABLES = (*threads._WAITING, *threads.COUNTS)


def control_groups(root, lines, files):
    for name, text in {"proc/self/cgroup": "\n".join(lines) + "\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("lines", "files", "quota"),
    [
        (["0::/"], {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        (["0::/"], {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (["0::/"], {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (
            ["0::/pod/box"],
            {"sys/fs/cgroup/pod/cpu.max": "200000 100000", "sys/fs/cgroup/pod/box/cpu.max": "max 100000"},
            2.0,
        ),
        (["0::/seen/from/outside"], {"sys/fs/cgroup/cpu.max": "300000 100000"}, 3.0),
        (["0::/../../other"], {"sys/fs/cgroup/cpu.max": "100000 100000"}, 1.0),
        (
            ["4:memory:/", "2:cpu,cpuacct:/docker/1", "0::/"],
            {
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "25000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            ["1:cpu:/docker/1"],  # a container sees its own group at the root
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            1.5,
        ),
        (["1:cpu:/"], {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "1"}, None),
        (["odd", "", "1:cpu", "0::/"], {"sys/fs/cgroup/cpu.max": "100000 0"}, None),
        (["0::/"], {"sys/fs/cgroup/cpu.max": "\xff"}, None),
        (["0::/"], {}, None),
    ],
)
def test_the_quota_of_control_groups_is_read(tmp_path, lines, files, quota):
    assert cpu_quota(tmp_path) is None
    control_groups(tmp_path, lines, files)
    assert cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "allowed"), [(None, 8), (2.4, 2), (0.1, 1), (20.0, 8)])
def test_a_quota_bounds_the_allowed_cpus(monkeypatch, quota, allowed):
    monkeypatch.setattr(threads, "affinity_count", lambda: 8)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert threads.allowed_cpus() == allowed


@pytest.fixture
def choose(monkeypatch):
    """The choice in a process with these variables, CPUs and quota, without PyTorch; and the variables after it."""

    def call(env=None, *, cpus=8, quota=None, count=None) -> tuple[Threads, dict[str, str]]:
        monkeypatch.setattr(threads, "_chosen", None)
        monkeypatch.setattr(threads, "affinity_count", lambda: cpus)
        monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        chosen = choose_threads(count)
        after = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        return chosen, after

    return call


SHORT_SPIN = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}


@pytest.mark.parametrize(
    ("quota", "count"),
    [(0.5, "1"), (1.0, "1"), (1.4, "1"), (1.5, "2"), (3.0, "3"), (8.0, None), (64.0, None), (None, None)],
)
def test_there_are_as_many_threads_as_the_quota_allows(choose, quota, count):
    chosen, after = choose(quota=quota)
    assert after == ({} if count is None else SHORT_SPIN | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count})
    assert chosen.adaptive == (count is None)
    assert chosen.count == ("PyTorch's choice, at most 8" if count is None else f"{count}, by the quota")


@pytest.mark.parametrize(
    "env",
    [
        {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "3"},
        {"GOMP_SPINCOUNT": "5", "MKL_NUM_THREADS": "3"},
        {"KMP_BLOCKTIME": "200", "OMP_NUM_THREADS": "4,2"},
        {"KMP_LIBRARY": "turnaround", "OMP_NUM_THREADS": "3"},
    ],
)
def test_what_the_user_has_set_stays(choose, env):
    chosen, after = choose(env, quota=1.0)
    assert after == env
    (waiting, _), (number, value) = env.items()
    assert waiting in chosen.waiting and not chosen.adaptive and chosen.count == f"as {number}={value} says"


def test_the_option_replaces_everything_else(choose):
    chosen, after = choose({"OMP_NUM_THREADS": "3"}, quota=1.0, count=2)
    assert after == SHORT_SPIN | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    assert str(chosen).startswith("2, as --threads says (CPUs: 8, quota 1); idle ones spin briefly")


def run(code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python code; OpenMP prints its settings to stderr when it is loaded."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    shown = {"OMP_DISPLAY_ENV": "VERBOSE", "SEARCHLORA_NATIVE": "0"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=kept | shown | env)


COMMAND = "from searchlora.cli import main; main()"

#: OpenMP's default, which `searchlora.spinning` adapts; with one CPU there is nothing to adapt.
ADAPTED = f"GOMP_SPINCOUNT = '{300000 if threads.affinity_count() > 1 else 1000}'"
linux = pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP and /proc/stat are on Linux only")


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "env", "settings"),
    [
        (COMMAND, {}, [ADAPTED]),
        (COMMAND, {"OMP_WAIT_POLICY": "ACTIVE"}, ["OMP_WAIT_POLICY = 'ACTIVE'"]),
        (COMMAND, {"OMP_NUM_THREADS": "1"}, ["GOMP_SPINCOUNT = '1000'", "OMP_NUM_THREADS = '1'"]),
        ("import searchlora.inference.local", {"OMP_NUM_THREADS": "1"}, ["GOMP_SPINCOUNT = '1000'"]),
        ("import searchlora.cpu.backend", {"OMP_NUM_THREADS": "1"}, ["GOMP_SPINCOUNT = '1000'"]),
    ],
)
def test_openmp_starts_with_the_choice(code, env, settings):
    shown = run(code, "doctor", **env).stderr
    assert "GOMP_SPINCOUNT" in shown, "OpenMP was not loaded"
    for setting in settings:
        assert setting in shown


@linux
@pytest.mark.slow
def test_the_option_sets_the_threads_of_pytorch():
    shown = run(COMMAND, "--threads", "1", "doctor", OMP_NUM_THREADS="2").stdout
    assert "1, as --threads says" in shown and "PyTorch computes with 1" in shown


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "cpus", "says", "count"),
    [
        ("torch.set_num_threads(2)", 2, "1, by the quota (CPUs: 2, quota 0.5)", "1"),
        ("torch.set_num_threads(3)", 2, "3, as PyTorch had before searchlora was imported", "3"),
    ],
)
def test_after_pytorch_only_the_number_of_threads_changes(before, cpus, says, count):
    shown = run(
        f"import os, torch; {before}\n"
        f"from searchlora import threads; threads.cpu_quota, threads.affinity_count = lambda: 0.5, lambda: {cpus}\n"
        "import searchlora.inference\n"
        "print(threads.choose_threads(), os.environ.get('OMP_WAIT_POLICY'), torch.get_num_threads(), sep='\\n')"
    ).stdout.splitlines()
    assert shown[0].startswith(says) and "wait as when PyTorch was imported" in shown[0]
    assert shown[1:] == ["None", count]


@linux
def test_the_kernels_use_as_many_threads_as_pytorch(tiny_base):
    import torch

    from searchlora.inference.local import LocalEngine

    openmp = ctypes.CDLL("libgomp.so.1")
    before, found = torch.get_num_threads(), []
    engine = LocalEngine(tiny_base, precision="fp32")
    torch.set_num_threads(before + 1)
    try:
        # OpenMP's number is that of a thread; a new one has the number from the start of the process.
        new = threading.Thread(target=lambda: found.append(engine._core.run(openmp.omp_get_max_threads)))
        new.start()
        new.join()
    finally:
        torch.set_num_threads(before)
        engine.close()
    assert found == [before + 1]


# Idle OpenMP threads spin on an idle machine, and sleep soon while other processes are busy

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
    spinning, short, still, again, on, once_more = map(float, run(textwrap.dedent(code)).stdout.split())
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
    assert "searchlora-spinning" in run(textwrap.dedent(code), str(tiny_base.path)).stdout
