"""Error messages stay short."""

from __future__ import annotations

from searchlora.errors import some


def test_long_lists_are_truncated_with_a_count():
    names = [f"n{number}" for number in range(12)]
    assert some(names) == "n0, n1, n2, n3, n4 and 7 more"
    assert some(names[:5]) == "n0, n1, n2, n3, n4"
    assert some([]) == ""
