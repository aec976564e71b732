"""A tiny random text encoder."""

from __future__ import annotations

from searchlora.testing import build_tiny_encoder

__all__ = ["build_tiny_encoder"]
