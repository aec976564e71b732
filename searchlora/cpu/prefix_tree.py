"""Rows of a batch as paths of a tree of tokens, so that equal prefixes are computed once.

The rows of a task begin with the same instructions. With causal attention and without dropout, equal tokens after equal
tokens have equal hidden states, so one computation serves all rows; its gradient is the sum over the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class PrefixTree:
    """Different prefixes of some rows of tokens. A node stands for a prefix, and for its last token.

    Attributes:
        tokens, positions: Token of each node, and its place in the rows, from 0 on; shape (nodes,).
        path: Nodes of the rows, one row after the other, in the order of their tokens; shape (tokens of all rows,).
        starts: Where each row begins in `path`, and the length of `path`; shape (rows + 1,).
        shared: Nodes at the beginning of each row that a row before it in `path` has, too; shape (rows,).
        rank: Place in `path` of each row as it was given; shape (rows,).
        places: Indices of `path` sorted by their nodes; shape of `path`.
        place_starts: Where each node's indices begin in `places`, and the length; shape (nodes + 1,).
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    path: torch.Tensor
    starts: torch.Tensor
    shared: torch.Tensor
    rank: torch.Tensor
    places: torch.Tensor
    place_starts: torch.Tensor

    def nodes_at(self, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The nodes at some positions of some rows; all of shape (n,)."""
        return self.path[self.starts[self.rank[rows]] + positions]


def prefix_tree(rows: Sequence[Sequence[int]]) -> PrefixTree:
    """The tree of some rows, none of them empty.

    Rows are put in lexicographic order, in which the longest prefix that a row shares with any row before it is the one
    that it shares with the last.

    Examples:
        >>> tree = prefix_tree([[1, 2, 5], [1, 2, 3, 4]])
        >>> tree.tokens.tolist(), tree.positions.tolist()
        ([1, 2, 3, 4, 5], [0, 1, 2, 3, 2])
        >>> tree.path.tolist(), tree.starts.tolist(), tree.shared.tolist()
        ([0, 1, 2, 3, 0, 1, 4], [0, 4, 7], [0, 2])
        >>> tree.nodes_at(torch.tensor([0]), torch.tensor([2]))
        tensor([4])
    """
    order = sorted(range(len(rows)), key=lambda index: tuple(rows[index]))
    paths: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    shared = []
    nodes, before, path = 0, np.empty(0, np.int64), np.empty(0, np.int64)
    for index in order:
        row = np.asarray(rows[index], np.int64)
        common = min(len(row), len(before))
        differing = np.flatnonzero(row[:common] != before[:common])
        same = int(differing[0]) if len(differing) else common
        path = np.concatenate([path[:same], np.arange(nodes, nodes + len(row) - same)])
        nodes += len(row) - same
        paths.append(path)
        tokens.append(row[same:])
        positions.append(np.arange(same, len(row)))
        shared.append(same)
        before = row
    flat = np.concatenate(paths)
    return PrefixTree(
        tokens=torch.from_numpy(np.concatenate(tokens)),
        positions=torch.from_numpy(np.concatenate(positions)),
        path=torch.from_numpy(flat),
        starts=torch.from_numpy(np.cumsum([0, *map(len, paths)])),
        shared=torch.tensor(shared),
        rank=torch.from_numpy(np.argsort(order)),
        places=torch.from_numpy(np.argsort(flat, kind="stable")),
        place_starts=torch.from_numpy(np.concatenate([[0], np.cumsum(np.bincount(flat, minlength=nodes))])),
    )
