"""A log handler that closes its stream, as that of absl does with a stream that is not stderr."""

from __future__ import annotations

import logging


class ClosingHandler(logging.StreamHandler):
    """Closes its stream when it is closed."""

    def close(self) -> None:
        self.stream.close()
        super().close()
