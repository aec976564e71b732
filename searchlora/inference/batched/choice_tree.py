"""Several answers to one prompt as a tree of tokens, so that what they share is computed once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Tree:
    """A node is a token that the model reads behind the prompt; a step is a token whose probability it is asked for.

    Every token of an answer is a step; all but its last are nodes too. An ancestor stands before its descendants.

    Attributes:
        tokens: The token of each node. Shape: (nodes,), as of `depths`.
        depths: How far behind the prompt each node stands, from 0.
        sources: The node behind which each step is asked, -1 for the prompt's end. Shape: (steps,), as of `targets`.
        targets: The token of each step.
        above: [i, j]: node j is node i or an ancestor of it. Shape: (nodes, nodes).
        steps_of: Which steps make up each answer. Shape: (answers, steps).
        nodes_of: Which nodes each answer leads through. Shape: (answers, nodes).
    """

    tokens: Ints
    depths: Ints
    sources: Ints
    targets: Ints
    above: Bools
    steps_of: Bools
    nodes_of: Bools

    @cached_property
    def _next(self) -> dict[int, int]:
        """Node -> the node behind it, where that is the only step behind it; the prompt's end is node -1."""
        parents = [
            int(np.flatnonzero(row[:node])[-1]) if row[:node].any() else -1 for node, row in enumerate(self.above)
        ]
        asked = Counter(self.sources.tolist())
        return {parent: node for node, parent in enumerate(parents) if asked[parent] == 1}

    def run(self, node: int) -> list[int]:
        """The nodes from this one on, itself first, down to where the answers part or end."""
        found = [node]
        while found[-1] in self._next:
            found.append(self._next[found[-1]])
        return found


def tree(answers: Sequence[Sequence[int]]) -> Tree:
    """The tree of these answers' token ids, none of them empty; equal answers share every step."""
    steps: dict[tuple[int, int], int] = {}  # (node before, token) -> step
    nodes: dict[int, int] = {}  # step -> the node that its token becomes
    taken: list[list[int]] = []
    for answer in answers:
        node, path = -1, []
        for place, token in enumerate(answer):
            step = steps.setdefault((node, token), len(steps))
            path.append(step)
            if place < len(answer) - 1:
                node = nodes.setdefault(step, len(nodes))
        taken.append(path)
    sources, targets = np.array(list(steps), dtype=np.int64).reshape(-1, 2).T
    above = np.zeros((len(nodes), len(nodes)), dtype=bool)
    for step, node in nodes.items():
        if sources[step] >= 0:
            above[node] = above[sources[step]]
        above[node, node] = True
    steps_of = np.zeros((len(answers), len(steps)), dtype=bool)
    nodes_of = np.zeros((len(answers), len(nodes)), dtype=bool)
    for index, path in enumerate(taken):
        steps_of[index, path] = True
        nodes_of[index, [nodes[step] for step in path[:-1]]] = True
    made_of = np.array(list(nodes), dtype=np.int64)
    return Tree(targets[made_of], above.sum(1) - 1, sources, targets, above, steps_of, nodes_of)


class Search:
    """What of a tree is computed: all at once, or in rounds only what may still come near the best answer.

    Args:
        prune_margin: Margin in nats: choices that are together this far behind the best one are not scored to the end;
            None scores every choice exactly.
    """

    #: Fewer nodes than this are computed at once with the prompt; another pass through the model would cost more.
    SMALL = 16

    def __init__(self, tree: Tree, prune_margin: float | None) -> None:
        self.tree = tree
        self.prune_margin = prune_margin
        self._values = np.zeros(len(tree.targets))
        self._known = np.zeros(len(tree.targets), dtype=bool)
        self._read = np.zeros(len(tree.tokens), dtype=bool)

    def first(self) -> Ints:
        """The nodes that are computed together with the prompt."""
        if self.prune_margin is None or len(self.tree.tokens) < self.SMALL:
            return self.reading(np.arange(len(self.tree.tokens)))
        return self.reading(np.array(self.tree.run(-1)[1:], dtype=np.int64))

    def next(self) -> Ints:
        """The nodes to compute next, those of the likeliest answers first; none when the scores are exact enough.

        The first so many of them can be had alone; what is computed is told by `reading`.
        """
        scores, missing = self.scores(), self._missing
        if self.prune_margin is None or not missing.any():
            return np.array([], dtype=np.int64)
        if missing.all():
            open_ = [int(scores.argmax())]
        else:
            places = np.flatnonzero(missing)
            places = places[np.argsort(scores[places], kind="stable")]
            together = np.cumsum(np.exp(scores[places] - scores[~missing].max()))
            open_ = places[together > math.exp(-self.prune_margin)].tolist()
        open_.sort(key=lambda answer: -scores[answer])
        heads = dict.fromkeys(int(np.flatnonzero(self.tree.nodes_of[answer] & ~self._read)[0]) for answer in open_)
        unread = dict.fromkeys(node for head in heads for node in self.tree.run(head))
        return np.array(list(unread), dtype=np.int64)

    def asked(self, nodes: Ints, *, prompt: bool) -> Ints:
        """The steps that can be told once these nodes (and the prompt) are computed."""
        return np.flatnonzero(np.isin(self.tree.sources, nodes) | (prompt & (self.tree.sources == -1)))

    def tell(self, steps: Ints, log_probabilities: NDArray[np.float64]) -> None:
        """The log-probability of each of these steps."""
        self._values[steps] = log_probabilities
        self._known[steps] = True

    def scores(self) -> NDArray[np.float64]:
        """Of each answer: the sum over its known steps, which are its first ones, so an upper bound or the value."""
        return self.tree.steps_of @ self._values

    @property
    def steps_known(self) -> int:
        """How many steps' probabilities were computed."""
        return int(self._known.sum())

    @property
    def _missing(self) -> Bools:
        """Which answers have a step whose probability is not known."""
        return np.asarray((self.tree.steps_of & ~self._known).any(1))

    def reading(self, nodes: Ints) -> Ints:
        """These nodes, which are computed now; an ancestor stands before its descendants."""
        self._read[nodes] = True
        return nodes
