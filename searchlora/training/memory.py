"""Memory of a training run, computed from a model's configuration without its weights.

The model is built on PyTorch's meta device, with its adapter, so its parameters are counted exactly. Activations are
what a step holds. Where the CPU backend computes the layers, these are the buffers of its workspace. Elsewhere a step
is simulated with tensors without data (`simulation`). One and two layers are passed; a further layer of the same shape
adds what the second added.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from searchlora.adapters.golden import loads_in_fp32
from searchlora.errors import BaseModelError
from searchlora.models.libraries import quiet
from searchlora.models.load import Precision, computed_in, number_of_parameters
from searchlora.models.memory import NF4_BYTES, available_memory, kv_token
from searchlora.recipe import Recipe
from searchlora.training.token_rows import TokenRows

if TYPE_CHECKING:
    from searchlora.training.simulation import StepMemory

_LOG = logging.getLogger(__name__)

#: Where a model is trained.
Target = Literal["cpu", "cuda"]

#: Rows that validation holds at once in the KV cache, as the local engine's defaults allow.
_VALIDATION_ROWS, _CACHE_TOKENS = 32, 65_536

#: Rows that are compared to find what all rows begin with.
_COMPARED = 256

#: What Python and its libraries take in a process that trains.
PROCESS_BYTES = 700_000_000


@dataclass(frozen=True)
class BatchSize:
    """A batch, as far as memory depends on it.

    Attributes:
        rows: Rows of one forward pass.
        length: Tokens of the longest row.
        completion: Completion tokens of the longest completion.
        tokens: Of all rows, without padding; None: all rows have `length`.
        nodes: Different prefixes of the rows, which the CPU backend computes once; None: no two rows share one. Of rows
            that are drawn at random, those that share what all rows begin with.
        completions: Completion tokens of all rows; None: all rows have `completion`.
    """

    rows: int
    length: int
    completion: int
    tokens: int | None = None
    nodes: int | None = None
    completions: int | None = None

    def with_rows(self, rows: int) -> BatchSize:
        """A batch of more or fewer rows like these."""
        more = {
            name: None if value is None else -(-value * rows // self.rows)
            for name, value in (("tokens", self.tokens), ("nodes", self.nodes), ("completions", self.completions))
        }
        return BatchSize(rows, self.length, self.completion, **more)


def batch_size(examples: TokenRows, rows: int) -> BatchSize:
    """The batch of the longest rows, in tokens; with fewer rows than `rows`, of a number in proportion.

    Examples:
        >>> from searchlora.prompts import Example
        >>> batch_size(TokenRows([Example((1, 2, 3, 4), 2), Example((1, 2, 5), 2), Example((7, 8), 1)]), 2)
        BatchSize(rows=2, length=4, completion=2, tokens=7, nodes=5, completions=3)
    """
    longest = [examples[int(row)] for row in np.argsort(-examples.lengths, kind="stable")[:rows]]
    step = -(-len(examples) // _COMPARED)
    first, *others = (examples[row].input_ids[:-1] for row in range(0, len(examples), step))
    prefix = min((_common(first, other) for other in others), default=0)
    completions = [len(example.input_ids) - example.prompt_length for example in longest]
    batch = BatchSize(
        len(longest),
        max(len(example.input_ids) for example in longest),
        max(completions),
        sum(len(example.input_ids) for example in longest),
        sum(len(example.input_ids) - 1 for example in longest) - (len(longest) - 1) * prefix,
        sum(completions),
    )
    return batch if len(longest) == rows else batch.with_rows(rows)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def validates_in_place(recipe: Recipe, on_gpu: bool) -> bool:
    """Whether the model that is trained validates: on a GPU, and where only the loss of validation rows is measured."""
    return on_gpu or not recipe.validation.generate_rows


@dataclass(frozen=True)
class TrainingMemory:
    """Memory of a training run by part, in bytes.

    Attributes:
        weights: Of the base and the adapter, as training holds them.
        gradients: Of the trained weights, fp32.
        optimiser: AdamW's two moments, fp32.
        activations: What a step holds between forward and backward pass, and its temporary tensors; None where it
            cannot be computed for this architecture.
        logits: Of the completion tokens, with their softmax.
        validation: The copy of the base that validation loads, unless the trained model answers itself, and a KV cache.
        storing: The copy of the base for the load check, after training has given its memory back.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int | None
    logits: int
    validation: int
    storing: int

    @property
    def training(self) -> int:
        """Of the process that trains; without activations where they are unknown."""
        return self.weights + self.gradients + self.optimiser + (self.activations or 0) + self.logits

    @property
    def peak(self) -> int:
        """Of all processes at once."""
        return max(self.training + self.validation, self.storing)

    def parts(self) -> dict[str, int | None]:
        return asdict(self)


