"""API keys of a server: a key reads, or reads and writes.

A file of keys has a line for each, `NAME read|write SHA256`, and never the key. A key has 256 random bits, so its hash
needs no salt and no slow function.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from searchlora.errors import SearchloraError, UsageError
from searchlora.files import read_text

_LOG = logging.getLogger(__name__)

LINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63} (read|write) [0-9a-f]{64}")

#: `openapi_extra` of a route that saves or changes something, or shows what users did: it needs a key that writes.
WRITES = {"x-role": "write"}


@dataclass(frozen=True)
class Caller:
    """Who sends a request: the name of a key, its role, and its sha256."""

    name: str
    role: str
    sha256: str


def sha256_of(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def read_keys(file: Path | None) -> list[Caller]:
    """The keys of a file. Raises `UsageError` for another line than that of a key, `DataError` if it cannot be read."""
    keys = []
    for number, line in enumerate(read_text(file).splitlines() if file is not None else (), 1):
        if not LINE.fullmatch(line):
            raise UsageError("is not 'NAME read|write SHA256'", where=f"{file}, line {number}")
        keys.append(Caller(*line.split()))
    return keys


class ApiKeys:
    """The keys of the settings, which write, and those of a file, which is read at each request. Raises as `read_keys`.

    While the file cannot be read no key of it is accepted, because one of them may have been withdrawn.
    """

    def __init__(self, keys: Sequence[str] = (), file: Path | None = None) -> None:
        read_keys(file)
        self._own = [Caller(f"key {number}", "write", sha256_of(key.encode())) for number, key in enumerate(keys)]
        self._file, self.required = file, bool(keys or file)

    def find(self, key: bytes) -> Caller | None:
        """The caller with a key. All digests are compared, so that the duration reveals nothing about any key."""
        try:
            known = [*self._own, *read_keys(self._file)]
        except SearchloraError as error:
            _LOG.error("no key of the file is accepted: %s", error)
            known = self._own
        digest = sha256_of(key)
        found = [caller for caller in known if hmac.compare_digest(caller.sha256, digest)]
        return found[0] if found else None
