"""vLLM and llama.cpp as systems: servers beside this process, asked over HTTP."""

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
    """What a server is called with its base alone."""
    return f"{system}, bare base"


@contextmanager
def vllm_systems(
    python: Path, base: BaseModel, folders: Sequence[Path], counts: Sequence[int], *, rank: int, rows: int, log: Path
) -> Iterator[Mapping[str, Run]]:
    """vLLM in bf16 with its base alone, and with each number of adapters mixed; what prompts share is not kept.

    Args:
        python: Of the environment that has vLLM, see `benchmarks/vllm_remote/README.md`.
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
    """llama.cpp on the base's own GGUF file, alone and with each number of adapters; no prompt is kept.

    Args:
        binary: Its `llama-server`.
        rows: The largest batch.
        context: The most tokens of a row, read and written.
    """
    adapters = [gguf_adapter(base, folder) for folder in folders]
    server = llama_server(binary, gguf_of(base), adapters, rows=rows, context=context, log=log)
    # All rows are asked at once, more than a client's connections are by default.
    limits = httpx.Limits(max_connections=rows)
    with server as url, httpx.Client(base_url=url, timeout=600, limits=limits) as client:
        # A request for an adapter that it does not have would be answered by the base.
        assert len(client.get("/lora-adapters").raise_for_status().json()) == len(adapters)
        yield _systems(LLAMA, _asking_llama, client, counts)


def _systems(
    name: str, asking: Callable[[httpx.Client, int], Run], client: httpx.Client, counts: Sequence[int]
) -> Mapping[str, Run]:
    alone = {served_bare(name): asking(client, 0)}
    return alone | {with_adapters(name, count): asking(client, count) for count in counts}


def _asking_vllm(client: httpx.Client, count: int) -> Run:
    """A request for each model, with all prompts of its rows."""
    models = [f"a{number}" for number in range(count)] or ["base"]

    def ask(model: str, prompts: Sequence[Sequence[int]], tokens: int) -> None:
        asked = {"model": model, "prompt": prompts, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        answer = client.post("/v1/completions", json=asked).raise_for_status().json()
        assert answer["usage"]["completion_tokens"] == tokens * len(prompts), answer["usage"]

    return _at_once(
        lambda prompts: [
            partial(ask, model, prompts[place :: len(models)]) for place, model in enumerate(models[: len(prompts)])
        ]
    )


def _asking_llama(client: httpx.Client, count: int) -> Run:
    """A request for each row."""

    def ask(row: int, prompt: Sequence[int], tokens: int) -> None:
        asked = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        # Those that are not named get 0; a request that names none would wear all of them.
        worn = {"id": row % count, "scale": 1.0} if count else {"id": 0, "scale": 0.0}
        answer = client.post("/completion", json={**asked, "lora": [worn]}).raise_for_status().json()
        read, written = answer["timings"]["prompt_n"], answer["tokens_predicted"]
        assert (read, written) == (len(prompt), tokens), answer["timings"]

    # The first request after others with other adapters takes about a second more: neither reading nor writing.
    return _at_once(lambda prompts: [partial(ask, row, prompt) for row, prompt in enumerate(prompts)], before=True)


def _at_once(
    requests: Callable[[Sequence[Sequence[int]]], Sequence[Callable[[int], None]]], *, before: bool = False
) -> Run:
    """All requests of a batch at the same time, each a function of the number of new tokens.

    Args:
        before: Ask once before it is measured.
    """

    def run(prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, float]:
        asked = requests(prompts)
        with ThreadPoolExecutor(len(asked)) as threads:
            generate = lambda new: list(threads.map(lambda ask: ask(new), asked))  # noqa: E731
            if before:
                generate(1)
            return split(generate, tokens)

    return run


_PREFIX = "base_model.model."


def llama_server(
    binary: Path, model: Path, adapters: Sequence[Path], *, rows: int, context: int, log: Path
) -> AbstractContextManager[str]:
    """The URL of a server whose requests name the adapter that they wear; nothing of a prompt is kept.

    Args:
        model: A GGUF file; `adapters` too.
        rows: That are computed at once.
        context: Tokens of each row, read and written.
    """
    options = {
        "--model": model,
        "--host": "127.0.0.1",
        "--parallel": rows,
        "--ctx-size": rows * context,
        # Its own default counts cores without hyperthreading.
        "--threads": len(os.sched_getaffinity(0)),
        "--cache-ram": 0,
    }
    command = [str(binary), "--no-kv-unified"]
    command += [str(each) for option in options.items() for each in option]
    command += ["--lora", ",".join(map(str, adapters))]  # given several times, the last one counts
    return child_server("llama-server", lambda port: [*command, "--port", str(port)], log)


def gguf_of(base: BaseModel) -> Path:
    """The file that the base's weights were read from."""
    if base.name.endswith(".gguf"):
        return Path(base.name)
    entry = CATALOGUE[base.name]
    assert isinstance(entry, PackagedWeights), f"{base.name} does not come from a GGUF file"
    spec = importlib.util.find_spec(entry.package)
    assert spec is not None and spec.origin is not None  # the base was resolved
    return Path(spec.origin).parent / entry.file


def gguf_adapter(base: BaseModel, folder: Path) -> Path:
    """A plain LoRA of a Llama, written beside its PEFT folder; A and B in fp16, two bytes as the other systems have."""
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
    """Rows of a head as llama.cpp rotates them: pairs lie side by side, not half a head apart."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
