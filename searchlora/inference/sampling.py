"""Sampling of the next token: temperature, top-k, top-p and min-p filters, penalties, seeds and log-probabilities.

Sources: top-k, Fan, Lewis and Dauphin, "Hierarchical Neural Story Generation" (ACL 2018); top-p, Holtzman et al., "The
Curious Case of Neural Text Degeneration" (ICLR 2020); min-p, Nguyen et al., "Turning Up the Heat" (ICLR 2025); the
penalties are those of OpenAI's API.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from searchlora.errors import RequestRefused

if TYPE_CHECKING:
    import torch

#: Below this temperature a distribution is its most likely token in single precision.
_GREEDY_BELOW = 1e-4

#: Smallest weight that is drawn, as a share of the highest probability.
_SMALLEST = 1e-30

#: Field -> its range, and the range in words.
_RANGES = {
    "temperature": (0.0, 2.0, "between 0 and 2"),
    "top_p": (math.ulp(0.0), 1.0, "above 0 and at most 1"),
    "top_k": (0, math.inf, "at least 0"),
    "min_p": (0.0, 1.0, "between 0 and 1"),
    "presence_penalty": (-2.0, 2.0, "between -2 and 2"),
    "frequency_penalty": (-2.0, 2.0, "between -2 and 2"),
    "logprobs": (0, 20, "between 0 and 20"),
}


@dataclass(frozen=True)
class Sampling:
    """How the tokens of an answer are chosen.

    The filters apply in this order: the logits are divided by the temperature; the `top_k` most likely tokens are kept;
    of them the fewest whose probabilities reach `top_p`; of them those with at least `min_p` times the probability of
    the most likely token.

    Attributes:
        temperature: 0 chooses the most likely token (greedy); the filters have no effect then.
        top_k: Number of tokens to keep; 0 keeps all.
        top_p: Probability to keep; 1 keeps all.
        min_p: Share of the highest probability that a token needs; 0 keeps all.
        presence_penalty: Subtracted from the logit of each token that the answer holds already.
        frequency_penalty: Subtracted as often as the answer holds the token.
        seed: Seed of the random numbers; None draws one. Each token of an answer uses one number, so that the same seed
            gives the same answer to the same logits, whatever else is in the batch.
        logprobs: Number of most likely tokens whose log-probabilities are reported with each token; None: none are.

    Raises:
        RequestRefused: for a value out of range; names the field.

    Examples:
        >>> Sampling(temperature=0.7, top_p=0.9, seed=1).is_greedy
        False
        >>> Sampling(top_p=0)
        Traceback (most recent call last):
        searchlora.errors.RequestRefused: top_p = 0 is out of range. It is above 0 and at most 1.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high, words) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise RequestRefused(f"{name} = {value} is out of range", fix=f"It is {words}.")

    @property
    def is_greedy(self) -> bool:
        return self.temperature < _GREEDY_BELOW

    @property
    def has_penalties(self) -> bool:
        return self.presence_penalty != 0 or self.frequency_penalty != 0


#: The default of a request.
GREEDY = Sampling()


