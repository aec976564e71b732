"""The part of a model that reads text."""

from __future__ import annotations

from typing import Any


def text_model(model: Any) -> Any:
    """The transformer below the output layer that computes hidden states of text.

    Of a model that also reads images or sound (Gemma 3 from 4B), it is the language model without the other towers.
    """
    if model.config.get_text_config() is model.config:
        return getattr(model, model.base_model_prefix)
    return model.get_decoder()


def computing_dtype(model: Any) -> Any:
    """The dtype of a model's hidden states: that of its norms and biases. Matrices may be held in another one."""
    return next((value.dtype for value in model.parameters() if value.ndim == 1), model.dtype)
