"""Golden renders and logits: a few made records whose token ids and logits an adapter must reproduce for ever."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from searchlora.adapters.attach import attach
from searchlora.adapters.manifest import Golden, GoldenLogits, GoldenRender
from searchlora.models.load import load_model, load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.prompts import Renderer
from searchlora.task import PromptedTask

#: How far a logit may be from the one stored, as a share of the largest |logit| of its prompt.
#:
#: Measured on SmolLM2-135M (logits up to 34, two CPU cores with AVX512-BF16): the same call again and with another
#: number of threads gives the same bits; another batch shape or another matrix library moves a logit by at most
#: 4e-5 in fp32 (1.2e-6 of the largest) and 0.375 in bf16 (1.1e-2). fp32 leaves a factor of 80 for other machines; bf16,
#: with 8 bits of mantissa and no room to spare, a factor of 3.
TOLERANCE: dict[str, float] = {"fp32": 1e-4, "bf16": 1 / 32}

#: Weights of at most so many bytes are checked in fp32, which is four orders stricter; beyond, memory forbids it.
_FP32_UP_TO = 4_000_000_000

TOP = 16


def precision_for(base: BaseModel) -> Literal["bf16", "fp32"]:
    """In what the golden logits of adapters on a base are computed."""
    size = sum(file.stat().st_size for file in base.path.glob("*.safetensors"))
    return "fp32" if size <= _FP32_UP_TO else "bf16"


def prompt_hash(task: PromptedTask) -> str:
    """sha256 of the task's template and, where it has any, its settings."""
    settings = json.dumps(task.settings, sort_keys=True) if task.settings else ""
    return hashlib.sha256((task.template + settings).encode()).hexdigest()


def golden_of(task: PromptedTask, base: BaseModel, folder: Path) -> Golden:
    """What the manifest of a PEFT folder holds, from the task's examples, on a copy of the base loaded for it.

    The copy is not quantised, and in fp32 where memory allows it, which makes the check far stricter.
    """
    precision = precision_for(base)
    model = attach(load_model(base, quantization="none", precision=precision), folder)
    renders = golden_renders(task, Renderer(load_tokenizer(base)))
    prompts = [render.token_ids[: render.prompt_length] for render in renders]
    return Golden(
        renders=renders, logits=golden_logits(model, prompts), precision=precision, tolerance=TOLERANCE[precision]
    )


def golden_renders(task: PromptedTask, renderer: Renderer) -> list[GoldenRender]:
    """The task's examples as training would see them."""
    found = []
    for record in task.examples:
        example = renderer.example(task, record)
        found.append(
            GoldenRender(record=dict(record), token_ids=list(example.input_ids), prompt_length=example.prompt_length)
        )
    return found


def golden_logits(model: Any, prompts: Sequence[Sequence[int]]) -> list[GoldenLogits]:
    """The largest logits behind each prompt, and the distance from the base's, on a `peft.PeftModel`."""
    adapted = last_logits(model, prompts)
    with model.disable_adapter():
        plain = last_logits(model, prompts)
    found = []
    for row, base_row in zip(adapted, plain, strict=True):
        top = row.topk(min(TOP, len(row)))
        found.append(
            GoldenLogits(
                ids=top.indices.tolist(),
                logits=top.values.tolist(),
                base_difference=float((row - base_row).abs().max()),
            )
        )
    return found


def last_logits(model: Any, prompts: Sequence[Sequence[int]]) -> Any:
    """Logits for the token after each prompt, one prompt per forward pass so that no padding disturbs them.

    Returns:
        fp32 tensor on the CPU, shape (prompts, vocabulary).
    """
    import torch

    rows = []
    with torch.inference_mode():
        for ids in prompts:
            inputs = torch.tensor([list(ids)], device=model.device)
            rows.append(model(input_ids=inputs, use_cache=False, logits_to_keep=1).logits[0, -1].float().cpu())
    return torch.stack(rows)
