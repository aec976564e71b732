"""PEFT as an engine: one adapter at a time by `set_adapter`, rows of a call in padded batches.

It is what a careful user writes: prompts are rendered once and sorted by length, rows are padded on the left, only the
logits of the last position are computed, and labels and grades are read from one forward pass, by their first tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from searchlora.adapters.attach import attach
from searchlora.adapters.stored import StoredAdapter
from searchlora.inference.engine import ChoiceScores, Completion, Request
from searchlora.models.libraries import quiet
from searchlora.models.load import Precision, load_model, load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.prompts import Renderer


class PeftEngine:
    """Generation and scoring by transformers and PEFT; see `inference.engine.Engine`.

    Args:
        base: The base model.
        adapters: Reference -> adapter, all attached at once.
        batch_rows: Rows of one batch.
        precision: See `load_model`.
    """

    engine_id = "PEFT"

    def __init__(
        self,
        base: BaseModel,
        adapters: Mapping[str, StoredAdapter],
        batch_rows: int = 32,
        *,
        precision: Precision = "bf16",
    ) -> None:
        model = load_model(base, precision=precision)
        self._names = {reference: f"a{number}" for number, reference in enumerate(adapters)}
        for reference, adapter in adapters.items():
            model = attach(model, adapter, self._names[reference])
        self._model: Any = model
        self.renderer = Renderer(load_tokenizer(base))
        self._pad = int(self.renderer.tokenizer.pad_token_id)
        self.call_size = batch_rows

    def pin(self, adapter: str) -> str:
        """See `Engine.pin`: references are exact here."""
        return adapter

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Greedy answers without a grammar; all requests name one adapter and one number of tokens."""
        limit = self._switch(requests).max_new_tokens
        prompts = self._prompts(requests)
        found: dict[int, Completion] = {}
        for rows in self._batches(prompts):
            ids, mask = self._padded([prompts[row] for row in rows])
            with torch.inference_mode(), quiet():
                made = self._model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=limit,
                    do_sample=False,
                    eos_token_id=self.renderer.stop_id,
                    pad_token_id=self._pad,
                )
            for row, tokens in zip(rows, made[:, ids.shape[1] :].tolist(), strict=True):
                found[row] = self._completion(tokens, len(prompts[row]))
        return [found[row] for row in range(len(requests))]

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[ChoiceScores]:
        """Log-probability of the first token of each choice, from one forward pass for each batch of prompts.

        Raises:
            ValueError: if two choices of a request begin with the same token, so that more passes would be needed.
        """
        del prune_margin
        self._switch(requests)
        prompts = self._prompts(requests)
        first = [[self.renderer.completion_ids(choice)[0] for choice in of_request] for of_request in choices]
        if any(len(set(tokens)) < len(tokens) for tokens in first):
            raise ValueError("two choices begin with the same token")
        found: dict[int, ChoiceScores] = {}
        for rows in self._batches(prompts):
            ids, mask = self._padded([prompts[row] for row in rows])
            scores = self._log_probabilities(ids, mask)
            for row, of_row in zip(rows, scores, strict=True):
                values = of_row[first[row]].tolist()
                found[row] = ChoiceScores(tuple(values), len(prompts[row]), len(values))
        return [found[row] for row in range(len(requests))]

    def _switch(self, requests: Sequence[Request]) -> Request:
        """Make the adapter of the requests the active one; the first request."""
        (adapter,) = {request.adapter for request in requests}
        self._model.set_adapter(self._names[str(adapter)], inference_mode=True)
        return requests[0]

    def _prompts(self, requests: Sequence[Request]) -> list[list[int]]:
        return [self.renderer.prompt_ids(request.messages) for request in requests]

    def _batches(self, prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Rows by length, so that little is padded."""
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        for start in range(0, len(order), self.call_size):
            yield order[start : start + self.call_size]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, padded on the left, shape (rows, longest)."""
        width = max(map(len, rows))
        ids = torch.tensor([[self._pad] * (width - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return ids, mask

    def _log_probabilities(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Of the last position, shape (rows, vocabulary)."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = self._model(
                input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, use_cache=False
            ).logits
        return logits[:, 0].float().log_softmax(-1)

    def _completion(self, tokens: list[int], prompt: int) -> Completion:
        stop = self.renderer.stop_id
        if stop in tokens:
            end = tokens.index(stop)
            return Completion(self.renderer.decode(tokens[:end]), "stop", prompt, end + 1)
        return Completion(self.renderer.decode(tokens), "length", prompt, len(tokens))
