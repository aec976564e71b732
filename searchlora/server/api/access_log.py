"""Access log: one JSON object per request and line, written by a thread of its own."""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from starlette.types import Scope

from searchlora.errors import UsageError

_LOG = logging.getLogger(__name__)

#: Lines that wait for a slow disk or reader; further ones are dropped, and counted in the next line.
_MAX_WAITING = 10_000

#: Characters of a method and of a path; the rest is cut.
_MAX_METHOD, _MAX_PATH = 20, 200


class AccessLog:
    """Appends to a file: time, caller, method, path, status and seconds of each request.

    A line is ASCII, so nothing in a request can forge another line. Query strings, headers and bodies are not logged,
    and API keys appear by name or number only.

    Args:
        file: None: standard output.

    Raises:
        UsageError: for a file that cannot be written.
    """

    def __init__(self, file: Path | None) -> None:
        self._files = ExitStack()
        try:
            self._stream = sys.stdout if file is None else self._files.enter_context(file.open("a", encoding="ascii"))
        except OSError as error:
            raise UsageError(f"'{file}' cannot be written ({error.strerror})", where="--access-log") from None
        self._lines: queue.Queue[str | None] = queue.Queue(_MAX_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="searchlora-access-log", daemon=True)
        self._thread.start()

    def add(self, scope: Scope, status: int, seconds: float) -> None:
        """Log a request that is done, without waiting; its status is 499 if the client has disconnected."""
        client = scope.get("client") or ("unknown",)
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "caller": scope.get("state", {}).get("client_id", client[0]),
            "method": scope["method"][:_MAX_METHOD],
            "path": scope["path"][:_MAX_PATH],
            "status": status,
            "seconds": round(seconds, 6),
        }
        if self._dropped:
            entry["dropped"] = self._dropped
        try:
            self._lines.put_nowait(json.dumps(entry))
            self._dropped = 0
        except queue.Full:
            self._dropped += 1

    def close(self, seconds: float = 5.0) -> None:
        """Write what waits, for at most this many seconds, and close the file."""
        try:
            self._lines.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self._files.close()

    def _write(self) -> None:
        failed = False
        while (line := self._lines.get()) is not None:
            try:
                print(line, file=self._stream, flush=True)
                failed = False
            except (OSError, ValueError) as error:  # a full disk, a closed pipe
                if not failed:
                    _LOG.error("the access log cannot be written: %s", error)
                failed = True
