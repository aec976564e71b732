"""What the servers of the project share."""

from __future__ import annotations

import pytest

from searchlora.errors import UsageError
from searchlora.server.http import bind


@pytest.mark.parametrize(
    ("host", "port"),
    [
        *(("a..b", 0), ("a" * 64, 0), ("\ud800", 0), ("a\0b", 0), ("[::1", 0)),
        *(("127.0.0.1", 70_000), ("127.0.0.1", -1)),
    ],
)
def test_an_address_that_is_none_is_a_usage_error(host, port):
    with pytest.raises(UsageError):
        bind(host, port)
