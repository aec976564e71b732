"""Forward and backward pass of a decoder like Llama's with LoRA, as few kernels per layer, on a CPU.

PyTorch's autograd takes about three hundred small operations per layer and step, most of them bound by memory. Here the
backward pass is written out: matrix products by PyTorch, everything between them by compiled kernels, and equal
prefixes of the rows computed once (`prefix_tree`). Between forward and backward pass, the inputs of a layer's products
are in memory, and its norms and its SwiGLU are computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from searchlora.cpu.bindings import Kernels
from searchlora.cpu.lora_group import LoraGroup
from searchlora.cpu.prefix_tree import PrefixTree
from searchlora.cpu.training_bindings import TrainingKernels, TreeShape


class Workspace:
    """Memory of a forward and backward pass, kept for the next step: fresh memory costs a page fault per 4 KiB."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._buffers: dict[tuple[str, int], torch.Tensor] = {}

    def take(self, name: str, layer: int, rows: int, width: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The uninitialised tensor of this name and layer, shape (rows, width)."""
        buffer = self._buffers.get((name, layer))
        if buffer is None or buffer.numel() < rows * width:
            buffer = torch.empty(rows * width, dtype=dtype or self._dtype)
            self._buffers[(name, layer)] = buffer
        return buffer[: rows * width].view(rows, width)


@dataclass(frozen=True)
class Batch:
    """What the layers need of a batch.

    Attributes:
        rotations: Cosines and sines of each node, shape (nodes, head size).
        selected: Nodes whose last hidden state is needed, shape (n,).
    """

    tree: PrefixTree
    shape: TreeShape
    rotations: tuple[torch.Tensor, torch.Tensor]
    selected: torch.Tensor
    workspace: Workspace


class FusedLayer:
    """One of transformers' decoder layers that compute as Llama's. Of the last one, only the selected nodes are needed
    after its attention.
    """

    def __init__(
        self, layer: Any, index: int, is_last: bool, compiled: Kernels, keep_dense: bool, recompute: bool
    ) -> None:
        attn, mlp = layer.self_attn, layer.mlp
        self._recompute, self._kept = recompute, -1 if recompute else index
        self._index, self._is_last, self._compiled, self._kernels = index, is_last, compiled, compiled.training
        self._norms = [
            (norm.weight.detach(), float(norm.variance_epsilon))
            for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        ]
        self._qkv, self._output, self._gate_up, self._down = self.groups = tuple(
            LoraGroup(layers, compiled.dtype, keep_dense)
            for layers in (
                (attn.q_proj, attn.k_proj, attn.v_proj),
                (attn.o_proj,),
                (mlp.gate_proj, mlp.up_proj),
                (mlp.down_proj,),
            )
        )
        self.head_size: int = attn.head_dim
        self.heads = self._output.size_in // self.head_size
        self.key_heads = attn.k_proj.out_features // self.head_size
        self.scale: float = attn.scaling

    def forward(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        """(nodes, hidden size) -> the same shape, or that of the selected nodes."""
        take, i, compiled = batch.workspace.take, self._kept, self._compiled
        nodes, hidden = x.shape
        qkv = take("qkv", i, nodes, self._qkv.size_out)
        normed = compiled.rms_norm(x, *self._norms[0], out=take("normed", -1, nodes, hidden))
        self._qkv.forward(normed, take("qkv inner", i, nodes, self._qkv.rank), qkv, None)
        self._kernels.rotate_heads(qkv, *batch.rotations, self.heads + self.key_heads)
        attended = take("attended", i, nodes, self._output.size_in)
        self._kernels.attention(batch.shape, qkv, attended, self._log_sums(nodes, batch))
        if self._is_last:
            x, attended, nodes = x[batch.selected], attended[batch.selected], len(batch.selected)
        middle = take("middle", i, nodes, hidden)
        self._output.forward(attended, take("output inner", i, nodes, self._output.rank), middle, x)
        normed = compiled.rms_norm(middle, *self._norms[1], out=take("normed", -1, nodes, hidden))
        gate_up = take("gate and up", i, nodes, self._gate_up.size_out)
        self._gate_up.forward(normed, take("gate and up inner", i, nodes, self._gate_up.rank), gate_up, None)
        activation = compiled.swiglu(gate_up, out=take("activation", -1, nodes, self._down.size_in))
        out = take("x", self._index + 1, nodes, hidden)
        self._down.forward(activation, take("down inner", i, nodes, self._down.rank), out, middle)
        return out

    def backward(self, gradient: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Gradient of the input, and of the parameters of `groups`; `gradient`, that of the output, is overwritten."""
        take, i, compiled, kernels = batch.workspace.take, self._kept, self._compiled, self._kernels
        (count, hidden), nodes = gradient.shape, len(batch.tree.tokens)
        x = take("x", self._index, nodes, hidden)
        if self._recompute:
            self.forward(x, batch)
        gate_up = take("gate and up", i, count, self._gate_up.size_out)
        activation = take("activation", -1, count, self._down.size_in)  # first its gradient, then itself
        inner = self._down.inner_gradient(gradient)
        self._down.input_gradient(gradient, inner, activation)
        gate_up_gradient = take("gate and up gradient", -1, count, self._gate_up.size_out)
        kernels.swiglu_backward(gate_up, activation, gate_up_gradient)
        of_down = self._down.gradients(activation, take("down inner", i, count, self._down.rank), gradient, inner)

        middle = take("middle", i, count, hidden)
        normed = compiled.rms_norm(middle, *self._norms[1], out=take("normed", -1, count, hidden))
        inner = self._gate_up.inner_gradient(gate_up_gradient)
        saved = take("gate and up inner", i, count, self._gate_up.rank)
        of_gate_up = self._gate_up.gradients(normed, saved, gate_up_gradient, inner)
        normed_gradient = self._gate_up.input_gradient(gate_up_gradient, inner, normed)
        kernels.rms_norm_backward(middle, *self._norms[1], normed_gradient, gradient)

        attended = take("attended", i, nodes, self._output.size_in)
        inner = self._output.inner_gradient(gradient)
        of_output = self._output.gradients(
            attended[batch.selected] if self._is_last else attended,
            take("output inner", i, count, self._output.rank),
            gradient,
            inner,
        )
        attended_gradient = self._output.input_gradient(
            gradient, inner, take("attended gradient", -1, count, self._output.size_in)
        )
        if self._is_last:
            gradient, attended_gradient = (
                tensor.new_zeros(nodes, tensor.shape[1]).index_add_(0, batch.selected, tensor)
                for tensor in (gradient, attended_gradient)
            )
        qkv = take("qkv", i, nodes, self._qkv.size_out)
        qkv_gradient = take("qkv gradient", -1, nodes, self._qkv.size_out)
        kernels.attention_backward(
            batch.shape,
            qkv,
            attended,
            self._log_sums(nodes, batch),
            attended_gradient,
            batch.rotations,
            (batch.tree.places, batch.tree.place_starts),
            take("partial", -1, len(batch.tree.path), self.key_heads * 2 * self.head_size, torch.float32),
            qkv_gradient,
        )
        normed = compiled.rms_norm(x, *self._norms[0], out=take("normed", -1, nodes, hidden))
        inner = self._qkv.inner_gradient(qkv_gradient)
        of_qkv = self._qkv.gradients(normed, take("qkv inner", i, nodes, self._qkv.rank), qkv_gradient, inner)
        if self._index > 0:  # the embeddings are frozen
            normed_gradient = self._qkv.input_gradient(qkv_gradient, inner, normed)
            kernels.rms_norm_backward(x, *self._norms[0], normed_gradient, gradient)
        return gradient, [*of_qkv, *of_output, *of_gate_up, *of_down]

    def _log_sums(self, nodes: int, batch: Batch) -> torch.Tensor:
        return batch.workspace.take("log sums", self._kept, nodes, self.heads, torch.float32)


class FusedDecoder:
    """A frozen decoder with LoRA: hidden states, log-probabilities of tokens, and the gradients of A and B.

    Args:
        model: A causal language model of transformers whose layers compute as Llama's, with PEFT's LoRA layers in it.
        compiled: The kernels.
        keep_dense: Keep 4-bit weights in the dtype of the products, too. Otherwise they are dequantised for each
            product.
        recompute: Gradient checkpointing: keep only the inputs of the layers, and compute the rest again for the
            backward pass.
    """

    def __init__(self, model: Any, compiled: Kernels, *, keep_dense: bool, recompute: bool) -> None:
        backbone, head = model.model, model.get_output_embeddings()
        self._embeddings: torch.Tensor = model.get_input_embeddings().weight.detach()
        self.head: torch.Tensor = head.weight.detach()
        self._norm = (backbone.norm.weight.detach(), float(backbone.norm.variance_epsilon))
        self._rotary = backbone.rotary_emb
        self._compiled, self._kernels = compiled, compiled.training
        last = len(backbone.layers) - 1
        self._layers = [
            FusedLayer(layer, index, index == last, compiled, keep_dense, recompute)
            for index, layer in enumerate(backbone.layers)
        ]
        self._groups = [group for layer in self._layers for group in layer.groups]
        self.parameters = [parameter for group in self._groups for parameter in group.parameters]
        self._free: list[Workspace] = []

    def hidden_states(self, tree: PrefixTree, nodes: torch.Tensor) -> torch.Tensor:
        """Inputs of the output layer at nodes (n,), shape (n, hidden size); with gradients unless they are disabled."""
        out: torch.Tensor = _HiddenStates.apply(  # type: ignore[no-untyped-call]
            self, tree, nodes, torch.is_grad_enabled(), *self.parameters
        )
        return out

    def log_probabilities(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Log-probabilities in nats of labels (n,) after hidden states (n, hidden size); fp32."""
        out: torch.Tensor = _LogProbabilities.apply(hidden, self.head, labels, self._kernels)  # type: ignore[no-untyped-call]
        return out

    def begin(self, tree: PrefixTree, nodes: torch.Tensor) -> Batch:
        """A batch with a workspace of its own."""
        first = self._layers[0]
        cos, sin = self._rotary(self._embeddings[:1], tree.positions[None])
        shape = TreeShape(
            tree.path, tree.starts, tree.shared, first.heads, first.key_heads, first.head_size, first.scale
        )
        workspace = self._free.pop() if self._free else Workspace(self._compiled.dtype)
        return Batch(tree, shape, (cos[0].contiguous(), sin[0].contiguous()), nodes, workspace)

    def end(self, batch: Batch) -> None:
        self._free.append(batch.workspace)

    def forward(self, batch: Batch) -> torch.Tensor:
        for group in self._groups:
            group.round_parameters()
        tokens, hidden = batch.tree.tokens, self._embeddings.shape[1]
        x = torch.index_select(self._embeddings, 0, tokens, out=batch.workspace.take("x", 0, len(tokens), hidden))
        for layer in self._layers:
            x = layer.forward(x, batch)
        return self._compiled.rms_norm(x, *self._norm)

    def backward(self, batch: Batch, gradient: torch.Tensor) -> list[torch.Tensor]:
        """Gradients of `parameters`; `gradient`: of what `forward` returns."""
        x = batch.workspace.take("x", len(self._layers), *gradient.shape)
        at_x = torch.zeros_like(x)
        self._kernels.rms_norm_backward(x, *self._norm, gradient, at_x)
        gradients: list[list[torch.Tensor]] = []
        for layer in reversed(self._layers):
            at_x, of_layer = layer.backward(at_x, batch)
            gradients.append(of_layer)
        return [of_parameter for of_layer in reversed(gradients) for of_parameter in of_layer]


class _HiddenStates(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        decoder: FusedDecoder,
        tree: PrefixTree,
        nodes: torch.Tensor,
        needs_gradient: bool,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        del parameters  # the decoder has them, too; autograd needs them as inputs
        batch = decoder.begin(tree, nodes)
        out = decoder.forward(batch)
        if needs_gradient:
            ctx.decoder, ctx.batch = decoder, batch
        else:
            decoder.end(batch)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        batch, ctx.batch = ctx.batch, None
        if batch is None:
            raise RuntimeError("the fused decoder keeps no memory for a second backward pass")
        of_parameters: Sequence[torch.Tensor | None] = ctx.decoder.backward(batch, gradients[0].contiguous())
        ctx.decoder.end(batch)
        return (None, None, None, None, *of_parameters)


class _LogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor, kernels: TrainingKernels
    ) -> torch.Tensor:
        logits = torch.mm(hidden, head.T)
        out, log_sums = kernels.label_log_probabilities(logits, labels)
        ctx.logits, ctx.log_sums, ctx.head, ctx.labels, ctx.kernels = logits, log_sums, head, labels, kernels
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, ctx.logits = ctx.logits, None
        if logits is None:
            raise RuntimeError("the fused decoder keeps no memory for a second backward pass")
        ctx.kernels.label_gradients(logits, ctx.labels, ctx.log_sums, gradients[0].contiguous())
        return torch.mm(logits, ctx.head), None, None, None
