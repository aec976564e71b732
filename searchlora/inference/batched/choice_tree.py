"""Token tree of a request's choices (a trie), and the pruned search over it by log-probability margin."""

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
class ChoiceTree:
    """Nodes are tokens that the model reads after the prompt; steps are tokens whose probability is computed.

    Every token of a choice is a step; all but its last are nodes too. Ancestors come before their descendants.
    """

    tokens: Ints
    depths: Ints
    sources: Ints  # the node after which each step is computed, -1 for the end of the prompt. Shape: (steps,)
    targets: Ints  # token of each step. Shape: (steps,)
    above: Bools  # [i, j]: node j is node i or an ancestor of it. Shape: (nodes, nodes)
    steps_of: Bools
    nodes_of: Bools

    @cached_property
    def parents(self) -> list[int]:
        """The node before each node; -1 for the end of the prompt."""
        return [int(np.flatnonzero(row[:node])[-1]) if row[:node].any() else -1 for node, row in enumerate(self.above)]

    @cached_property
    def _only_child(self) -> dict[int, int]:
        """Node -> the node after it, if that is the only step after it; the end of the prompt is node -1."""
        children = Counter(self.sources.tolist())
        return {parent: node for node, parent in enumerate(self.parents) if children[parent] == 1}

    @cached_property
    def _children(self) -> dict[int, dict[int, int]]:
        """Node -> token -> the node after it; -1 is the end of the prompt."""
        children: dict[int, dict[int, int]] = {}
        for node, parent in enumerate(self.parents):
            children.setdefault(parent, {})[int(self.tokens[node])] = node
        return children

    def child(self, node: int, token: int) -> int | None:
        """The node that a token leads to; None if a choice ends with it, or none has it there."""
        return self._children.get(node, {}).get(token)

    def children_of(self, node: int) -> list[int]:
        """The nodes after a node; -1 is the end of the prompt."""
        return list(self._children.get(node, {}).values())

    def path(self, node: int) -> tuple[int, ...]:
        """The tokens from the end of the prompt to a node, its own last; none for -1."""
        return tuple(self.tokens[np.flatnonzero(self.above[node])].tolist()) if node >= 0 else ()

    @cached_property
    def _steps_after(self) -> dict[int, Ints]:
        return {source: np.flatnonzero(self.sources == source) for source in {*self.sources.tolist()}}

    def steps_after(self, node: int) -> Ints:
        """The steps that are computed after a node; -1 is the end of the prompt."""
        return self._steps_after[node]

    def chain(self, node: int) -> list[int]:
        """The nodes from this one on, itself first, down to where the choices branch or end."""
        nodes = [node]
        while nodes[-1] in self._only_child:
            nodes.append(self._only_child[nodes[-1]])
        return nodes


def build_tree(choices: Sequence[Sequence[int]]) -> ChoiceTree:
    """The tree of the choices' token ids, none of them empty; equal choices share every step.

    Examples:
        >>> tree = build_tree([(5, 6, 2), (5, 7, 2)])
        >>> tree.tokens.tolist(), tree.targets.tolist(), tree.sources.tolist()
        ([5, 6, 7], [5, 6, 2, 7, 2], [-1, 0, 1, 0, 2])
    """
    steps: dict[tuple[int, int], int] = {}  # (node before, token) -> step
    nodes: dict[int, int] = {}  # step -> the node that its token becomes
    paths: list[list[int]] = []
    for choice in choices:
        node, path = -1, []
        for place, token in enumerate(choice):
            step = steps.setdefault((node, token), len(steps))
            path.append(step)
            if place < len(choice) - 1:
                node = nodes.setdefault(step, len(nodes))
        paths.append(path)
    sources, targets = np.array(list(steps), dtype=np.int64).reshape(-1, 2).T
    above = np.zeros((len(nodes), len(nodes)), dtype=bool)
    for step, node in nodes.items():
        if sources[step] >= 0:
            above[node] = above[sources[step]]
        above[node, node] = True
    steps_of = np.zeros((len(choices), len(steps)), dtype=bool)
    nodes_of = np.zeros((len(choices), len(nodes)), dtype=bool)
    for index, path in enumerate(paths):
        steps_of[index, path] = True
        nodes_of[index, [nodes[step] for step in path[:-1]]] = True
    node_steps = np.array(list(nodes), dtype=np.int64)
    return ChoiceTree(targets[node_steps], above.sum(1) - 1, sources, targets, above, steps_of, nodes_of)


