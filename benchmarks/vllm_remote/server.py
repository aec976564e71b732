"""A vLLM server of one base, in an environment of its own, for as long as it is needed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

_STARTS_WITHIN_S = 600.0

#: Adapters may come and go by HTTP; nothing is reported to anybody; nothing is asked of the hub.
_ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
}

_RANKS = (8, 16, 32, 64, 128, 256)


@contextmanager
def vllm(
    python: Path, base: Path, *, adapters: int, rank: int, log: Path, dtype: str = "float32", rows: int = 8, **more: str
) -> Iterator[str]:
    """The URL of a server that is ready; it is ended afterwards.

    Args:
        python: Of the environment that has vLLM.
        adapters: How many will be loaded.
        rank: The highest of theirs.
        rows: That are computed at once.
        more: Other options of vLLM, by their names with `_` for `-`.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        "model": base,
        "host": "127.0.0.1",
        "port": port,
        "dtype": dtype,
        "max-model-len": 2048,
        "max-num-seqs": rows,
        # One slot stays empty: on a CPU vLLM 0.32 gives a request without an adapter that of the last slot, where one
        # with an adapter is in the same batch (its pull request 48421).
        "max-loras": adapters + 1,
        "max-lora-rank": next(each for each in _RANKS if each >= rank),
        "structured-outputs-config": '{"backend": "guidance"}',
    }
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--enable-lora", "--enforce-eager"]
    options |= {key.replace("_", "-"): value for key, value in more.items()}
    command += [f"--{key}={value}" if value != "" else f"--{key}" for key, value in options.items()]
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, env=os.environ | _ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait(process, url := f"http://127.0.0.1:{port}", log)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(1)
    sys.exit(f"vLLM did not start; {log} says why.")
