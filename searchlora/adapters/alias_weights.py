"""Weights of an alias: the share of requests that each of several versions answers."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping

from searchlora.adapters.references import is_version
from searchlora.errors import UsageError

#: Version -> share of the requests; the shares sum to 1.
Weights = Mapping[int, float]


def parse_weights(text: str) -> dict[int, float]:
    """Weights as on the command line.

    Raises:
        UsageError: for anything else than versions with shares that sum to 1.

    Examples:
        >>> parse_weights("3=.9,4=.1")
        {3: 0.9, 4: 0.1}
    """
    weights: dict[int, float] = {}
    for part in text.split(","):
        version, equals, share = part.strip().partition("=")
        try:
            value = float(share)
        except ValueError:
            value = math.nan
        if not (equals and is_version(version) and 0 < value <= 1) or int(version) in weights:
            raise UsageError(f"'{part}' is not a version with its share", where="--weights", fix="Write 3=.9,4=.1.")
        weights[int(version)] = value
    if not math.isclose(sum(weights.values()), 1, abs_tol=1e-6):
        raise UsageError(f"the shares sum to {sum(weights.values()):g}", where="--weights", fix="They sum to 1.")
    return weights


def choose_version(weights: Weights, main: int, key: str | None = None) -> int:
    """The version that answers a request.

    The same key gives the same version, and a key that has left the main version stays with the other one while that
    one's share grows.

    Args:
        main: The version that the alias points to; it gets what the others leave.
        key: What identifies a user or a session, with the name of the alias; None: at random.

    Examples:
        >>> {choose_version({3: 0.9, 4: 0.1}, 3, "user 1") for _ in range(5)}
        {3}
        >>> [choose_version({3: 1 - share, 4: share}, 3, "user 10") for share in (0.25, 0.5, 0.9)]
        [3, 4, 4]
    """
    if key is None:
        place = random.random()
    else:
        place = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64
    for version in sorted(version for version in weights if version != main):
        if place < weights[version]:
            return version
        place -= weights[version]
    return main
