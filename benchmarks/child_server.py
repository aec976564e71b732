"""An HTTP server beside this process, for as long as it is needed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

_STARTS_WITHIN_S = 600.0
_SHOWN_LINES = 30


@contextmanager
def child_server(
    name: str,
    command: Callable[[int], Sequence[str]],
    log: Path,
    *,
    ready: str = "/health",
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The URL of a server that says on a path that it is ready; it is ended afterwards.

    If it does not start, or has ended where what uses it fails, the program ends with the last lines of its log.

    Args:
        command: What starts it, on a port of the loopback.
        ready: The path.
        environment: Variables beside those of this process.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [*command(port)],
            env={**os.environ, **(environment or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            if not _ready(process, (url := f"http://127.0.0.1:{port}") + ready):
                sys.exit(_failure(f"{name} did not start", process, log))
            yield url
        except Exception as error:
            if _ended(process):
                sys.exit(_failure(f"{name} ended early ({error})", process, log))
            raise
        finally:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def _ready(process: subprocess.Popen[bytes], url: str) -> bool:
    end = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=5).is_success:
                return True
        time.sleep(0.5)
    return False


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Waits a moment: a connection breaks before the process is gone."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    return process.returncode is not None


def _failure(what: str, process: subprocess.Popen[bytes], log: Path) -> str:
    state = "it still runs" if process.poll() is None else f"exit status {process.returncode}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
    return "\n".join([f"{what}, {state}; the end of {log}:", *lines])
