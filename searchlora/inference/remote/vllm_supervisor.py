"""A program that starts vLLM, and ends it with all its workers once the process that asked for it is gone.

    python vllm_supervisor.py PARENT_PID COMMAND...

It imports nothing of searchlora and holds no model, so it outlives a parent that is killed or runs out of memory. A
process whose parent dies gets another one, so it asks for its parent's id; a pipe would stay open in the parent's
forks. vLLM and its workers are a session of their own, which is ended as a whole.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

_ASKS_EVERY_S = 0.5

#: Time for vLLM to end by itself.
_GRACE_S = 10.0

#: Of linux/prctl.h.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main(parent: int, command: list[str]) -> int:
    """Run the command until it ends, the parent ends, or this process is told to end; its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt in the terminal is the parent's to handle
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))  # an exception could come before `try`
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # workers whose vLLM has ended are children of this process
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        # SIGTERM when this process ends, even by SIGKILL; vLLM then ends its workers
        preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
    )
    try:
        while not told and os.getppid() == parent:
            with suppress(subprocess.TimeoutExpired):
                status = child.wait(_ASKS_EVERY_S)
                return status if status >= 0 else 128 - status
        return 0
    finally:
        _end_session(child)


def _prctl(option: int, argument: int) -> None:
    """Set an option of this process; only Linux has them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, argument)


def _end_session(child: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _GRACE_S
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        while time.monotonic() < end:
            with suppress(ChildProcessError):  # a process that nobody has waited for still counts as one of the session
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            os.killpg(child.pid, 0)
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
