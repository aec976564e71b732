"""Number of CPU threads and how idle ones wait, chosen before PyTorch starts its OpenMP runtime.

Idle threads of OpenMP spin for milliseconds by default. On a machine with another busy process they take the cores that
the working threads need, and a training step or a decoded token takes several times as long. With a thread for each CPU
they spin by default, and sleep soon only while other processes are busy (`searchlora.spinning`). Where that is not
possible, or the process has a quota, they always spin for microseconds, then sleep. OpenMP reads its settings from the
environment once, when it is loaded, so they are chosen before `import torch`. What the user has set is left alone.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from searchlora.spinning import adapt_spinning, can_adapt

#: Variables that say how idle threads wait, of OpenMP and of its implementations by GNU, LLVM and Intel.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")

#: A short spin: rounds of spinning for GNU's OpenMP, which PyTorch's wheels have; milliseconds for Intel's and LLVM's.
_SHORT_SPIN = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}

#: Variables with a number of threads, of OpenMP and of Intel's MKL.
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Threads:
    """The choice."""

    cpus: int
    quota: float | None
    count: str
    waiting: str
    adaptive: bool

    def __str__(self) -> str:
        limit = "" if self.quota is None else f", quota {self.quota:g}"
        return f"{self.count} (CPUs: {self.cpus}{limit}); idle ones {self.waiting}"


_chosen: Threads | None = None


def choose_threads(count: int | None = None) -> Threads:
    """Choose the number of threads and how idle ones wait, once per process.

    There are as many threads as CPUs that the process may run on, or as its control groups allow time for (a container
    with a limit), rounded to a whole number. The settings are environment variables, so child processes have them, too.
    In a process that has imported PyTorch already, only the number of threads can still be changed.

    Args:
        count: A number of threads, which replaces the choice and what the environment says; None: as above. A later
            call with None returns the first choice.

    Examples:
        >>> choose_threads() == choose_threads()
        True
    """
    global _chosen
    if _chosen is None or count is not None:
        torch_is_loaded = "torch" in sys.modules
        cpus, quota = affinity_count(), cpu_quota()
        chosen = _choose_count(count, cpus, torch_is_loaded)
        waiting, adaptive = _choose_waiting(cpus, torch_is_loaded)
        _chosen = Threads(cpus, quota, chosen, waiting, adaptive)
    return _chosen


def watch_other_processes() -> None:
    """Adapt how idle threads wait to other processes from now on, if that was chosen; after PyTorch's import."""
    if choose_threads().adaptive:
        adapt_spinning()


def _choose_waiting(cpus: int, torch_is_loaded: bool) -> tuple[str, bool]:
    if given := _given(_WAITING):
        return f"wait as {given} says", False
    if torch_is_loaded:
        import torch

        number = torch.get_num_threads()
    else:
        given_numbers = [int(os.environ[name]) for name in COUNTS if os.environ.get(name, "").isdecimal()]
        number = min(given_numbers, default=cpus)
    if can_adapt(number, cpus):
        return "spin, but sleep soon while other processes are busy", True
    if torch_is_loaded:
        return "wait as when PyTorch was imported, before searchlora was", False
    os.environ.update(_SHORT_SPIN)
    return "spin briefly, then sleep (GOMP_SPINCOUNT=1000)", False


def _choose_count(count: int | None, cpus: int, torch_is_loaded: bool) -> str:
    allowed = allowed_cpus()
    if count is not None:
        chosen, reason = count, f"{count}, as --threads says"
    elif given := _given(COUNTS):
        return f"as {given} says"
    elif allowed < cpus:
        chosen, reason = allowed, f"{allowed}, by the quota"
    else:
        return f"PyTorch's choice, at most {cpus}"
    if torch_is_loaded:
        import torch

        if count is None and (present := torch.get_num_threads()) != cpus:  # the user may have chosen it
            return f"{present}, as PyTorch had before searchlora was imported"
        torch.set_num_threads(chosen)
    os.environ.update(dict.fromkeys(COUNTS, str(chosen)))
    return reason


def _given(variables: tuple[str, ...]) -> str:
    """The variables that the user has set, as `NAME=value`; empty if there are none."""
    return ", ".join(f"{name}={os.environ[name]}" for name in variables if os.environ.get(name))


def affinity_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def allowed_cpus() -> int:
    """CPUs that this process may use: those that it may run on, or fewer by the quota of its control groups."""
    cpus, quota = affinity_count(), cpu_quota()
    return cpus if quota is None else min(cpus, max(1, math.floor(quota + 0.5)))


def threads_of_each(processes: int) -> int:
    """Threads of each of some processes: its share of what the user or `choose_threads` set, else of the CPUs."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, (int(given) if given.isdecimal() else allowed_cpus()) // processes)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs' worth of time that the control groups (cgroups) of this process allow; None without a limit.

    Reads version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`) of Linux control groups.
    """
    return min((quota for folder in control_groups("cpu", root) for quota in _quota(folder)), default=None)


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Folders of the control groups whose limits hold for this process, of version 2 and of version 1 of Linux.

    The limits of all groups above hold, too; of those, a container sees its own as the root.

    Args:
        controller: What is limited: "cpu" or "memory".
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return  # not Linux
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            mounts = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
        elif controller in controllers.split(","):
            mounts = (f"sys/fs/cgroup/{controllers}", f"sys/fs/cgroup/{controller}")
        else:
            continue
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for mount in mounts:
            for depth in range(len(parts) + 1):
                yield Path(root, mount, *parts[:depth])


def _quota(folder: Path) -> list[float]:
    """The limit of a control group, if it has one: quota and period in microseconds, "max" or -1 for no limit."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = map(int, " ".join((folder / name).read_text(encoding="ascii") for name in names).split())
        except (OSError, ValueError):
            continue
        if quota > 0 and period > 0:
            return [quota / period]
    return []
