"""A vLLM server as a child process: start, healthy, stop."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from weakref import WeakValueDictionary, finalize

import httpx

from searchlora.errors import EngineError, printable
from searchlora.inference.settings import VLLM_PYTHON, VllmSettings
from searchlora.models.resolve import BaseModel
from searchlora.vllm_resolver import STORE

#: The server's name of the base model.
SERVED_BASE = "base"

#: Adapters can be loaded by HTTP, by who has the key; no usage reports, no hub requests; no modules of the working
#: directory in place of vLLM's.
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONSAFEPATH": "1",
}

#: Variables that would put the parent's packages before those of vLLM's environment, or let the resolver plugin follow
#: aliases there; the engine pins adapters itself.
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", STORE)

#: Runs the command until it ends, its parent is gone, or it is told to end, and then ends vLLM with its workers.
_SUPERVISOR = """
import os, signal, subprocess, sys, time
told = []
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
child = subprocess.Popen(sys.argv[2:], start_new_session=True)
while child.poll() is None and not told and os.getppid() == int(sys.argv[1]):
    time.sleep(0.2)
for end in (signal.SIGTERM, signal.SIGKILL):
    try:
        os.killpg(child.pid, end)
        child.wait(10)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
sys.exit(128 - child.returncode if child.returncode < 0 else child.returncode)
"""

_VERSION = "import importlib.metadata as m; print(m.version(m.packages_distributions()['vllm'][0]))"


class VllmServer:
    """A running vLLM server on the loopback interface, with a random key.

    It ends with this object, and with this process however that ends. Raises `EngineError` with the end of its log if
    it does not start.
    """

    def __init__(self, settings: VllmSettings, base: BaseModel) -> None:
        self.key = secrets.token_urlsafe(32)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        options = {
            "model": base.path,
            "served-model-name": SERVED_BASE,
            "host": "127.0.0.1",
            "port": port,
            "dtype": {"fp32": "float32", "bf16": "bfloat16", None: "auto"}[settings.precision],
            "max-loras": settings.max_loras,
            "max-lora-rank": settings.max_lora_rank,
            "structured-outputs-config": '{"backend": "guidance"}',  # others refuse Lark grammars and some schemas
            "tensor-parallel-size": settings.tensor_parallel_size,
            "data-parallel-size": settings.data_parallel_size,
        }
        self._python = settings.interpreter
        command = [self._python, "-m", "vllm.entrypoints.openai.api_server", "--enable-lora"]
        command += [*(f"--{name}={value}" for name, value in options.items()), *settings.args]
        self._log = tempfile.TemporaryFile(prefix="searchlora-vllm-")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SUPERVISOR, str(os.getpid()), *command],
            env=_environment() | {"VLLM_API_KEY": self.key},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.stop = finalize(self, _stop, self._process)
        try:
            self._wait(settings.start_timeout_s)
        except BaseException:
            self.stop()
            raise

    def _wait(self, seconds: float) -> None:
        """Wait until vLLM answers."""
        end = time.monotonic() + seconds
        with httpx.Client(headers={"Authorization": f"Bearer {self.key}"}, timeout=5, trust_env=False) as client:
            while self._process.poll() is None:
                with suppress(httpx.HTTPError):
                    if client.get(f"{self.url}/v1/models").is_success:
                        return
                if time.monotonic() > end:
                    raise self._error(f"vLLM was not ready after {seconds:g} s")
                time.sleep(0.2)
        raise self._error("vLLM did not start")

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def failure(self) -> EngineError | None:
        """Why the server no longer runs, with the end of its log; None if it does."""
        try:
            self._process.wait(2)  # a connection breaks before the process ends
        except subprocess.TimeoutExpired:
            return None
        return self._error("vLLM ended")

    def _error(self, what: str) -> EngineError:
        text = os.pread(self._log.fileno(), 2**24, 0).decode("utf-8", "replace")
        shown = "\n".join(map(printable, text.splitlines()[-30:]))
        status = "" if self._process.returncode is None else f", exit status {self._process.returncode}"
        return EngineError(f"{what}{status}; the end of its log:\n{shown}", where=self._python)


_SERVERS: WeakValueDictionary[tuple[Path, str], VllmServer] = WeakValueDictionary()
_SERVERS_LOCK = Lock()


def shared_server(settings: VllmSettings, base: BaseModel) -> VllmServer:
    """The server of this process for a base and settings: engines that differ in their prompts share it."""
    key = (base.path, settings.model_dump_json())
    with _SERVERS_LOCK:
        server = _SERVERS.get(key)
        if server is None or not server.is_running:
            server = _SERVERS[key] = VllmServer(settings, base)
        return server


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(30)


def _environment() -> dict[str, str]:
    """The environment variables of a program in vLLM's environment."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED} | ENVIRONMENT


@lru_cache
def installed_version(python: str) -> str:
    """The version of vLLM in an interpreter's environment, without an import of vLLM, which takes seconds.

    Raises `EngineError` for an environment without it.
    """
    command = [python, "-c", _VERSION]
    try:
        return subprocess.run(command, env=_environment(), capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        last_line = str(getattr(error, "stderr", error)).strip().rpartition("\n")[2]
        raise EngineError(
            f"'python': '{python}' is not the interpreter of an environment with vLLM ({printable(last_line)})",
            where="engine",
            fix=f"Install vLLM into an environment of its own, and name its interpreter here or with {VLLM_PYTHON}.",
        ) from None