class TrainedModel:
    """A base with what a recipe trains, without weights.

    Args:
        config: Of transformers, of a causal language model.
        target: Where it is trained.
        free: Bytes of free memory, on which it depends whether the CPU backend keeps dense copies of 4-bit weights.
        processes: That train together; of several, PyTorch computes the layers.

    Attributes:
        parameters: Of the base.
        trained: Trained parameters.
        linear: Parameters of the layers that QLoRA quantises.
        computed_in: Precision of the base's weights in training.
        adapter_bytes: Of the stored adapter, or model, without metadata.

    Raises:
        BaseModelError: for a configuration of which transformers has no causal language model.
        RecipeError: for target modules that the base does not have.

    Examples:
        >>> from transformers import AutoConfig
        >>> from searchlora.recipe import load_recipe
        >>> config = AutoConfig.for_model("llama", hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        ...     num_attention_heads=32, num_key_value_heads=8, vocab_size=128256)
        >>> model = TrainedModel(config, load_recipe({}), "cpu")
        >>> f"{model.parameters:,} {model.trained:,}"
        '8,030,261,248 41,943,040'
    """

    def __init__(
        self, config: Any, recipe: Recipe, target: Target, free: int | None = None, processes: int = 1
    ) -> None:
        import torch

        self.config, self.recipe, self.target, self.processes = config, recipe, target, processes
        self._free = available_memory() if free is None else free
        self.computed_in: Precision = "fp32" if recipe.is_full else computed_in(recipe.precision, target)
        self.model = _skeleton(
            config, recipe, getattr(torch, {"bf16": "bfloat16", "fp32": "float32"}[self.computed_in])
        )
        self.parameters = number_of_parameters(self.model, trained_too=recipe.is_full)
        self.trained: int = sum(value.numel() for value in self.model.parameters() if value.requires_grad)
        self.linear = _numbers_in_linear_layers(self.model)
        halved = recipe.is_full and recipe.precision == "bf16"
        self.adapter_bytes = self.trained * (2 if halved else 4)
        self._steps: dict[tuple[int, int, int, bool], StepMemory | None] = {}

    @cached_property
    def fused(self) -> Any:
        """What the CPU backend holds (`cpu.backend.FusedMemory`); None where PyTorch computes the layers."""
        from searchlora.cpu import backend

        if self.target != "cpu" or self.recipe.is_full or self.processes > 1:
            return None
        return backend.fused_memory(self.model, self.recipe.optim.gradient_checkpointing)

    def memory(self, batch: BatchSize) -> TrainingMemory:
        """The memory of training on batches of this size."""
        from searchlora.cpu import backend

        itemsize, gradients = self._itemsize, 4 * self.trained
        if self.fused is None:
            step, activations = self._step(batch), None
            vocabulary, _ = self.model.get_output_embeddings().weight.shape
            # A part of the logits and a copy of it, and in fp32 their logarithms and softmax.
            logits = batch.rows * batch.completion * vocabulary * (2 * itemsize + 8)
            if step is not None:
                # The first pass of a step begins without gradients of earlier ones, which `gradients` counts.
                is_first = self.recipe.optim.gradient_accumulation == 1
                begin = step.begin - gradients if is_first else step.begin_without
                activations = max(0, max(begin, step.end) - logits)
        else:
            tokens = batch.tokens or batch.rows * batch.length
            # Nothing is predicted after the last token of a row.
            size = backend.TreeSize(
                tokens - batch.rows,
                batch.nodes or tokens - batch.rows,
                batch.completions or batch.rows * batch.completion,
            )
            activations = self.fused.workspace(size)
            vocabulary, hidden = self.model.get_output_embeddings().weight.shape
            logits = itemsize * size.selected * (vocabulary + 2 * hidden)
        return TrainingMemory(
            weights=self._weights(),
            gradients=gradients,
            optimiser=8 * self.trained,
            activations=activations,
            logits=logits,
            validation=self._validation + self._cache(batch, itemsize),
            storing=(4 if loads_in_fp32(2 * self.parameters) else itemsize) * self.parameters,
        )

    @property
    def fixed(self) -> int:
        """Bytes that do not depend on the batch: weights, gradients, optimiser, and a copy of the base to validate."""
        return self._weights() + 12 * self.trained + self._validation

    @property
    def _itemsize(self) -> int:
        return 2 if computed_in(self.recipe.precision, self.target) == "bf16" else 4

    @property
    def _validation(self) -> int:
        in_place = validates_in_place(self.recipe, self.target == "cuda")
        return 0 if in_place else self._itemsize * self.parameters

    def largest_batch(self, memory: int, batch: BatchSize) -> int | None:
        """The largest number of rows of this size, at most 1,024, with which training takes at most `memory` bytes.

        None where activations are unknown; 0 where one row is too much.
        """
        if self.memory(batch).activations is None:
            return None

        def fits(rows: int) -> bool:
            return self.memory(batch.with_rows(rows)).peak <= memory

        high = 1
        while high <= 1024 and fits(high):
            high *= 2
        if high > 1024:
            return 1024
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def quantised(self) -> TrainedModel:
        """The model of LoRA trained by QLoRA: other weights, and the same steps."""
        other = copy.copy(self)
        other.recipe = self.recipe.model_copy(update={"method": "qlora"})
        return other

    def with_optim(self, **settings: Any) -> TrainedModel:
        """The same model, trained with other values of `optim`, such as `gradient_checkpointing=True`."""
        other = copy.copy(self)
        optim = self.recipe.optim.model_copy(update=settings)
        other.recipe = self.recipe.model_copy(update={"optim": optim})
        other.__dict__.pop("fused", None)
        return other

    def _weights(self) -> int:
        itemsize = 4 if self.computed_in == "fp32" else 2
        if self.recipe.is_full:
            return itemsize * self.parameters
        quantised = self.linear if self.recipe.method == "qlora" else 0
        weights: int = itemsize * (self.parameters - quantised) + round(NF4_BYTES * quantised) + 4 * self.trained
        if self.fused is not None:
            from searchlora.cpu import backend

            weights += self.fused.rounded
            if quantised and backend.keeps_dense(self.fused.dense, self._free):
                weights += self.fused.dense
        return weights

    def _cache(self, batch: BatchSize, itemsize: int) -> int:
        """KV cache of the rows that validation generates and scores."""
        of_token = kv_token(self.config.get_text_config().to_dict()) or 0
        rows = min(_VALIDATION_ROWS, max(self.recipe.validation.rows, self.recipe.validation.generate_rows))
        return of_token * itemsize // 2 * min(_CACHE_TOKENS, rows * batch.length)

    def _step(self, batch: BatchSize) -> StepMemory | None:
        """The memory of a forward and backward pass that PyTorch computes; None if it is not known.

        Numbers of rows that are powers of two are simulated, others are between them.
        """
        few = 1 << (batch.rows.bit_length() - 1)
        at_few, share = self._step_of(few, batch), (batch.rows - few) / few
        if at_few is None or not share:
            return at_few
        at_more = self._step_of(2 * few, batch)
        return None if at_more is None else at_few.towards(at_more, share)

    def _step_of(self, rows: int, batch: BatchSize) -> StepMemory | None:
        shape = rows, batch.length, batch.completion, self.recipe.optim.gradient_checkpointing
        if shape not in self._steps:
            try:
                self._steps[shape] = self._simulated(shape[:3])
            except Exception as error:  # operations that depend on data, such as the routing of a mixture of experts
                _LOG.info("the activations of %s are not known: %s", type(self.model).__name__, error)
                self._steps[shape] = None
        return self._steps[shape]

    def _simulated(self, shape: tuple[int, int, int]) -> StepMemory:
        from searchlora.training.simulation import StepSettings, are_alike, blocks, simulated_step

        settings = StepSettings(
            autocast=computed_in(self.recipe.precision, self.target) == "bf16"
            and (self.target == "cuda" or self.recipe.is_full),
            recompute=self.recipe.optim.gradient_checkpointing,
        )
        count = len(layers := blocks(self.model))
        if count < 3 or not are_alike(layers):
            return simulated_step(self.model, settings, count, shape)
        one, two = (simulated_step(self.model, settings, layers, shape) for layers in (1, 2))
        # Each further layer adds the same until the last one's backward pass has ended, and nothing after it.
        return replace(one.towards(two, count - 1), end=two.end)


def _skeleton(config: Any, recipe: Recipe, dtype: Any) -> Any:
    """The model that the recipe trains, on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    from searchlora.adapters.attach import new_adapter

    try:
        with quiet(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except (ValueError, TypeError, AttributeError, KeyError, ImportError, RuntimeError) as error:
        raise BaseModelError(f"transformers has no causal language model for this configuration ({error})") from error
    if recipe.is_full:
        return model.requires_grad_(True)
    with torch.device("meta"):
        return new_adapter(model.requires_grad_(False), recipe)


def _numbers_in_linear_layers(model: Any) -> int:
    """Numbers of the frozen layers that bitsandbytes quantises: all linear ones but the output layer."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head and "lora_" not in name
    )
