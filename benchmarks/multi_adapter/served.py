"""vLLM and llama.cpp as compared systems: servers in child processes, and GGUF conversion of PEFT adapters."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np

from benchmarks.multi_adapter.systems import Run, split, with_adapters
from benchmarks.servers import child_server, vllm
from searchlora.adapters.peft_folder import read_config, read_weights
from searchlora.models.resolve import CATALOGUE, BaseModel, PackagedWeights

VLLM, LLAMA = "vLLM", "llama.cpp Q4_1"


def served_bare(system: str) -> str:
    """Name of a server system without adapters."""
    return f"{system}, bare base"


@contextmanager
def vllm_systems(
    python: Path, base: BaseModel, folders: Sequence[Path], counts: Sequence[int], *, rank: int, rows: int, log: Path
) -> Iterator[Mapping[str, Run]]:
    """vLLM in bf16 with the base alone and with each number of mixed adapters; prefix caching is off.

    Args:
        python: The interpreter of the environment with vLLM, see `benchmarks/vllm_managed/README.md`.
        rows: The largest batch.
    """
    server = vllm(
        python,
        base.path,
        adapters=len(folders),
        rank=rank,
        log=log,
        dtype="bfloat16",
        rows=rows,
        served_model_name="base",
        no_enable_prefix_caching="",
    )
    with server as url, httpx.Client(base_url=url, timeout=600) as client:
        for number, folder in enumerate(folders):
            loaded = {"lora_name": f"a{number}", "lora_path": str(folder.resolve())}
            client.post("/v1/load_lora_adapter", json=loaded).raise_for_status()
        yield _systems(VLLM, _asking_vllm, client, counts)


@contextmanager
def llama_systems(
    binary: Path, base: BaseModel, folders: Sequence[Path], counts: Sequence[int], *, rows: int, context: int, log: Path
) -> Iterator[Mapping[str, Run]]:
    """llama.cpp on the GGUF file of the base, alone and with each number of adapters; prompts are not cached.

    Args:
        binary: The `llama-server` executable.
        rows: The largest batch.
        context: Greatest number of tokens of a row, prompt and output.
    """
    adapters = [gguf_adapter(base, folder) for folder in folders]
    server = llama_server(binary, gguf_of(base), adapters, rows=rows, context=context, log=log)
    # All rows are sent at once, more than the default number of client connections.
    limits = httpx.Limits(max_connections=rows)
    with server as url, httpx.Client(base_url=url, timeout=600, limits=limits) as client:
        # A request for an unknown adapter would be answered by the base.
        assert len(client.get("/lora-adapters").raise_for_status().json()) == len(adapters)
        yield _systems(LLAMA, _asking_llama, client, counts)


def _systems(
    name: str, asking: Callable[[httpx.Client, int], Run], client: httpx.Client, counts: Sequence[int]
) -> Mapping[str, Run]:
    alone = {served_bare(name): asking(client, 0)}
    return alone | {with_adapters(name, count): asking(client, count) for count in counts}


def _asking_vllm(client: httpx.Client, count: int) -> Run:
    """One request per model with the prompts of all its rows."""
    models = [f"a{number}" for number in range(count)] or ["base"]

    def ask(model: str, prompts: Sequence[Sequence[int]], tokens: int) -> None:
        body = {"model": model, "prompt": prompts, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        answer = client.post("/v1/completions", json=body).raise_for_status().json()
        assert answer["usage"]["completion_tokens"] == tokens * len(prompts), answer["usage"]

    return _at_once(
        lambda prompts: [
            partial(ask, model, prompts[first :: len(models)]) for first, model in enumerate(models[: len(prompts)])
        ]
    )


def _asking_llama(client: httpx.Client, count: int) -> Run:
    """One request per row."""

    def ask(row: int, prompt: Sequence[int], tokens: int) -> None:
        body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        # Adapters that are not named get scale 0; a request that names none would use all of them.
        lora = {"id": row % count, "scale": 1.0} if count else {"id": 0, "scale": 0.0}
        answer = client.post("/completion", json={**body, "lora": [lora]}).raise_for_status().json()
        read, written = answer["timings"]["prompt_n"], answer["tokens_predicted"]
        assert (read, written) == (len(prompt), tokens), answer["timings"]

    # The first request after a change of adapters takes about a second more.
    return _at_once(lambda prompts: [partial(ask, row, prompt) for row, prompt in enumerate(prompts)], before=True)


def _at_once(
    requests: Callable[[Sequence[Sequence[int]]], Sequence[Callable[[int], None]]], *, before: bool = False
) -> Run:
    """Send all requests of a batch at the same time; each is a function of the number of new tokens.

    Args:
        before: Send them once before the measurement.
    """

    def run(prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, float]:
        body = requests(prompts)
        with ThreadPoolExecutor(len(body)) as threads:
            generate = lambda new: list(threads.map(lambda ask: ask(new), body))  # noqa: E731
            if before:
                generate(1)
            return split(generate, tokens)

    return run


_PREFIX = "base_model.model."


def llama_server(
    binary: Path, model: Path, adapters: Sequence[Path], *, rows: int, context: int, log: Path
) -> AbstractContextManager[str]:
    """Start llama-server with adapters that requests select, and yield its URL; prompts are not cached.

    Args:
        model, adapters: GGUF files.
        rows: Number of rows computed at once.
        context: Tokens of each row, prompt and output.
    """
    options = {
        "--model": model,
        "--host": "127.0.0.1",
        "--parallel": rows,
        "--ctx-size": rows * context,
        # The default counts physical cores.
        "--threads": len(os.sched_getaffinity(0)),
        "--cache-ram": 0,
    }
    command = [str(binary), "--no-kv-unified"]
    command += [str(word) for option in options.items() for word in option]
    command += ["--lora", ",".join(map(str, adapters))]  # the last value of a repeated option counts
    return child_server("llama-server", lambda port: [*command, "--port", str(port)], log)


def gguf_of(base: BaseModel) -> Path:
    """The GGUF file from which the base was converted."""
    if base.name.endswith(".gguf"):
        return Path(base.name)
    entry = CATALOGUE[base.name]
    assert isinstance(entry, PackagedWeights), f"{base.name} does not come from a GGUF file"
    spec = importlib.util.find_spec(entry.package)
    assert spec is not None and spec.origin is not None  # the base was resolved
    return Path(spec.origin).parent / entry.file


def gguf_adapter(base: BaseModel, folder: Path) -> Path:
    """Convert a plain LoRA of a Llama model to GGUF beside its PEFT folder; A and B in fp16 (2 bytes, as elsewhere)."""
    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    target = folder.with_suffix(".gguf")
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(read_config(folder)["lora_alpha"]))
    for key, value in read_weights(folder).items():
        module, side, _ = key.removeprefix(_PREFIX).rsplit(".", 2)
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(module.rsplit(".", 1)[-1])
        array = value.numpy()
        if heads and side == "lora_B":
            array = _permuted(array, config[heads])
        writer.add_tensor(f"{names.get_name(module)}.weight.{side.lower()}", array.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _permuted(weight: Any, heads: int) -> Any:
    """Reorder the rows of a head for llama.cpp's rotary layout: pairs are adjacent, not half a head apart."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
