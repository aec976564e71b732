"""Compared systems in process: each reads prompts of equal length and generates a fixed number of tokens per row."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from searchlora.adapters.attach import attach, new_adapter, save_adapter
from searchlora.inference.local import LocalEngine
from searchlora.inference.scheduling.requests import GenerateRequest
from searchlora.models.load import load_model
from searchlora.models.resolve import BaseModel
from searchlora.recipe import load_recipe

#: Prompts (rows of token ids) and number of new tokens -> seconds to the first token, seconds for the other tokens.
Run = Callable[[Sequence[Sequence[int]], int], tuple[float, float]]

BARE, MERGED, EMPTY = "transformers, base", "transformers, merged", "engine, empty slots"


def made_adapters(base: BaseModel, folder: Path, count: int, rank: int) -> list[Path]:
    """PEFT folders with random weights on all linear layers; existing ones are reused."""
    folders = [folder / f"r{rank}-{number}" for number in range(count)]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        recipe = load_recipe({}, overrides=["method=lora", f"lora.r={rank}", f"base={base.name}"])
        model = new_adapter(load_model(base), recipe)
        for number, folder in enumerate(missing):
            generator = torch.Generator().manual_seed(number)
            for name, value in model.named_parameters():
                if "lora_" in name:
                    value.data = torch.randn(value.shape, generator=generator) * 0.02
            save_adapter(model, folder, recipe)
    return folders


def transformers_systems(base: BaseModel, folders: Sequence[Path], counts: Sequence[int]) -> Mapping[str, Run]:
    """The base alone, the base with one merged adapter, and PEFT in three variants."""
    bare, merged = load_model(base), attach(load_model(base), folders[0]).merge_and_unload()
    peft = load_model(base)
    for number, folder in enumerate(folders):
        peft = attach(peft, folder, f"a{number}")
    found: dict[str, Run] = {BARE: _generating(bare), MERGED: _generating(merged)}
    found["PEFT, one adapter"] = _switching(peft, 1)
    for count in counts:
        if count > 1:
            found[with_adapters("PEFT adapter_names", count)] = _mixing(peft, count)
            found[with_adapters("PEFT set_adapter", count)] = _switching(peft, count)
    return found


def engine_systems(base: BaseModel, folders: Sequence[Path], counts: Sequence[int]) -> Mapping[str, Run]:
    """The engine without adapters, and with each number of adapters in turn over the rows."""
    engine = LocalEngine(base, max_loras=len(folders), prefix_tokens=0, cache_tokens=1 << 20, batch_invariant=False)
    for number, folder in enumerate(folders):
        engine.load_folder(f"a{number}", folder)
    return {EMPTY: _engine(engine, 0), **{engine_with(count): _engine(engine, count) for count in counts}}


def engine_with(count: int) -> str:
    """Name of the engine system with a number of adapters."""
    return with_adapters("engine", count)


def with_adapters(system: str, count: int) -> str:
    """Name of a system with a number of adapters."""
    return f"{system}, {count} adapter{'s' if count > 1 else ''}"


def _engine(engine: LocalEngine, count: int) -> Run:
    def run(prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, float]:
        first: list[float] = []
        queued = [
            GenerateRequest(
                ids=tuple(ids), adapter=f"a{row % count}" if count else None, max_new_tokens=tokens, ignore_stop=True
            )
            for row, ids in enumerate(prompts)
        ]
        queued[-1].on_token = lambda _: first.append(time.perf_counter())
        begun = time.perf_counter()
        engine._core.finish(queued)
        return first[0] - begun, time.perf_counter() - first[0]

    return run


def _generating(model: Any) -> Run:
    def run(prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, float]:
        return split(lambda new: _generate(model, prompts, new), tokens)

    return run


def _mixing(model: Any, count: int) -> Run:
    def run(prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, float]:
        names = [f"a{row % count}" for row in range(len(prompts))]
        return split(lambda new: _generate(model, prompts, new, adapter_names=names), tokens)

    return run


def _switching(model: Any, count: int) -> Run:
    """Run one adapter after the other, each with its rows."""

    def run(prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, float]:
        def generate(new: int) -> None:
            for number in range(min(count, len(prompts))):
                model.set_adapter(f"a{number}", inference_mode=True)
                _generate(model, prompts[number::count], new)

        return split(generate, tokens)

    return run


def split(generate: Callable[[int], object], tokens: int) -> tuple[float, float]:
    """Estimate the time to the first token by subtracting the time of one token."""
    begun = time.perf_counter()
    generate(1)
    first = time.perf_counter() - begun
    begun = time.perf_counter()
    generate(tokens)
    return first, time.perf_counter() - begun - first


def _generate(model: Any, prompts: Sequence[Sequence[int]], tokens: int, **how: Any) -> None:
    ids = torch.tensor([list(prompt) for prompt in prompts])
    with torch.inference_mode():
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
            **how,
        )
