"""vLLM as one of the systems: a server beside this process, asked over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.multi_adapter.systems import Run, split, with_adapters
from benchmarks.vllm_remote.server import vllm
from searchlora.models.resolve import BaseModel


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
        systems = {"vLLM, bare base": _asking(client, 0)}
        systems |= {with_adapters("vLLM", count): _asking(client, count) for count in counts}
        yield systems


def _asking(client: httpx.Client, count: int) -> Run:
    """A request for each model, with all prompts of its rows, all at the same time."""
    models = [f"a{number}" for number in range(count)] or ["base"]

    def ask(model: str, prompts: Sequence[Sequence[int]], tokens: int) -> None:
        asked = {"model": model, "prompt": prompts, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        answer = client.post("/v1/completions", json=asked).raise_for_status().json()
        assert answer["usage"]["completion_tokens"] == tokens * len(prompts), answer["usage"]

    def run(prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, float]:
        of_models = [(model, prompts[place :: len(models)]) for place, model in enumerate(models)]
        with ThreadPoolExecutor(len(models)) as threads:
            generate = lambda new: list(  # noqa: E731
                threads.map(lambda each: ask(*each, new), [each for each in of_models if each[1]])
            )
            return split(generate, tokens)

    return run
