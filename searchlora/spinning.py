"""Shorten the spinning of idle OpenMP threads while other processes are busy.

Idle threads spin for milliseconds before they sleep. That costs nothing on an idle machine, and spares the time to wake
them; beside another busy process they take the cores that the working threads need. GNU's OpenMP spins for
microseconds only while its process has more OpenMP threads than the machine has CPUs
(`gomp_throttled_spin_count_var` in libgomp's config/linux/wait.h). So a watching thread compares the CPU time of all
processes with that of this one, and while others are busy it keeps sleeping OpenMP threads in excess. The number of
threads that compute, and so every result, stays as it is. `benchmarks/busy_machine` measures it.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from pathlib import Path

#: Seconds between two looks at the CPU times.
INTERVAL = 0.5

#: CPUs' worth of time by other processes from which the machine is busy, and the same as a share of the CPUs. A thread
#: that the others delay delays all, but a large machine always has small processes in the background.
BUSY, BUSY_SHARE = 0.2, 0.05

#: Looks without busy processes before threads spin again. Work that comes and goes would undo the choice all the time.
CALM_LOOKS = 4

_STAT = Path("/proc/stat")


def can_adapt(threads: int, cpus: int) -> bool:
    """Whether the spinning can be adapted: on Linux, with a thread for each CPU.

    With more threads, OpenMP itself shortens it. With fewer, there is a free CPU for each other process, or a quota.
    """
    return sys.platform == "linux" and threads == cpus > 1 and busy_seconds() is not None


@functools.cache
def adapt_spinning() -> None:
    """Start the watching thread, once per process. PyTorch is imported and will compute with a thread for each CPU."""
    threading.Thread(target=_watch, name="searchlora-spinning", daemon=True).start()


def _watch() -> None:
    others, excess = OtherProcesses(len(os.sched_getaffinity(0))), ExcessThreads()
    before = (time.monotonic(), busy_seconds(), time.process_time())
    while before[1] is not None:
        time.sleep(INTERVAL)
        now = (time.monotonic(), busy_seconds(), time.process_time())
        share = 0.0 if now[1] is None else (now[1] - before[1] - now[2] + before[2]) / max(now[0] - before[0], 1e-3)
        excess.set(others.are_busy(share) and now[1] is not None)
        before = now


class OtherProcesses:
    """Whether other processes are busy; they are until `CALM_LOOKS` looks have shown nothing.

    Examples:
        >>> others = OtherProcesses(cpus=2)
        >>> [others.are_busy(used) for used in (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0)]
        [False, True, True, True, True, True, True, False]
    """

    def __init__(self, cpus: int) -> None:
        self._threshold = max(BUSY, BUSY_SHARE * cpus)
        self._calm = CALM_LOOKS

    def are_busy(self, used: float) -> bool:
        self._calm = 0 if used >= self._threshold else self._calm + 1
        return self._calm < CALM_LOOKS


def busy_seconds(file: Path = _STAT) -> float | None:
    """Seconds that the CPUs of this process were busy since the machine started; None where that is unknown.

    `file` has the format of Linux's /proc/stat: `cpuN user nice system idle iowait irq softirq steal ...` in ticks.
    """
    try:
        lines = [line.split() for line in file.read_text(encoding="ascii").splitlines() if line.startswith("cpu")]
        ticks = {int(name[3:]): [int(value) for value in values[:8]] for name, *values in lines if name != "cpu"}
        seconds = [sum(ticks[cpu][:3]) + sum(ticks[cpu][5:]) for cpu in os.sched_getaffinity(0)]
    except (OSError, ValueError, KeyError):
        return None
    return sum(seconds) / os.sysconf("SC_CLK_TCK") if sum(seconds) else None


class ExcessThreads:
    """OpenMP threads that sleep, so that there are more threads than CPUs.

    A team of OpenMP belongs to the thread that made it. So a thread that runs one parallel operation and then waits
    keeps a team that sleeps, and its end frees the team.
    """

    def __init__(self) -> None:
        self._end: threading.Event | None = None

    def set(self, wanted: bool) -> None:
        if wanted and self._end is None:
            self._end = threading.Event()
            threading.Thread(target=_hold_team, args=(self._end,), name="searchlora-excess", daemon=True).start()
        elif self._end is not None and not wanted:
            self._end.set()
            self._end = None


def _hold_team(end: threading.Event) -> None:
    import torch

    torch.ones(1 << 18).add_(1)  # large enough to be computed by a team
    end.wait()
