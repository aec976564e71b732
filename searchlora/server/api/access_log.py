"""Access log: one JSON object per request and line, written by a thread of its own."""

from __future__ import annotations

import logging
import queue
import sys
from logging.handlers import QueueHandler, QueueListener

from searchlora.errors import UsageError


def access_logger(place: str) -> tuple[logging.Logger, QueueListener]:
    """A logger that appends to a file (`-`: standard output), and what writes its lines until it is stopped."""
    try:
        handler = logging.StreamHandler(sys.stdout) if place == "-" else logging.FileHandler(place, encoding="ascii")
    except OSError as error:
        raise UsageError(f"'{place}' cannot be written ({error.strerror})", where="--access-log") from None
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    listener, logger = QueueListener(lines, handler), logging.Logger("searchlora.access")
    logger.addHandler(QueueHandler(lines))
    listener.start()
    return logger, listener
