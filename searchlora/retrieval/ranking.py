"""What retrievers share: how many hits may be asked for, and the order of documents that are level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import UsageError


def tie_order(ids: Sequence[str]) -> NDArray[np.intp]:
    """The place of each document among ties: by id from last to first, as `searchlora.eval.trec.ranked`."""
    order = np.empty(len(ids), dtype=np.intp)
    order[sorted(range(len(ids)), key=ids.__getitem__, reverse=True)] = np.arange(len(ids))
    return order


def check_k(k: int) -> None:
    """Raise `UsageError` unless at least one hit is asked for."""
    if k < 1:
        raise UsageError(f"{k} hits cannot be asked for", fix="Ask for 1 or more.")
