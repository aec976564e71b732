"""A program that starts vLLM, and ends it with all its workers once the process that asked for it is gone.

    python vllm_supervisor.py PARENT_PID COMMAND...

It imports nothing of searchlora and holds no model, so it outlives a parent that is killed or runs out of memory. A
process whose parent dies gets another one, so it asks for its parent's id; a pipe would stay open in the parent's
forks. vLLM and its workers are a session of their own, which is ended as a whole.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

_ASKS_EVERY_S = 0.5

#: Time for vLLM to end by itself.
_GRACE_S = 10.0


def main(parent: int, command: list[str]) -> int:
    """Run the command until it ends, the parent ends, or this process is told to end; its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt in the terminal is the parent's to handle
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while os.getppid() == parent:
            with suppress(subprocess.TimeoutExpired):
                status = child.wait(_ASKS_EVERY_S)
                return status if status >= 0 else 128 - status
        return 0
    finally:
        _end_session(child)


def _end_session(child: subprocess.Popen[bytes]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = time.monotonic() + _GRACE_S
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        while time.monotonic() < end:
            child.poll()  # a process that nobody has waited for still counts as one of the session
            os.killpg(child.pid, 0)
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
