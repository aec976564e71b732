"""API keys of a server and their roles: who may read, search, grade and operate.

A file of keys holds the sha256 of each, never a key. A key has 256 random bits, so its hash needs no salt and no slow
function: nobody can try all keys.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from searchlora.adapters.listing import is_settled
from searchlora.errors import DataError, SearchloraError, UsageError
from searchlora.files import FileState, atomic_text
from searchlora.files.atomic import writing
from searchlora.files.yaml_text import read_settings

_LOG = logging.getLogger(__name__)

#: What a key may do. Each role may do what those before it may.
Role = Literal["read", "search", "grade", "operate"]
ROLES: tuple[Role, ...] = get_args(Role)

#: Bytes of a new key.
_KEY_BYTES = 32

Function = TypeVar("Function", bound=Callable[..., object])


def requires(role: Role) -> Callable[[Function], Function]:
    """Decorator of a route's function: the role that a key needs for it."""

    def with_role(function: Function) -> Function:
        function.role = role  # type: ignore[attr-defined]
        return function

    return with_role


def may(role: Role, needed: Role) -> bool:
    """Whether a role may do what another one may.

    Examples:
        >>> may("grade", "search"), may("read", "search")
        (True, False)
    """
    return ROLES.index(role) >= ROLES.index(needed)


class ApiKey(BaseModel):
    """A key in a file: its role, the sha256 of the key, and when it was added (ISO 8601 in UTC)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    sha256: Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
    added: str | None = None


_Name = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z")]


class KeyFile(BaseModel):
    """Content of a file of keys: the keys by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: dict[_Name, ApiKey] = Field(default_factory=dict)


def add_key(file: Path, name: str, role: Role) -> str:
    """Add a new key to a file, which is made if it is missing, and return the key, which is stored nowhere.

    Raises:
        UsageError: for a name that is taken or has other characters than letters, digits, '.', '_' and '-', and for a
            file that is not one of keys.
        DataError: if it cannot be written.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "keys.yaml"
        >>> key = add_key(file, "shop", "search")
        >>> caller = ApiKeys(file=file).find(key.encode())
        >>> caller.name, caller.role
        ('shop', 'search')
    """
    key = secrets.token_urlsafe(_KEY_BYTES)
    added = datetime.now(UTC).isoformat(timespec="seconds")

    def with_key(keys: dict[str, ApiKey]) -> None:
        if name in keys:
            fix = f"Choose another name, or remove it: searchlora keys remove {name}."
            raise UsageError(f"there is a key '{name}'", where=str(file), fix=fix)
        keys[name] = ApiKey(role=role, sha256=_digest(key.encode()), added=added)

    _change(file, with_key)
    return key


def remove_key(file: Path, name: str) -> None:
    """Remove a key; running servers refuse it from the next request on. Raises `UsageError` for an unknown name."""

    def without_key(keys: dict[str, ApiKey]) -> None:
        if keys.pop(name, None) is None:
            raise UsageError(f"there is no key '{name}'", where=str(file), fix=f"Keys: {', '.join(keys) or 'none'}.")

    _change(file, without_key)


def _change(file: Path, change: Callable[[dict[str, ApiKey]], None]) -> None:
    import yaml
    from filelock import FileLock
    from pydantic import ValidationError

    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        keys = dict(read_settings(file, KeyFile).keys) if file.exists() else {}
        change(keys)
        try:
            content = KeyFile.model_validate({"keys": keys}).model_dump(exclude_none=True)
        except ValidationError:
            raise UsageError(
                "a name of a key has letters, digits, '.', '_' and '-', at most 64", where=str(file)
            ) from None
        with atomic_text(file) as out:
            os.fchmod(out.fileno(), 0o600)
            if file.exists():  # the server may run as another user than whoever withdraws a key
                owner = file.stat()
                os.fchown(out.fileno(), owner.st_uid, owner.st_gid)
            out.write(yaml.safe_dump(content, sort_keys=False))


@dataclass(frozen=True)
class Caller:
    """Who sends a request: the name of a key, and its role."""

    name: str
    role: Role


class ApiKeys:
    """The keys of a server: those of its settings, which may do everything, and those of a file.

    The file is read again when it has changed. While it cannot be read no key of it is accepted, because one of them
    may have been withdrawn.

    Args:
        keys: Keys in plain text. Their names are `key 0`, `key 1`, ...
        file: File of further keys.

    Raises:
        UsageError, DataError: for a file that is not one of keys, or cannot be read.
    """

    def __init__(self, keys: Sequence[str] = (), file: Path | None = None) -> None:
        self._own = [(_digest(key.encode()), Caller(f"key {number}", "operate")) for number, key in enumerate(keys)]
        self._file = file
        self._known: tuple[FileState, list[tuple[str, Caller]]] | None = None
        self._last_problem = ""
        self._of_file()

    def __bool__(self) -> bool:
        """Whether requests need a key."""
        return bool(self._own) or self._file is not None

    def find(self, key: bytes) -> Caller | None:
        """The caller with a key; None for an unknown key."""
        try:
            of_file = self._of_file()
            self._last_problem = ""
        except SearchloraError as error:
            of_file = []
            if str(error) != self._last_problem:
                _LOG.error("no key of the file is accepted: %s", error)
            self._last_problem = str(error)
        digest, found = _digest(key), None
        # All digests are compared, each in constant time: the duration reveals nothing about any key.
        for known, caller in (*self._own, *of_file):
            if hmac.compare_digest(digest, known):
                found = caller
        return found

    def _of_file(self) -> list[tuple[str, Caller]]:
        if self._file is None:
            return []
        try:
            state = FileState.of(self._file.stat())
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", where=str(self._file)) from None
        if self._known is not None and self._known[0] == state:
            return self._known[1]
        content = read_settings(self._file, KeyFile)
        keys = [(key.sha256, Caller(name, key.role)) for name, key in content.keys.items()]
        self._known = (state, keys) if is_settled(state) else None
        return keys


def _digest(key: bytes) -> str:
    """A digest has the same length for all keys, so comparing reveals no key's length."""
    return hashlib.sha256(key).hexdigest()
