"""Running out of memory during a pass, on any device: the batch is halved, and computing goes on."""

from __future__ import annotations

import logging
import time

import torch

from searchlora.errors import EngineError

_LOG = logging.getLogger(__name__)

#: Seconds after a shortage of memory until batches of the usual size are tried again.
RETRY_S = 60.0

#: What PyTorch's allocators on a CPU and the libraries of a GPU write into a plain RuntimeError.
_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out.

    Examples:
        >>> is_out_of_memory(torch.OutOfMemoryError())
        True
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory"))
        True
        >>> is_out_of_memory(RuntimeError("shapes do not match"))
        False
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def request_error(error: Exception) -> Exception:
    """What a request fails with: the error itself, or one that names the settings to lower if memory ran out.

    Examples:
        >>> str(request_error(MemoryError()))
        'the request does not fit into memory (MemoryError). Ask for less, or lower cache_tokens or batch_tokens.'
        >>> request_error(ValueError("another error"))
        ValueError('another error')
    """
    if not is_out_of_memory(error):
        return error
    return EngineError(
        f"the request does not fit into memory ({str(error) or type(error).__name__})",
        fix="Ask for less, or lower cache_tokens or batch_tokens.",
    )


class SmallerBatches:
    """How long batches are smaller after memory ran out; it is said once."""

    def __init__(self) -> None:
        self._was_said = False
        self._until: float | None = None

    def warn_and_free(self, rows: int) -> None:
        """Note that a pass of so many rows ran out of memory, and give unused memory back to the device."""
        if not self._was_said:
            _LOG.warning(
                "Memory ran out in a pass of %d rows; smaller batches are computed for %.0f seconds. To have them from"
                " the beginning, lower max_num_seqs, batch_tokens or cache_tokens.",
                rows,
                RETRY_S,
            )
        self._was_said = True
        self._until = time.monotonic() + RETRY_S
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def have_ended(self) -> bool:
        """Whether the usual batches may be tried again; True once after each shortage."""
        ended = self._until is not None and time.monotonic() >= self._until
        if ended:
            self._until = None
        return ended
