"""The tiny LLM of the tests."""

from __future__ import annotations

from searchlora.testing import CHAT_TEMPLATE, build_tiny_base

TEMPLATE = CHAT_TEMPLATE

__all__ = ["TEMPLATE", "build_tiny_base"]
