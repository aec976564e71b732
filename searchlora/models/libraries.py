"""Context managers that silence third-party libraries and keep them offline."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Read when transformers is imported: without torch, which the core install lacks on purpose, it would print a notice.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def _is_for_users(record: logging.LogRecord) -> bool:
    """Whether a message of bitsandbytes is one: it advises to install a kernel from the hub, without which it works."""
    return not record.msg.startswith("Failed to load CPU gemm_4bit_forward")


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_for_users)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide progress bars, notices and deprecation warnings of the libraries; errors are raised as usual."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message="The PEFT config's `base_model_name_or_path`")
        yield


@contextmanager
def off_the_hub() -> Iterator[None]:
    """No request to the hub, for example for the kernel that bitsandbytes looks for on some CPUs when imported."""
    from huggingface_hub import constants

    was_offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline
