"""Golden renders, logits and vectors: example records whose outputs a stored adapter must reproduce at `verify`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from searchlora.adapters.attach import attach
from searchlora.adapters.full_model import is_full_model
from searchlora.adapters.manifest import (
    MAX_GOLDEN_CHARACTERS,
    MAX_GOLDEN_RECORDS,
    MAX_GOLDEN_TOKENS,
    Golden,
    GoldenLogits,
    GoldenRender,
    GoldenVector,
)
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import LoadCheckFailed
from searchlora.models.load import load_encoder, load_model, load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.prompts import RENDERING, Renderer
from searchlora.recipe import PromptOptions
from searchlora.task import EncoderTask, GenerationTask, Task

#: Largest difference of a logit from the stored one, as a share of the largest |logit| of its prompt.
#:
#: Measured on SmolLM2-135M (logits up to 34, two CPU cores with AVX512-BF16): repeating the call, also with another
#: number of threads, gives the same bits; another batch shape or another matrix library moves a logit by at most
#: 4e-5 in fp32 (1.2e-6 of the largest) and 0.375 in bf16 (1.1e-2). This leaves other machines a factor of 80 in fp32
#: and, with 8 bits of mantissa, a factor of 3 in bf16.
TOLERANCE: dict[str, float] = {"fp32": 1e-4, "bf16": 1 / 32}

#: Largest difference of a component of a vector from the stored one, as a share of the largest component.
#:
#: Measured on all-MiniLM-L6-v2 in float32: the same text alone, in a batch and with another number of threads moves a
#: component by at most 4e-7 (3e-6 of the largest), which leaves other machines a factor of 30.
VECTOR_TOLERANCE = 1e-4

#: Largest size of a base in bytes that is checked in fp32, which is four orders stricter; larger bases need bf16.
_FP32_MAX_BYTES = 4_000_000_000

#: Number of largest logits stored per prompt.
TOP = 16


class BaseCopy:
    """A copy of a base, without quantisation, that computes golden outputs and reproduces them; never two at once.

    It is loaded when it is first needed. A whole model is loaded in its place, not beside it. What the base alone
    computes is kept, as it is needed twice.

    Args:
        load: Loads a base or a whole model.
        outputs: What a model computes for some inputs: `last_logits` or `encode_texts`.
    """

    def __init__(
        self, base: BaseModel, load: Callable[[BaseModel], Any], outputs: Callable[[Any, Sequence[Any]], Any]
    ) -> None:
        self._base, self._load, self.outputs = base, load, outputs
        self._model: Any = None
        self._plain: tuple[list[Any], Any] | None = None

    @classmethod
    def of(cls, task: Task, base: BaseModel) -> BaseCopy:
        """The copy for a task: an encoder, or an LLM in fp32 if memory allows it."""
        if isinstance(task, EncoderTask):
            return cls(base, partial(load_encoder, device="cpu"), encode_texts)
        return cls(base, partial(load_model, precision=precision_for(base)), last_logits)

    def plain(self, inputs: Sequence[Any]) -> Any:
        """Outputs of the base alone."""
        if self._plain is None or self._plain[0] != list(inputs):
            self._plain = (list(inputs), self.outputs(self._loaded(), inputs))
        return self._plain[1]

    @contextmanager
    def trained(self, adapter: StoredAdapter | Path | BaseModel) -> Iterator[Any]:
        """The base with an adapter until the end, or a whole model. Raises as `attach` and `load_model`."""
        if isinstance(adapter, BaseModel):
            self._model = None
            yield self._load(adapter)
            return
        model = self._loaded()
        adapted = attach(model, adapter)
        try:
            yield model
        finally:
            adapted.unload()

    def _loaded(self) -> Any:
        if self._model is None:
            self._model = self._load(self._base)
        return self._model


def golden_of(
    task: Task, base: BaseModel, folder: Path, options: PromptOptions | None = None, copy: BaseCopy | None = None
) -> Golden:
    """Golden outputs of a PEFT folder, or of the folder of a whole model, on the task's examples.

    Args:
        options: Options of the prompts of a prompted task.
        copy: The copy of the base to compute them with; None loads one.

    Returns:
        Renders and logits for a prompted task, vectors for an encoder task, nothing for a task of another kind.

    Raises:
        LoadCheckFailed: if the task has no examples.
    """
    if isinstance(task, EncoderTask | GenerationTask) and not task.examples:
        raise LoadCheckFailed(
            "there are no golden records, so the adapter could not be verified",
            where=f"task {task.name}",
            fix="Write one or more records into the task's examples.jsonl.",
        )
    copy = copy or BaseCopy.of(task, base)
    trained = BaseModel("trained", folder) if is_full_model(folder) else folder
    if isinstance(task, EncoderTask):
        return _golden_vectors(task, trained, copy)
    if not isinstance(task, GenerationTask):
        return Golden()
    precision = precision_for(base)
    renders = golden_renders(task, Renderer(load_tokenizer(base), options))
    _check_count(task, len(renders), sum(len(render.token_ids) for render in renders), MAX_GOLDEN_TOKENS, "tokens")
    prompts = [render.token_ids[: render.prompt_length] for render in renders]
    with copy.trained(trained) as model:
        logits = last_logits(model, prompts)
    del model
    return Golden(
        renders=renders,
        logits=_golden_logits(logits, copy.plain(prompts)),
        precision=precision,
        tolerance=TOLERANCE[precision],
    )


def _check_count(task: Task, records: int, size: int, limit: int, unit: str) -> None:
    """Refuse examples that a manifest cannot hold. Raises `LoadCheckFailed`."""
    if records > MAX_GOLDEN_RECORDS or size > limit:
        raise LoadCheckFailed(
            f"the task's {records:,} examples have {size:,} {unit}; at most {MAX_GOLDEN_RECORDS:,} examples with "
            f"{limit:,} {unit} are kept with an adapter",
            where=f"task {task.name}",
            fix="Write fewer or shorter records into the task's examples.jsonl.",
        )


def precision_for(base: BaseModel) -> Literal["bf16", "fp32"]:
    """Precision in which the golden logits of adapters on a base are computed."""
    size = sum(file.stat().st_size for file in base.path.glob("*.safetensors"))
    return "fp32" if size <= _FP32_MAX_BYTES else "bf16"


def prompt_hash(task: GenerationTask) -> str:
    """sha256 of the rendering version, the task's template and, if it has any, its settings."""
    version = f"rendering {RENDERING}\n"
    settings = json.dumps(task.settings, sort_keys=True) if task.settings else ""
    return hashlib.sha256((version + task.template + settings).encode()).hexdigest()


