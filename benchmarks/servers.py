"""HTTP servers as child processes of a benchmark: any command, and vLLM."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import httpx

from searchlora.inference.remote.vllm_server import ENVIRONMENT

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
    """Start a server and yield its URL once its health path answers; terminate it afterwards.

    If the server does not start, or has ended when its user fails, the program exits with the last lines of the log.

    Args:
        command: Port -> the command that starts the server on the loopback interface.
        ready: The health path.
        environment: Environment variables added to those of this process.
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
            if not is_ready(process, (url := f"http://127.0.0.1:{port}") + ready):
                sys.exit(_failure(f"{name} did not start", process, log))
            yield url
        except Exception as error:
            if _ended(process):
                sys.exit(_failure(f"{name} ended early ({error})", process, log))
            raise
        finally:
            with suppress(ProcessLookupError):  # already ended
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def is_ready(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until a URL of a server answers with success; False if the process ends first or ten minutes pass."""
    end = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=5).is_success:
                return True
        time.sleep(0.5)
    return False


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process has ended; waits 2 seconds, since a connection breaks before the process ends."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    return process.returncode is not None


def _failure(what: str, process: subprocess.Popen[bytes], log: Path) -> str:
    state = "it still runs" if process.poll() is None else f"exit status {process.returncode}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
    return "\n".join([f"{what}, {state}; the end of {log}:", *lines])


def vllm(
    python: Path, base: Path, *, adapters: int, rank: int, log: Path, dtype: str = "float32", rows: int = 8, **more: str
) -> AbstractContextManager[str]:
    """Start a vLLM server and yield its URL; terminate it afterwards.

    Args:
        python: The interpreter of the environment with vLLM.
        adapters: Number of adapters to load.
        rank: Their greatest rank.
        rows: Number of rows computed at once.
        more: Other options of vLLM, with `_` for `-` in their names.
    """
    options = {
        "model": base,
        "host": "127.0.0.1",
        "dtype": dtype,
        "max-model-len": 2048,
        "max-num-seqs": rows,
        # One slot stays empty: on a CPU, vLLM 0.32 gives a request without an adapter the adapter of the last slot if
        # one with an adapter is in the same batch (its pull request 48421).
        "max-loras": adapters + 1,
        "max-lora-rank": next(allowed for allowed in (8, 16, 32, 64, 128, 256, 320, 512) if allowed >= rank),
        "structured-outputs-config": '{"backend": "guidance"}',
    }
    options |= {key.replace("_", "-"): value for key, value in more.items()}
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--enable-lora", "--enforce-eager"]
    environment = {**ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB
    command += [f"--{key}={value}" if value != "" else f"--{key}" for key, value in options.items()]
    return child_server("vLLM", lambda port: [*command, f"--port={port}"], log, environment=environment)
