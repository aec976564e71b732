"""The contract of a baseline over a frozen encoder: what a team would use in place of an adapter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from searchlora.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Turns texts into vectors of length 1, shape (texts, dimensions).
Encode: TypeAlias = "Callable[[Sequence[str]], NDArray[np.float32]]"

#: A baseline learns from this many training rows, the first ones: to encode more takes longer than it is worth.
MAX_ROWS = 20_000


class EncoderBaseline(ABC):
    """A classical model over the vectors of a frozen encoder. It learns from training rows in seconds.

    Attributes:
        name: What stands after the name of the encoder, for example `+ logistic regression`.
        version: Increased whenever outputs change.
        serves: Whether a pipeline may use it: a search has one output, which depends on nothing but its record.
    """

    name: str
    version: int = 1
    serves: bool = True

    @abstractmethod
    def fit(self, training: Sequence[Record], validation: Sequence[Record], encode: Encode) -> None:
        """Learn from training rows; validation rows are for tuned values, as for an adapter."""

    @abstractmethod
    def predict(self, records: Sequence[Record], encode: Encode) -> Sequence[Any]:
        """One output per record."""
