"""HAProxy as the guide sets it up, from Debian's package, on ports of the loopback interface."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

CONFIG = Path(__file__).resolve().parents[2] / "docs" / "deployment" / "haproxy.cfg"


@contextmanager
def running(servers: Sequence[int]) -> Iterator[str]:
    """The address of a proxy before the servers on two ports. Skips the test if HAProxy is not installed."""
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if program is None:
        pytest.skip("haproxy is not installed; Debian has a package of that name")
    (own,) = free_ports(1)
    addresses = [f"127.0.0.1:{port}" for port in (own, *servers)]
    variables = os.environ | dict(zip(("BIND", "SERVER_A", "SERVER_B"), addresses, strict=True))
    with subprocess.Popen([program, "-db", "-f", CONFIG], env=variables, stdout=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None:
                with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", own)):
                    break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{own}"
        finally:
            process.kill()


def free_ports(number: int) -> list[int]:
    """Ports of the loopback interface on which nothing listens."""
    with ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(number)]