def golden_renders(task: GenerationTask, renderer: Renderer) -> list[GoldenRender]:
    """Token ids of the task's examples as training rows."""
    renders = []
    for record in task.examples:
        example = renderer.example(task, record)
        renders.append(
            GoldenRender(record=dict(record), token_ids=list(example.input_ids), prompt_length=example.prompt_length)
        )
    return renders


def last_logits(model: Any, prompts: Sequence[Sequence[int]]) -> Any:
    """Logits for the token after each prompt; each prompt has its own forward pass, so there is no padding.

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


def encode_texts(encoder: Any, texts: Sequence[str]) -> Any:
    """Vectors of texts, each encoded by itself, so there is no padding.

    Returns:
        float32 array, shape (texts, dimensions).
    """
    import numpy as np

    options = {"prompt": "", "show_progress_bar": False, "convert_to_numpy": True}
    return np.concatenate([encoder.encode([text], **options) for text in texts])


def _golden_logits(trained: Any, plain: Any) -> list[GoldenLogits]:
    """The largest logits after each prompt, and their distance from the base's; both of shape (prompts, vocabulary)."""
    golden = []
    for row, base_row in zip(trained, plain, strict=True):
        top = row.topk(min(TOP, len(row)))
        golden.append(
            GoldenLogits(
                ids=top.indices.tolist(),
                logits=top.values.tolist(),
                base_difference=float((row - base_row).abs().max()),
            )
        )
    return golden


def _golden_vectors(task: EncoderTask, trained: Path | BaseModel, copy: BaseCopy) -> Golden:
    """Vectors of the texts of the task's examples, each text once."""
    unique: dict[str, None] = {}
    for record in task.examples:
        unique |= dict.fromkeys([task.query(record), *task.positives(record)])
    texts = list(unique)
    _check_count(task, len(texts), sum(map(len, texts)), MAX_GOLDEN_CHARACTERS, "characters")
    with copy.trained(trained) as encoder:
        rows = encode_texts(encoder, texts)
    del encoder
    plain = copy.plain(texts)
    vectors = [
        GoldenVector(text=text, vector=row.tolist(), base_difference=float(abs(row - base_row).max()))
        for text, row, base_row in zip(texts, rows, plain, strict=True)
    ]
    return Golden(vectors=vectors, precision="fp32", tolerance=VECTOR_TOLERANCE)
