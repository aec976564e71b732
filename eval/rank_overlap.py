"""How much two rankings of one query agree: rank-biased overlap, and changes among the first hits."""

from __future__ import annotations

from collections.abc import Sequence

#: Persistence of rank-biased overlap: the first ten ranks have 86% of the weight.
PERSISTENCE = 0.9

#: Hits among which a change counts.
TOP = 10


def rank_biased_overlap(one: Sequence[str], other: Sequence[str], p: float = PERSISTENCE) -> float:
    """Extrapolated rank-biased overlap of two rankings, from 0 (nothing in common) to 1 (the same).

    Equation 32 of Webber, Moffat and Zobel, A Similarity Measure for Indefinite Rankings (TOIS 28(4), 2010): the
    rankings may have different lengths, and what follows their ends is taken to agree as much as what was seen.

    Args:
        one, other: Ids without repetition, best first.
        p: Persistence, between 0 and 1; each rank has p times the weight of the rank before.

    Returns:
        1 for two empty rankings, 0 if only one is empty.

    Raises:
        ValueError: for a persistence that is not between 0 and 1.

    Examples:
        >>> rank_biased_overlap(["a", "b", "c"], ["a", "b", "c"])
        1.0
        >>> round(rank_biased_overlap(["a", "b", "c"], ["b", "a", "c"]), 3)
        0.9
        >>> rank_biased_overlap(["a"], ["b"])
        0.0
    """
    if not 0 < p < 1:
        raise ValueError(f"the persistence is {p}, and not between 0 and 1")
    short, long = sorted((one, other), key=len)
    if not short:
        return float(not long)
    s, n = len(short), len(long)
    seen_short, seen_long = set[str](), set[str]()
    overlap, total, at_s = 0, 0.0, 0
    for depth in range(1, n + 1):
        document = long[depth - 1]
        if depth <= s:
            twin = short[depth - 1]
            overlap += (document == twin) + (document != twin) * ((document in seen_short) + (twin in seen_long))
            seen_short.add(twin)
            at_s = overlap
        else:
            overlap += document in seen_short
            total += at_s * (depth - s) / (s * depth) * p**depth
        seen_long.add(document)
        total += overlap / depth * p**depth
    value = (1 - p) / p * total + ((overlap - at_s) / n + at_s / s) * p**n
    return min(1.0, max(0.0, value))


def replaced(before: Sequence[str], after: Sequence[str], k: int = TOP) -> int:
    """How many of the first k hits of one ranking are not among the first k of another.

    Examples:
        >>> replaced(["a", "b", "c"], ["b", "x", "a"], k=2)
        1
    """
    return len(set(before[:k]) - set(after[:k]))
