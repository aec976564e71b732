"""A real PostgreSQL with pgvector, from Debian's packages, in a temporary folder and on a Unix socket.

Its processes belong to an unprivileged user, as PostgreSQL demands; it listens on no port.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Debian's packages, newest first; other systems may name the folder of `initdb` and `pg_ctl`.
PROGRAMS = "SEARCHLORA_POSTGRES_BIN"


def programs() -> Path | None:
    """The folder of `pg_ctl` of the newest installed PostgreSQL with pgvector; None without one."""
    named = os.environ.get(PROGRAMS)
    if named:
        return Path(named)
    for version in sorted(Path("/usr/lib/postgresql").glob("*"), key=lambda each: int(each.name), reverse=True):
        extension = Path("/usr/share/postgresql", version.name, "extension", "vector.control")
        if (version / "bin" / "pg_ctl").is_file() and extension.is_file():
            return version / "bin"
    return None


def why_not() -> str | None:
    """Why no server can be started here; None if one can."""
    if programs() is None:
        return "PostgreSQL with pgvector is not installed (Debian: postgresql-17-pgvector)"
    if os.geteuid() == 0 and _user() is None:
        return "PostgreSQL refuses to run as root, and there is no user 'postgres'"
    return None


@contextmanager
def running() -> Iterator[str]:
    """The address of a server that runs as long as the context; its database is empty."""
    found = programs()
    assert found is not None
    # Below /tmp: the path of a socket has at most 107 characters, and the other user must reach it.
    folder = Path(tempfile.mkdtemp(prefix="searchlora-postgres-", dir="/tmp"))
    try:
        folder.chmod(0o755)
        data, user = folder / "data", _user() if os.geteuid() == 0 else None
        data.mkdir()
        if user is not None:
            os.chown(folder, user, -1)
            os.chown(data, user, -1)
        options = ["-U", "tester", "-A", "trust", "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
        _call(user, found / "initdb", "-D", data, *options)
        settings = f"-c listen_addresses='' -k {folder} -c fsync=off -c shared_buffers=16MB -c max_connections=30"
        _call(user, found / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-o", settings, "start")
        try:
            yield f"postgresql://tester@/postgres?host={folder}"
        finally:
            _call(user, found / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> int | None:
    """The id of Debian's user of PostgreSQL."""
    try:
        return pwd.getpwnam("postgres").pw_uid
    except KeyError:
        return None


def _call(user: int | None, *words: object) -> None:
    done = subprocess.run(
        [str(word) for word in words],
        user=user,
        cwd="/",
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        stdout=subprocess.DEVNULL,  # the server would keep a pipe open
        stderr=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 0, f"{words[0]} ended with {done.returncode}"
