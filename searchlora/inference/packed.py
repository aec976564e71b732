"""Trees of answers scored with a transformers model: each tree lies behind its prompt, a mask keeps branches apart.

Tree attention as in SpecInfer (arXiv:2305.09781): a token sees its prompt, its ancestors and itself, and stands at
the position that it has in its own answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from searchlora.inference.engine import Scored
from searchlora.inference.tree import Bools, Ints, Search, Tree

if TYPE_CHECKING:
    import torch

#: Rows of logits that are in memory at once: at a vocabulary of 50,000, 50 MB.
_LOGITS = 256


def packs(model: Any) -> bool:
    """Whether a model computes with a mask of our own what it computes without.

    It must attend to everything before a token in every layer, take a mask of four dimensions and positions, and give
    as logits just what its output layer makes of the last hidden states (some scale or cap them afterwards).
    """
    import torch

    causal = _causal(model)
    config = causal.config.get_text_config()
    if causal._is_stateful or not causal._supports_attention_backend:
        return False
    if config._attn_implementation not in ("eager", "sdpa"):
        return False
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layers != {"full_attention"} or getattr(config, "sliding_window", None):
        return False
    some = torch.arange(4, device=causal.device)[None]
    backbone, head = _parts(causal)
    return torch.equal(causal(some, use_cache=False).logits, head(backbone(some, use_cache=False).last_hidden_state))


def score_trees(
    model: Any, prompts: Sequence[Sequence[int]], trees: Sequence[Tree], pad_id: int, within: float | None
) -> list[Scored]:
    """Score every answer of each tree behind its prompt, all in one batch.

    Args:
        model: One of which `packs` is true, with or without PEFT around it.
        within: As for `Engine.score`.
    """
    from transformers import DynamicCache

    searches = [Search(tree, within) for tree in trees]
    chosen = [search.first() for search in searches]
    causal = _causal(model)
    batch = _Batch(causal, prompts, searches, pad_id)
    unfinished = any(len(nodes) < len(tree.tokens) for nodes, tree in zip(chosen, trees, strict=True))
    cache = DynamicCache(config=causal.config) if unfinished else None
    while batch.rows:
        batch.forward(chosen, cache)
        chosen = [searches[row].next() for row in batch.rows]
        batch.keep([place for place, nodes in enumerate(chosen) if len(nodes)], cache)
        chosen = [nodes for nodes in chosen if len(nodes)]
    return [
        Scored(tuple(search.scores().tolist()), len(prompt), search.steps_known)
        for search, prompt in zip(searches, prompts, strict=True)
    ]


class _Batch:
    """Rows of prompt and tree, computed in one pass or several.

    Args:
        causal: The model without PEFT's shell.
    """

    def __init__(self, causal: Any, prompts: Sequence[Sequence[int]], searches: Sequence[Search], pad_id: int) -> None:
        self.rows = list(range(len(prompts)))
        self._device = causal.device
        self._dtype = causal.dtype
        self._backbone, self._head = _parts(causal)
        self._prompts = prompts
        self._searches = searches
        self._pad_id = pad_id
        self._width = max(map(len, prompts))  # the prompts end in the same column
        self._past = 0  # columns computed so far
        # Where each node stands, -1 while it is not computed; last, so that it is node -1, the prompt's end.
        self._columns = [np.append(np.full(len(search.tree.tokens), -1), self._width - 1) for search in searches]

    def forward(self, chosen: Sequence[Ints], cache: Any) -> None:
        """Compute these nodes of each row, the prompts before them in the first pass, and tell what follows them.

        Args:
            chosen: Of each row that is left.
            cache: The keys and values of what was computed before; None where this is the only pass.
        """
        import torch

        ids, positions, seen = self._block(chosen)
        mask = torch.zeros(seen.shape, dtype=self._dtype)
        mask.masked_fill_(torch.from_numpy(~seen), torch.finfo(self._dtype).min)
        hidden = self._backbone(
            input_ids=torch.from_numpy(ids).to(self._device),
            attention_mask=mask[:, None].to(self._device),
            position_ids=torch.from_numpy(positions).to(self._device),
            cache=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        self._tell(chosen, hidden)
        self._past += ids.shape[1]

    def keep(self, places: Sequence[int], cache: Any) -> None:
        """Go on with the rows in these places only."""
        import torch

        if places and len(places) < len(self.rows):
            cache.batch_select_indices(torch.tensor(places, device=self._device))
        self.rows = [self.rows[place] for place in places]

    def _block(self, chosen: Sequence[Ints]) -> tuple[Ints, Ints, Bools]:
        """Ids and positions (rows, columns) of what is computed now; what each of it sees (rows, columns, all)."""
        lead = 0 if self._past else self._width
        columns = lead + max(map(len, chosen))
        ids = np.full((len(self.rows), columns), self._pad_id)
        positions = np.zeros((len(self.rows), columns), dtype=np.int64)
        seen = np.zeros((len(self.rows), columns, self._past + columns), dtype=bool)
        own = np.arange(columns)
        seen[:, own, self._past + own] = True  # padding sees itself: a softmax over nothing is no number
        for place, (row, nodes) in enumerate(zip(self.rows, chosen, strict=True)):
            tree, prompt = self._searches[row].tree, self._prompts[row]
            start = self._width - len(prompt)
            if lead:
                ids[place, start:lead] = prompt
                positions[place, start:lead] = np.arange(len(prompt))
                seen[place, start:lead, start:lead] = np.tri(len(prompt), dtype=bool)
            here = slice(lead, lead + len(nodes))
            ids[place, here] = tree.tokens[nodes]
            positions[place, here] = len(prompt) + tree.depths[nodes]
            seen[place, here, start : self._width] = True
            self._columns[row][nodes] = self._past + np.arange(columns)[here]
            computed = np.flatnonzero(self._columns[row][:-1] >= 0)
            seen[place, here, :][:, self._columns[row][computed]] = tree.above[np.ix_(nodes, computed)]
        return ids, positions, seen

    def _tell(self, chosen: Sequence[Ints], hidden: torch.Tensor) -> None:
        """Tell each row's search the log-probabilities that the hidden states (rows, columns, size) give."""
        asked, places, targets = [], [], []
        for place, (row, nodes) in enumerate(zip(self.rows, chosen, strict=True)):
            search = self._searches[row]
            steps = search.asked(nodes, prompt=not self._past)
            columns = self._columns[row][search.tree.sources[steps]] - self._past
            asked.append(steps)
            places.append(place * hidden.shape[1] + columns)
            targets.append(search.tree.targets[steps])
        found = _log_probabilities(self._head, hidden.flatten(0, 1), np.concatenate(places), np.concatenate(targets))
        for row, steps, values in zip(
            self.rows, asked, np.split(found, np.cumsum([len(steps) for steps in asked])[:-1]), strict=True
        ):
            self._searches[row].tell(steps, values)


def _log_probabilities(head: Any, hidden: torch.Tensor, places: Ints, targets: Ints) -> Any:
    """Of each target token behind the hidden state (all, size) in its place; the vocabulary's logits in slices."""
    import torch

    unique, inverse = np.unique(places, return_inverse=True)
    found = np.zeros(len(places))
    for start in range(0, len(unique), _LOGITS):
        wanted = np.flatnonzero((inverse >= start) & (inverse < start + _LOGITS))
        logits = head(hidden[torch.from_numpy(unique[start : start + _LOGITS])]).float()
        rows, ids = torch.from_numpy(inverse[wanted] - start), torch.from_numpy(targets[wanted])
        found[wanted] = (logits[rows, ids] - logits.logsumexp(-1)[rows]).double().cpu().numpy()
    return found


def _causal(model: Any) -> Any:
    """The model itself, its LoRA layers in it, without PEFT's shell around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _parts(causal: Any) -> tuple[Any, Any]:
    """What makes hidden states, and the output layer that makes logits of them."""
    return getattr(causal, causal.base_model_prefix), causal.get_output_embeddings()