class PrunedSearch:
    """Decides which nodes of a tree are computed: all at once, or in rounds only those that can still matter.

    With a `prune_margin` in nats, choices that are together this far behind the best one are not scored to the end.
    """

    #: A tree with fewer nodes is computed at once with the prompt; another forward pass would cost more.
    MIN_NODES = 16

    def __init__(self, tree: ChoiceTree, prune_margin: float | None) -> None:
        self.tree = tree
        self.prune_margin = prune_margin
        self._values = np.zeros(len(tree.targets))
        self._known = np.zeros(len(tree.targets), dtype=bool)
        self._computed = np.zeros(len(tree.tokens), dtype=bool)

    def first_nodes(self, limit: int) -> Ints:
        """The nodes that are computed together with the prompt, at most `limit` if all are computed."""
        if self.prune_margin is None or len(self.tree.tokens) < self.MIN_NODES:
            return self.mark_computed(np.arange(min(len(self.tree.tokens), limit)))
        return self.mark_computed(np.array(self.tree.chain(-1)[1:], dtype=np.int64))

    def next_nodes(self) -> Ints:
        """The nodes to compute next, those of the most likely choices first; none when the scores are exact enough.

        Any number of the first ones can be computed alone; pass them to `mark_computed`.
        """
        if self.prune_margin is None:
            return np.flatnonzero(~self._computed)
        scores, missing = self.scores(), self._missing
        if not missing.any():
            return np.array([], dtype=np.int64)
        if missing.all():
            open_ = [int(scores.argmax())]
        else:
            places = np.flatnonzero(missing)
            places = places[np.argsort(scores[places], kind="stable")]
            together = np.cumsum(np.exp(scores[places] - scores[~missing].max()))
            open_ = places[together > math.exp(-self.prune_margin)].tolist()
        open_.sort(key=lambda choice: -scores[choice])
        heads = dict.fromkeys(int(np.flatnonzero(self.tree.nodes_of[choice] & ~self._computed)[0]) for choice in open_)
        nodes = dict.fromkeys(node for head in heads for node in self.tree.chain(head))
        return np.array(list(nodes), dtype=np.int64)

    def next_heads(self) -> list[int]:
        """Of the nodes to compute next, those whose ancestors are all computed."""
        parents = self.tree.parents
        return [node for node in self.next_nodes().tolist() if parents[node] < 0 or self._computed[parents[node]]]

    def steps_after(self, nodes: Ints, *, prompt: bool) -> Ints:
        """The steps whose probability is known once these nodes (and the prompt) are computed."""
        return np.flatnonzero(np.isin(self.tree.sources, nodes) | (prompt & (self.tree.sources == -1)))

    def record(self, steps: Ints, log_probabilities: NDArray[np.float64]) -> None:
        self._values[steps] = log_probabilities
        self._known[steps] = True

    def scores(self) -> NDArray[np.float64]:
        """The sum over the known steps of each choice: its log-probability, or an upper bound of it."""
        return self.tree.steps_of @ self._values

    @property
    def known_steps(self) -> int:
        return int(self._known.sum())

    @property
    def _missing(self) -> Bools:
        return np.asarray((self.tree.steps_of & ~self._known).any(1))

    def mark_computed(self, nodes: Ints) -> Ints:
        """Mark nodes as computed and return them; ancestors come before their descendants."""
        self._computed[nodes] = True
        return nodes
