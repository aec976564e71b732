"""Choice scoring with tree attention: all choices of a prompt in one row, kept apart by the attention mask.

As in SpecInfer (arXiv:2305.09781): a token attends to the prompt, to its ancestors in the token tree and to itself, at
the position that it has in its own choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

from searchlora.inference.batched.choice_tree import Bools, ChoiceTree, Ints, PrunedSearch, build_tree
from searchlora.inference.batched.prefill import Prefiller, Prompt
from searchlora.inference.engine import ChoiceScores
from searchlora.inference.scheduling.requests import TokenIds

#: Rows of logits in memory at once: 50 MB for a vocabulary of 50,000.
_LOGIT_ROWS = 256

#: Minimum number of nodes per row and pass: a forward pass costs at least as much.
_MIN_NODES = 8

#: Nodes per row and pass of a batch-invariant model: the number must not depend on the other rows.
_INVARIANT_NODES = 16

#: Nodes per row and pass if all are computed: the mask is as large as the nodes of a pass times the columns.
_EXACT_NODES = 256

#: Maximum number of choice tokens whose tree is cached (1 MB).
_CACHED_TREE = 1024


def score_choices(
    prefiller: Prefiller, prompts: Sequence[Prompt], choices: Sequence[tuple[TokenIds, ...]], margin: float | None
) -> list[ChoiceScores]:
    """Score all choices of each prompt in one batch; shared prefixes of prompts are computed once."""
    trees = {choice_ids: _tree(choice_ids) for choice_ids in set(choices)}
    searches = [PrunedSearch(trees[choice_ids], margin) for choice_ids in choices]
    prefiller.compute_shared_prefixes(prompts)
    # Prompts of similar length are computed in one pass.
    order = sorted(range(len(prompts)), key=lambda place: prefiller.left(prompts[place]))
    batch = _TreeBatch(prefiller, [prompts[place] for place in order], [searches[place] for place in order])
    nodes = [search.first_nodes(_EXACT_NODES) for search in batch.searches]
    while batch.rows:
        batch.compute(nodes)
        candidates = [batch.searches[row].next_nodes() for row in batch.rows]
        batch.keep([place for place, of_row in enumerate(candidates) if len(of_row)])
        candidates = [of_row for of_row in candidates if len(of_row)]
        if margin is None:
            limit = _EXACT_NODES
        else:
            # All rows are padded to the longest.
            usual = 2 * int(np.median([len(of_row) for of_row in candidates])) if candidates else 0
            limit = _INVARIANT_NODES if prefiller.forward.batch_invariant else max(_MIN_NODES, usual)
        nodes = [
            batch.searches[row].mark_computed(of_row[:limit])
            for row, of_row in zip(batch.rows, candidates, strict=True)
        ]
    return [
        ChoiceScores(tuple(search.scores().tolist()), len(prompt.ids), search.known_steps)
        for search, prompt in zip(searches, prompts, strict=True)
    ]


def _tree(choices: tuple[TokenIds, ...]) -> ChoiceTree:
    """Small trees are cached, as most prompts have the same few choices; a tree takes memory by its square."""
    return _cached_tree(choices) if sum(map(len, choices)) <= _CACHED_TREE else build_tree(choices)


_cached_tree = lru_cache(maxsize=32)(build_tree)


class _TreeBatch:
    """Rows of prompt and token tree, computed in one or several passes.

    A row's columns in the KV cache are its prompt, by position, and then its nodes in the order in which they are
    computed. They do not depend on the other rows.
    """

    def __init__(self, prefiller: Prefiller, prompts: Sequence[Prompt], searches: Sequence[PrunedSearch]) -> None:
        self.rows = list(range(len(prompts)))
        self.searches = searches
        self._prefiller = prefiller
        self._forward = prefiller.forward
        self._prefixes = prefiller.prefixes
        self._prompts = prompts
        self._cache = prefiller.scratch
        longest = max(len(prompt.ids) for prompt in prompts)
        self._cache.reserve(len(prompts), longest, prefiller.limits.cache_tokens)
        self._computed = prefiller.paste_prefixes(prompts, self._cache, 0)  # columns of each row
        # Column of each node, -1 if not computed. The last entry is that of node -1, the end of the prompt.
        self._columns = [
            np.append(np.full(len(search.tree.tokens), -1), len(prompt.ids) - 1)
            for search, prompt in zip(searches, prompts, strict=True)
        ]

    def compute(self, chosen: Sequence[Ints]) -> None:
        """Compute nodes of each remaining row, the first time after the prompts, and record the steps after them.

        Raises `NonFinitePrompts` if hidden states of some prompts are not finite.
        """
        lengths = [len(self._left(row)) + len(nodes) for row, nodes in zip(self.rows, chosen, strict=True)]
        for places in self._prefiller.passes(lengths):
            self._compute_pass(places, chosen[places.start : places.stop])

    def _left(self, row: int) -> TokenIds:
        """The tokens of a row's prompt that are not computed."""
        return self._prompts[row].ids[self._computed[row] :]

    def _compute_pass(self, places: range, chosen: Sequence[Ints]) -> None:
        rows = self.rows[places.start : places.stop]
        starts = [self._computed[row] for row in rows]
        ids, positions, visible, columns = self._inputs(rows, chosen)
        start = starts[0] if len(set(starts)) == 1 else torch.tensor(starts)
        self._cache.begin_pass(slice(places.start, places.stop), start, visible.shape[2])
        prompts = [self._prompts[row] for row in rows]
        hidden = self._forward.hidden_states(
            torch.from_numpy(ids),
            torch.from_numpy(positions),
            torch.from_numpy(visible),
            [prompt.slot for prompt in prompts],
            self._cache,
            torch.from_numpy(columns),
        )
        self._prefiller.check_finite(prompts, hidden, self._cache)
        self._record(rows, chosen, hidden, starts)
        for place, prompt, begun in zip(places, prompts, starts, strict=True):
            if begun < len(prompt.ids) and prompt.keep_prefix:
                self._prefixes.add_copy(prompt.adapter, prompt.ids[:-1], partial(self._cache.copy_columns, place))

    def keep(self, places: Sequence[int]) -> None:
        for target, source in enumerate(places):
            if target != source:
                self._cache.move_row(source, target, self._computed[self.rows[source]])
        self.rows = [self.rows[place] for place in places]

    def _inputs(self, rows: Sequence[int], chosen: Sequence[Ints]) -> tuple[Ints, Ints, Bools, Ints]:
        """Token ids and positions (rows, new) of a pass, the columns visible to each (rows, new, columns), and the
        position of the token in each column (rows, columns).
        """
        left = [self._left(row) for row in rows]
        new = max(len(prompt) + len(nodes) for prompt, nodes in zip(left, chosen, strict=True))
        starts = np.array([self._computed[row] for row in rows])
        ids = np.zeros((len(rows), new), dtype=np.int64)
        positions = np.zeros((len(rows), new), dtype=np.int64)
        visible = np.zeros((len(rows), new, int(starts.max()) + new), dtype=bool)
        where = np.tile(np.arange(visible.shape[2]), (len(rows), 1))
        for place, (row, prompt, nodes) in enumerate(zip(rows, left, chosen, strict=True)):
            tree, columns, start = self.searches[row].tree, self._columns[row], int(starts[place])
            lead, end = len(prompt), len(prompt) + len(nodes)
            ids[place, :lead], ids[place, lead:end] = prompt, tree.tokens[nodes]
            length = len(self._prompts[row].ids)
            positions[place, :lead] = np.arange(start, start + lead)
            positions[place, lead:end] = length + tree.depths[nodes]
            columns[nodes] = start + lead + np.arange(len(nodes))
            computed = np.flatnonzero(columns[:-1] >= 0)
            visible[place, :lead, : start + lead] = np.tri(lead, start + lead, start, dtype=bool)
            visible[place, lead:end, :length] = True
            where[place, columns[computed]] = length + tree.depths[computed]
            visible[place, lead:end][:, columns[computed]] = tree.above[np.ix_(nodes, computed)]
            padding = np.arange(end, new)
            visible[place, padding, start + padding] = True  # padding sees itself: a softmax over nothing is NaN
            self._computed[row] = start + end
        return ids, positions, visible, where

    def _record(self, rows: Sequence[int], chosen: Sequence[Ints], hidden: torch.Tensor, starts: Sequence[int]) -> None:
        """Record the log-probabilities that follow from the hidden states (rows, new, hidden size) in each search."""
        steps_of_rows, places, targets = [], [], []
        for place, (row, nodes, start) in enumerate(zip(rows, chosen, starts, strict=True)):
            search = self.searches[row]
            steps = search.steps_after(nodes, prompt=start < len(self._prompts[row].ids))
            columns = self._columns[row][search.tree.sources[steps]] - start
            steps_of_rows.append(steps)
            places.append(place * hidden.shape[1] + columns)
            targets.append(search.tree.targets[steps])
        values = self._log_probabilities(hidden.flatten(0, 1), np.concatenate(places), np.concatenate(targets))
        ends = np.cumsum([len(steps) for steps in steps_of_rows])[:-1]
        for row, steps, of_row in zip(rows, steps_of_rows, np.split(values, ends), strict=True):
            self.searches[row].record(steps, of_row)

    def _log_probabilities(self, hidden: torch.Tensor, places: Ints, targets: Ints) -> NDArray[np.float64]:
        """Log-probability of each target token after the hidden state (all, hidden size) in its place.

        The logits are computed in slices of `_LOGIT_ROWS` rows.
        """
        unique, inverse = np.unique(places, return_inverse=True)
        values = np.zeros(len(places))
        for start in range(0, len(unique), _LOGIT_ROWS):
            here = np.flatnonzero((inverse >= start) & (inverse < start + _LOGIT_ROWS))
            chosen = (unique[start : start + _LOGIT_ROWS], inverse[here] - start, targets[here])
            of_slice, rows, ids = (torch.from_numpy(part) for part in chosen)
            values[here] = self._forward.log_probabilities(hidden[of_slice], rows, ids).double().numpy()
        return values
