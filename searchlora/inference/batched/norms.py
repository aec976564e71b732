"""The RMS norms of a base, each computed in one go; PyTorch takes eight passes over the numbers."""

from __future__ import annotations

from typing import Any

import torch

from searchlora.inference.batched.native import kernels
from searchlora.inference.batched.native.bindings import Kernels


class Norm(torch.nn.Module):
    """Stands in the model where a norm stood.

    Args:
        norm: What stood there.
        compiled: Computes the same.
        epsilon: Of the norm.
    """

    def __init__(self, norm: Any, compiled: Kernels, epsilon: float) -> None:
        super().__init__()
        self._norm = norm
        self._compiled = compiled
        self.told: tuple[torch.Tensor, float] = (norm.weight.detach().contiguous(), epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the norm: the same shape as x."""
        if x.dtype != self.told[0].dtype:
            return self._norm(x)  # type: ignore[no-any-return]
        return self._compiled.norm(x, *self.told)


def take_over_norms(model: Any) -> None:
    """Put `Norm` in the place of each norm of a model that it computes as the model does, where there are kernels."""
    for path, norm in list(model.named_modules()):
        if not type(norm).__name__.endswith("RMSNorm"):
            continue
        ours = _compiled(norm)
        if ours is not None:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, ours)


def _compiled(norm: Any) -> Norm | None:
    """None where there are no kernels, or the norm computes something else (some add 1 to their weight)."""
    weight, epsilon = getattr(norm, "weight", None), getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if not isinstance(weight, torch.Tensor) or weight.dim() != 1 or not isinstance(epsilon, float):
        return None
    compiled = kernels(weight)
    if compiled is None:
        return None
    ours = Norm(norm, compiled, epsilon)
    some = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    with torch.inference_mode():
        wanted, found = norm(some), ours(some)
    near = torch.finfo(weight.dtype).eps * wanted.abs().float().clamp(min=1e-3)
    same = found.dtype == wanted.dtype and bool(((found.float() - wanted.float()).abs() <= 4 * near).all())
    return ours if same else None
