"""A vLLM server of one base, in an environment of its own, for as long as it is needed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.child_server import child_server

#: Adapters may come and go by HTTP; nothing is reported to anybody; nothing is asked of the hub.
_ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
}

_RANKS = (8, 16, 32, 64, 128, 256)


def vllm(
    python: Path, base: Path, *, adapters: int, rank: int, log: Path, dtype: str = "float32", rows: int = 8, **more: str
) -> AbstractContextManager[str]:
    """The URL of a server that is ready; it is ended afterwards.

    Args:
        python: Of the environment that has vLLM.
        adapters: How many will be loaded.
        rank: The highest of theirs.
        rows: That are computed at once.
        more: Other options of vLLM, by their names with `_` for `-`.
    """
    options = {
        "model": base,
        "host": "127.0.0.1",
        "dtype": dtype,
        "max-model-len": 2048,
        "max-num-seqs": rows,
        # One slot stays empty: on a CPU vLLM 0.32 gives a request without an adapter that of the last slot, where one
        # with an adapter is in the same batch (its pull request 48421).
        "max-loras": adapters + 1,
        "max-lora-rank": next(each for each in _RANKS if each >= rank),
        "structured-outputs-config": '{"backend": "guidance"}',
    }
    options |= {key.replace("_", "-"): value for key, value in more.items()}
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--enable-lora", "--enforce-eager"]
    command += [f"--{key}={value}" if value != "" else f"--{key}" for key, value in options.items()]
    return child_server("vLLM", lambda port: [*command, f"--port={port}"], log, environment=_ENVIRONMENT)
