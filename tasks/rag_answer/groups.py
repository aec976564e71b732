"""Rows that belong together: connected through anything that they share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def connected(keys: Sequence[Iterable[str]]) -> list[int]:
    """For each row the number of the first row that it is connected with, through rows that share a key.

    Args:
        keys: Of each row, what it must not share with a row of another group.
    """
    parent = list(range(len(keys)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    owner: dict[str, int] = {}
    for row, its in enumerate(keys):
        for key in its:
            one, other = root(owner.setdefault(key, row)), root(row)
            parent[max(one, other)] = min(one, other)
    return [root(row) for row in range(len(keys))]
