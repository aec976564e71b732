"""How many connections the process may have open."""

from __future__ import annotations

import contextlib

#: Kept for files, libraries and connections that ask for nothing yet.
_OTHERS = 128

#: Asked for where the hard limit is none.
_ENOUGH = 65_536


def room_for_connections() -> int | None:
    """Raise the soft limit of open files to the hard one; how many connections it leaves room for, None: any number.

    The usual soft limit of 1024 is for programs that cannot bear more; beyond it a server takes no connection at all.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # some systems have another limit behind the hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return None if soft == resource.RLIM_INFINITY else max(1, soft - _OTHERS)
