"""Mixtures of experts: models in which a router sends the tokens of a batch to different weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchlora.errors import SearchloraError
from searchlora.models.resolve import read_json_object


def is_mixture_of_experts(folder: Path) -> bool:
    """Whether the config of a base says that it has several experts; False for a folder without a config.

    All tokens of a batch that are routed to one expert share a product. Its shape, and with it the rounding of a token,
    depends on the other rows.
    """
    try:
        return _has_experts(read_json_object(folder / "config.json"))
    except SearchloraError:  # loading the base says what is wrong
        return False


def _has_experts(config: Mapping[str, Any]) -> bool:
    """Examples:

    >>> _has_experts({"num_local_experts": 8, "num_experts_per_tok": 2}), _has_experts({"num_experts": 1})
    (True, False)
    >>> _has_experts({"text_config": {"n_routed_experts": 64}})
    True
    """
    for key, value in config.items():
        if isinstance(value, dict) and _has_experts(value):
            return True
        if "experts" in key and "per_tok" not in key and type(value) is int and value > 1:
            return True
    return False