@dataclass(frozen=True)
class LogprobsById:
    """Log-probability of one token of an answer, and ids with those of the most likely tokens, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class TokenSampler:
    """The random numbers, token counts and log-probabilities of one answer.

    Each of the answers to one request, told apart by their number `answer`, has random numbers of its own.
    """

    def __init__(self, sampling: Sampling, answer: int = 0) -> None:
        self.sampling = sampling
        self.logprobs: list[LogprobsById] = []
        self._random = random.Random(None if sampling.seed is None else f"{sampling.seed}/{answer}")
        self._counts: Counter[int] = Counter()

    def uniform(self) -> float:
        return self._random.random()

    def add(self, token: int) -> None:
        if self.sampling.has_penalties:
            self._counts[token] += 1

    def penalise(self, logits: torch.Tensor) -> None:
        """Subtract the penalties from logits (vocabulary,), in place."""
        import torch

        if self.sampling.has_penalties and self._counts:
            tokens = torch.tensor(list(self._counts))
            counts = torch.tensor(list(self._counts.values()), dtype=logits.dtype)
            logits[tokens] -= self.sampling.presence_penalty + self.sampling.frequency_penalty * counts


def sample(
    logits: torch.Tensor, samplers: Sequence[TokenSampler], rows: Sequence[int] | None = None
) -> list[int | None]:
    """Draw the next token of each row, by inverting the distribution function at a random number.

    Returns one token id per drawn row; None for a row with NaN or infinity, or whose logits are all -inf. It depends on
    that row only.
    """
    import torch

    from searchlora.cpu import backend

    rows = range(len(logits)) if rows is None else rows
    settings = [
        (1 / one.temperature, one.top_k, one.top_p, one.min_p, u)
        for one, u in ((sampler.sampling, sampler.uniform()) for sampler in samplers)
    ]
    tokens = backend.sample(logits, rows, settings)
    if tokens is not None:
        return tokens
    return _sample(logits.index_select(0, torch.tensor(rows)), settings)


def _sample(logits: torch.Tensor, settings: Sequence[tuple[float, int, float, float, float]]) -> list[int | None]:
    """`sample` with PyTorch. `settings`: inverse temperature, top-k, top-p, min-p and random number of each row."""
    import torch

    columns = torch.tensor(settings, dtype=torch.float64).T[:, :, None]
    inverse, top_k, top_p, min_p, u = columns
    logits = logits.float()
    weights = ((logits - logits.amax(-1, keepdim=True)) * inverse.float()).exp().double()  # 1 for the most likely token
    if any(k or p < 1 or least for _, k, p, least, _ in settings):
        ordered, order = weights.sort(dim=-1, descending=True, stable=True)
        ranks = torch.arange(logits.shape[1])
        ordered = ordered.masked_fill((ranks >= top_k) & (top_k > 0), 0)
        cumulated = ordered.cumsum(-1)
        is_enough = (cumulated - ordered >= top_p * cumulated[:, -1:]) & (top_p < 1)
        weights = weights.scatter(-1, order, ordered.masked_fill(is_enough | (ordered < min_p), 0))
    cumulated = weights.masked_fill(weights < _SMALLEST, 0).cumsum(-1)
    total = cumulated[:, -1:]
    last = (cumulated < total).sum(-1)  # the last token with a weight, which rounding must not exceed
    tokens = torch.searchsorted(cumulated, u * total, right=True)[:, 0].minimum(last)
    is_valid = total[:, 0] > 0  # not for NaN
    return [token if token >= 0 else None for token in tokens.masked_fill(~is_valid, -1).tolist()]


def token_logprobs(logits: torch.Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[LogprobsById]:
    """Log-probabilities of chosen tokens, and as many of the most likely ones as `counts` says for each row.

    `logits`: The model's logits, shape (rows, vocabulary).
    """
    from searchlora.cpu import backend

    most = min(max(counts, default=0), logits.shape[1])
    reported = backend.log_probabilities(logits, tokens, most)
    chosen, ids, values = _log_probabilities(logits, tokens, most) if reported is None else reported
    return [
        LogprobsById(token, logprob, tuple(zip(ids[row][:count], values[row][:count], strict=True)))
        for row, (token, logprob, count) in enumerate(zip(tokens, chosen, counts, strict=True))
    ]


def _log_probabilities(
    logits: torch.Tensor, tokens: Sequence[int], most: int
) -> tuple[list[float], list[list[int]], list[list[float]]]:
    import torch

    # Row by row: the order of a sum over several rows depends on how many there are.
    norms = torch.stack([row.float().logsumexp(-1) for row in logits]).double()
    chosen = logits.gather(1, torch.tensor(tokens)[:, None]).double() - norms[:, None]
    # A stable sort, so that of equal logits those with the lower ids come first.
    best, ids = logits.sort(dim=-1, descending=True, stable=True)
    best, ids = best[:, :most].double() - norms[:, None], ids[:, :most]
    return chosen[:, 0].tolist(), ids.tolist(), best.tolist()
