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
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import RequestRefused

if TYPE_CHECKING:
    import torch

    from searchlora.models.native.bindings import Kernels

#: Below this temperature a distribution is its most likely token in single precision.
_GREEDY_BELOW = 1e-4

#: Size of the blocks of the vocabulary that are summed first.
_BLOCK = 256

#: Smallest weight that is drawn, as a share of the highest probability.
_SMALLEST = 1e-30

Floats: TypeAlias = NDArray[np.floating[Any]]

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
        """Whether the most likely token is chosen."""
        return self.temperature < _GREEDY_BELOW

    @property
    def has_penalties(self) -> bool:
        """Whether earlier tokens of the answer change the logits."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def has_filters(self) -> bool:
        """Whether some tokens are never chosen."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


#: The default of a request.
GREEDY = Sampling()


@dataclass(frozen=True)
class LogprobsById:
    """Log-probabilities at one token of an answer, under the model itself: before temperature, filters and grammar.

    Attributes:
        token: Id of the chosen token.
        logprob: Its natural log-probability.
        top: Token id and log-probability of the most likely tokens, best first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class TokenSampler:
    """The random numbers, token counts and log-probabilities of one answer.

    Args:
        sampling: How tokens are chosen.
        answer: Number of this answer among those of one request: each has random numbers of its own.

    Attributes:
        logprobs: The log-probabilities of the tokens so far, if `sampling` asks for them.
    """

    def __init__(self, sampling: Sampling, answer: int = 0) -> None:
        self.sampling = sampling
        self.logprobs: list[LogprobsById] = []
        self._random = random.Random(None if sampling.seed is None else f"{sampling.seed}/{answer}")
        self._counts: Counter[int] = Counter()

    def uniform(self) -> float:
        """The random number of the next token, at least 0 and below 1."""
        return self._random.random()

    def add(self, token: int) -> None:
        """Count a token of the answer, for the penalties."""
        if self.sampling.has_penalties:
            self._counts[token] += 1

    def penalise(self, logits: torch.Tensor) -> None:
        """Subtract the penalties from logits (vocabulary,), in place."""
        import torch

        if self.sampling.has_penalties and self._counts:
            tokens = torch.tensor(list(self._counts), device=logits.device)
            counts = torch.tensor(list(self._counts.values()), dtype=logits.dtype, device=logits.device)
            logits[tokens] -= self.sampling.presence_penalty + self.sampling.frequency_penalty * counts


def sample(
    logits: torch.Tensor,
    samplers: Sequence[TokenSampler],
    rows: Sequence[int] | None = None,
    kernels: Kernels | None = None,
) -> list[int | None]:
    """Draw the next token of each row, by inverting the distribution function at a random number.

    Args:
        logits: Shape (rows, vocabulary), after grammar and penalties; a token at -inf is never drawn.
        samplers: One per drawn row; none of them greedy.
        rows: The rows to draw tokens for; None for all.
        kernels: The compiled kernels for these logits; None computes the same with PyTorch, up to rounding.

    Returns:
        One token id per drawn row; None for a row with NaN or infinity, or whose logits are all -inf. It depends on
        that row only.
    """
    uniforms = [sampler.uniform() for sampler in samplers]
    if kernels is not None:
        each = (sampler.sampling for sampler in samplers)
        settings = [
            (1 / one.temperature, one.top_k, one.top_p, one.min_p, u) for one, u in zip(each, uniforms, strict=True)
        ]
        return kernels.sample(logits, range(len(logits)) if rows is None else rows, settings)
    return _sample(logits if rows is None else logits[list(rows)], samplers, uniforms)


def _sample(logits: torch.Tensor, samplers: Sequence[TokenSampler], uniforms: Sequence[float]) -> list[int | None]:
    """`sample` with PyTorch; what follows the sums of blocks is done by NumPy, row by row."""
    import torch

    block = math.gcd(logits.shape[1], _BLOCK)
    blocks = logits.float().view(len(logits), -1, block)
    block_max = blocks.amax(-1)
    highest = block_max.amax(-1)[:, None, None]
    inverse = torch.tensor([[[1 / each.sampling.temperature]] for each in samplers], device=logits.device)
    weights = (blocks - highest).mul_(inverse).exp_()
    sums = weights.sum(-1).cpu().numpy().astype(np.float64)
    largest = weights.amax(-1).cpu().numpy()
    on_cpu = weights.cpu().numpy()
    tokens: list[int | None] = []
    for row, (sampler, u) in enumerate(zip(samplers, uniforms, strict=True)):
        total = float(sums[row].sum())
        if not total > 0:  # NaN, or no token is allowed
            tokens.append(None)
        elif sampler.sampling.has_filters:
            tokens.append(_filtered(on_cpu[row], largest[row], total, sampler.sampling, u))
        else:
            place, inside = _invert(sums[row], u)
            tokens.append(place * block + _invert(on_cpu[row, place], inside)[0])
    return tokens


def _filtered(weights: Floats, block_max: Floats, total: float, sampling: Sampling, u: float) -> int:
    """A token drawn from the filtered distribution of one row.

    Only tokens above a threshold are sorted. With top-k it is the k-th largest of the block maxima: k blocks hold a
    token that reaches it. Else, with top-p, the tokens below (1 - top_p) / vocabulary have less than 1 - top_p
    together, so the others reach top_p without them.

    Args:
        weights: Probabilities divided by the highest, shape (blocks, block).
        block_max: Maxima of the blocks.
        total: Sum of the weights.
    """
    top_k, top_p, min_p = sampling.top_k, sampling.top_p, sampling.min_p
    threshold = _SMALLEST if top_k and top_p < 1 else max(min_p, _SMALLEST)
    if 0 < top_k <= len(block_max):
        threshold = max(threshold, np.partition(block_max, -top_k)[-top_k])
    elif not top_k and top_p < 1:
        threshold = max(threshold, total * (1 - top_p) / weights.size)
    ids = np.flatnonzero(weights >= threshold * (1 - 1e-6))
    found = weights.ravel()[ids]
    by_weight = np.argsort(-found, kind="stable")
    if top_k:
        by_weight = by_weight[:top_k]
    kept = found[by_weight].astype(np.float64)
    if top_p < 1:
        # Without top-k the share is of the whole vocabulary, of which only the tokens above the threshold are here.
        whole = kept.sum() if top_k else total
        kept = kept[: int(np.searchsorted(np.cumsum(kept), top_p * whole)) + 1]
    order = np.sort(by_weight[: int((kept >= min_p).sum())])
    return int(ids[order[_invert(found[order], u)[0]]])


def _invert(weights: Floats, u: float) -> tuple[int, float]:
    """The index at which the cumulated share of weights exceeds u, and the place of u inside that index, from 0 to 1.

    Examples:
        >>> _invert(np.array([1.0, 0.0, 3.0]), 0.5)
        (2, 0.3333333333333333)
    """
    cumulated = np.cumsum(weights, dtype=np.float64)
    target = u * cumulated[-1]
    index = int(np.searchsorted(cumulated, target, side="right"))
    if index >= len(weights) or not weights[index] > 0:  # rounding at the end of the sum
        index = int(np.flatnonzero(weights > 0)[-1])
    inside = (target - (cumulated[index] - weights[index])) / weights[index]
    return index, float(min(max(inside, 0.0), math.nextafter(1.0, 0.0)))


def token_logprobs(
    logits: torch.Tensor, tokens: Sequence[int], counts: Sequence[int], kernels: Kernels | None = None
) -> list[LogprobsById]:
    """Log-probabilities of chosen tokens and of the most likely ones.

    The k most likely tokens are in the k blocks of the vocabulary with the highest maxima.

    Args:
        logits: The model's logits, shape (rows, vocabulary).
        tokens: The chosen token of each row.
        counts: Number of most likely tokens to report of each row.
        kernels: As in `sample`.
    """
    most = min(max(counts, default=0), logits.shape[1])
    if kernels is not None:
        chosen, ids, values = kernels.log_probabilities(logits, tokens, most)
    else:
        chosen, ids, values = _log_probabilities(logits, tokens, most)
    return [
        LogprobsById(token, logprob, tuple(zip(ids[row][:count], values[row][:count], strict=True)))
        for row, (token, logprob, count) in enumerate(zip(tokens, chosen, counts, strict=True))
    ]


def _log_probabilities(
    logits: torch.Tensor, tokens: Sequence[int], most: int
) -> tuple[list[float], list[list[int]], list[list[float]]]:
    """As `Kernels.log_probabilities`, with PyTorch."""
    import torch

    # Row by row: the order of a sum over several rows depends on how many there are.
    norms = torch.stack([row.float().logsumexp(-1) for row in logits]).double()
    chosen = logits.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].double() - norms
    block = math.gcd(logits.shape[1], _BLOCK)
    blocks = logits.view(len(logits), -1, block)
    # Stable sorts, so that of equal logits those with the lower ids come first.
    by_max = blocks.amax(-1).sort(dim=-1, descending=True, stable=True).indices
    places = by_max[:, :most].sort(-1).values
    likely = blocks.gather(1, places[:, :, None].expand(-1, -1, block)).flatten(1)
    best, inside = likely.sort(dim=-1, descending=True, stable=True)
    inside = inside[:, :most]
    ids = places.gather(1, inside // block) * block + inside % block
    return chosen.tolist(), ids.tolist(), (best[:, :most].double() - norms[:, None]).tolist()
