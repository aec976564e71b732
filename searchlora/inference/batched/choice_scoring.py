"""Trees of answers, scored for rows with adapters of their own: a mask keeps the branches behind a prompt apart.

Tree attention as in SpecInfer (arXiv:2305.09781): a token sees its prompt, its ancestors and itself, and stands at
the position that it has in its own answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from searchlora.inference.batched.choice_tree import Bools, Ints, Search, Tree, tree
from searchlora.inference.batched.forward import NotFinite
from searchlora.inference.batched.prefill import Prompt, Reader, Spoiled
from searchlora.inference.batched.prefix_cache import Ids
from searchlora.inference.engine import Scored

#: Rows of logits that are in memory at once: at a vocabulary of 50,000, 50 MB.
_LOGITS = 256

#: A pass through the model costs at least as much as so many nodes of each row.
_FEW = 8

#: Tokens of answers whose tree is kept: a megabyte.
_KEPT = 1024


def score_trees(
    reader: Reader, prompts: Sequence[Prompt], answers: Sequence[tuple[Ids, ...]], prune_margin: float | None
) -> list[Scored]:
    """Score every answer of each prompt, all in one batch; what prompts begin with in common is computed once.

    Args:
        answers: Token ids of each prompt's answers, at least one.
        prune_margin: As for `Engine.score`.
    """
    shapes = {each: _tree(each) for each in set(answers)}
    searches = [Search(shapes[each], prune_margin) for each in answers]
    chosen = [search.first() for search in searches]
    reader.share(prompts)
    batch = _Batch(reader, prompts, searches)
    while batch.rows:
        batch.forward(chosen)
        wanted = [searches[row].next() for row in batch.rows]
        batch.keep([place for place, nodes in enumerate(wanted) if len(nodes)])
        wanted = [nodes for nodes in wanted if len(nodes)]
        most = _most(list(map(len, wanted)))
        chosen = [searches[row].reading(nodes[:most]) for row, nodes in zip(batch.rows, wanted, strict=True)]
    return [
        Scored(tuple(search.scores().tolist()), len(prompt.ids), search.steps_known)
        for search, prompt in zip(searches, prompts, strict=True)
    ]


def _most(counts: Sequence[int]) -> int:
    """How many nodes of a row are computed in one pass: all rows are padded to the longest."""
    return max(_FEW, 2 * int(np.median(counts))) if counts else 0


def _tree(answers: tuple[Ids, ...]) -> Tree:
    """Most prompts have the same few answers; a large tree is made anew, since it takes memory by its square."""
    return _kept_tree(answers) if sum(map(len, answers)) <= _KEPT else tree(answers)


@lru_cache(maxsize=32)
def _kept_tree(answers: tuple[Ids, ...]) -> Tree:
    return tree(answers)


class _Batch:
    """Rows of prompt and tree, computed in one pass or several.

    What is kept of each prompt's beginning stands in the first columns; the rest of the prompts end in one column.
    """

    def __init__(self, reader: Reader, prompts: Sequence[Prompt], searches: Sequence[Search]) -> None:
        self.rows = list(range(len(prompts)))
        self._forward = reader.forward
        self._prefixes = reader.prefixes
        self._prompts = prompts
        self._searches = searches
        self._cache = reader.scratch
        self._cache.make_room(len(prompts), max(len(prompt.ids) for prompt in prompts), reader.limits.tokens)
        self._given = reader.begin(prompts, self._cache, 0)
        self._before = max(self._given)
        left = [len(prompt.ids) - given for prompt, given in zip(prompts, self._given, strict=True)]
        self._width = self._before + max(left)
        self._past = self._before  # columns computed so far
        # Where each node stands, -1 while it is not computed; last, so that it is node -1, the prompt's end.
        self._columns = [np.append(np.full(len(search.tree.tokens), -1), self._width - 1) for search in searches]

    def forward(self, chosen: Sequence[Ints]) -> None:
        """Compute these nodes of each row, the prompts before them in the first pass, and tell what follows them.

        Args:
            chosen: Of each row that is left.

        Raises:
            Spoiled: where some rows give no finite numbers.
        """
        ids, positions, seen = self._block(chosen)
        self._cache.block(slice(0, len(self.rows)), self._past, self._past + ids.shape[1])
        prompts = [self._prompts[row] for row in self.rows]
        try:
            hidden = self._forward.hidden(
                torch.from_numpy(ids),
                torch.from_numpy(positions),
                torch.from_numpy(seen),
                [prompt.slot for prompt in prompts],
                self._cache,
            )
        except NotFinite as error:
            raise Spoiled([prompts[row] for row in error.rows]) from None
        self._tell(chosen, hidden)
        if self._past == self._before:
            self._keep_prompts()
        self._past += ids.shape[1]

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the rows in these places only."""
        for target, source in enumerate(places):
            if target != source:
                self._cache.move(source, target, self._past)
        self.rows = [self.rows[place] for place in places]

    def _keep_prompts(self) -> None:
        """Keep what was read of prompts that come again; the last token is read then, for what follows it."""
        for row, (prompt, given) in enumerate(zip(self._prompts, self._given, strict=True)):
            if prompt.keep_prefix and self._prefixes.is_new(prompt.adapter, prompt.ids[:-1]):
                begin = self._width - (len(prompt.ids) - given)
                columns = self._cache.taken(row, slice(given), slice(begin, self._width - 1))
                self._prefixes.keep(prompt.adapter, prompt.ids[:-1], columns)

    def _block(self, chosen: Sequence[Ints]) -> tuple[Ints, Ints, Bools]:
        """Ids and positions (rows, columns) of what is computed now; what each of it sees (rows, columns, all)."""
        lead = self._width - self._past if self._past == self._before else 0
        columns = lead + max(map(len, chosen))
        ids = np.zeros((len(self.rows), columns), dtype=np.int64)
        positions = np.zeros((len(self.rows), columns), dtype=np.int64)
        seen = np.zeros((len(self.rows), columns, self._past + columns), dtype=bool)
        own = np.arange(columns)
        seen[:, own, self._past + own] = True  # padding sees itself: a softmax over nothing is no number
        for place, (row, nodes) in enumerate(zip(self.rows, chosen, strict=True)):
            shape, prompt, given = self._searches[row].tree, self._prompts[row].ids, self._given[row]
            left = prompt[given:]
            begin = self._width - len(left)  # the column of the first token that is not given
            if lead:
                here = slice(lead - len(left), lead)
                ids[place, here] = left
                positions[place, here] = np.arange(given, len(prompt))
                seen[place, here, :given] = True
                seen[place, here, begin : self._width] = np.tri(len(left), dtype=bool)
            here = slice(lead, lead + len(nodes))
            ids[place, here] = shape.tokens[nodes]
            positions[place, here] = len(prompt) + shape.depths[nodes]
            self._columns[row][nodes] = self._past + lead + np.arange(len(nodes))
            computed = np.flatnonzero(self._columns[row][:-1] >= 0)
            seen[place, here, :given] = True
            seen[place, here, begin : self._width] = True
            seen[place, here, :][:, self._columns[row][computed]] = shape.above[np.ix_(nodes, computed)]
        return ids, positions, seen

    def _tell(self, chosen: Sequence[Ints], hidden: torch.Tensor) -> None:
        """Tell each row's search the log-probabilities that the hidden states (rows, columns, size) give."""
        asked, places, targets = [], [], []
        for place, (row, nodes) in enumerate(zip(self.rows, chosen, strict=True)):
            search = self._searches[row]
            steps = search.asked(nodes, prompt=self._past == self._before)
            columns = self._columns[row][search.tree.sources[steps]] - self._past
            asked.append(steps)
            places.append(place * hidden.shape[1] + columns)
            targets.append(search.tree.targets[steps])
        found = self._log_probabilities(hidden.flatten(0, 1), np.concatenate(places), np.concatenate(targets))
        ends = np.cumsum([len(steps) for steps in asked])[:-1]
        for row, steps, values in zip(self.rows, asked, np.split(found, ends), strict=True):
            self._searches[row].tell(steps, values)

    def _log_probabilities(self, hidden: torch.Tensor, places: Ints, targets: Ints) -> np.ndarray:
        """Of each target token behind the hidden state (all, size) in its place; the vocabulary's logits in slices."""
        unique, inverse = np.unique(places, return_inverse=True)
        found = np.zeros(len(places))
        for start in range(0, len(unique), _LOGITS):
            wanted = np.flatnonzero((inverse >= start) & (inverse < start + _LOGITS))
            logits = self._forward.logits(hidden[torch.from_numpy(unique[start : start + _LOGITS])]).float()
            rows, ids = torch.from_numpy(inverse[wanted] - start), torch.from_numpy(targets[wanted])
            found[wanted] = (logits[rows, ids] - logits.logsumexp(-1)[rows]).double().cpu().numpy()
        return found
