"""Copies from the host to the device that nobody waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor of the host on a device; the same tensor if that is the CPU.

    A GPU copies it from pinned memory while the host goes on. From other memory PyTorch waits for the copy, and with it
    for all kernels before.
    """
    import torch

    kind = torch.device(device).type
    if kind == "cpu":
        return tensor
    return (tensor.pin_memory() if kind == "cuda" else tensor).to(device, non_blocking=True)
