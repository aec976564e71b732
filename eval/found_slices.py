"""Where one system is worse than another: slices found on one half of the rows, and confirmed on the other.

A regression tree of few leaves (Breiman, Friedman, Olshen and Stone, 1984) over features of the rows is fitted to the
paired differences of one half. Each leaf is a slice, such as `words of query > 6 and kind = shopping`. The differences
of the other half, which the tree has not seen, are tested in each slice by paired randomisation, with p corrected by
Holm over the slices of all pairs of systems: honest estimation, as by Athey and Imbens (PNAS 113(27), 2016). Clusters
are not divided.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from searchlora.eval.figures import PairedComparison
from searchlora.eval.intervals import Floats
from searchlora.eval.significance import LEVEL, correct, paired_differences

if TYPE_CHECKING:
    from searchlora.eval.comparison import Comparison

#: Clusters below which nothing is searched: halves of fewer confirm hardly anything.
MINIMUM_CLUSTERS = 100

#: Conditions of a slice, and the share of a half that it must hold.
_DEPTH, _SHARE = 3, 0.05

#: Variance of the mean of a half that a split must explain, in multiples: the best of some tens of splits by chance
#: explains about so much.
_WORTH = 5

#: Values of a field that are compared one by one; a text with more is described by its words.
_MAX_VALUES = 20

#: Fields that name a row and do not describe it.
_NAMES = frozenset({"id", "split", "group", "topic", "document"})

_EXAMPLES = 3

_QUESTION = re.compile(
    r"(?i)(who|what|when|where|which|why|how|is|are|was|were|do|does|did|can|could|should)\b|.*\?\s*$"
)


@dataclass(frozen=True)
class FoundSlice:
    """The rows of a slice on which system a is compared with system b.

    Attributes:
        conditions: What the rows have in common, for example `words of query > 6`.
        found: Difference on the half of the rows on which the slice was found; it is too far from 0.
        pair: The comparison on the other half; its `p_corrected` is over all slices and pairs of systems.
        examples: Ids of rows of the slice with the largest losses of a, in the other half.
        loss: Whether a is worse here: by the paired test on the other half, at p ≤ 0.05 after correction.
    """

    conditions: str
    found: float
    pair: PairedComparison
    examples: tuple[str, ...]
    loss: bool = False


def found_slices(
    comparison: Comparison,
    rows: Sequence[Mapping[str, Any]],
    clusters: Mapping[str, str],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[FoundSlice, ...]:
    """The slices of all main pairs, in the measure `row_measure`, the largest loss first.

    Args:
        rows: The compared rows, each with an `id`; their fields are what slices are made of.
        clusters: Row id -> its cluster.

    Returns:
        Empty with fewer than `MINIMUM_CLUSTERS` clusters, without a measure per row, or where no slice differs.
    """
    if comparison.row_measure is None or not comparison.main_pairs:
        return ()
    known = set(comparison.values[comparison.row_measure][comparison.systems[0]])
    rows = sorted((row for row in rows if str(row["id"]) in known), key=lambda row: str(row["id"]))
    names = [str(row["id"]) for row in rows]
    groups = [clusters.get(name, name) for name in names]
    if len(set(groups)) < MINIMUM_CLUSTERS:
        return ()
    features = _features(rows)
    half = np.array([_side(group, seed) for group in groups])
    found = [
        part
        for a, b in comparison.main_pairs
        for part in _of_pair(comparison, (a, b), names, groups, features, half, resamples, seed)
    ]
    corrected = correct([part.pair.p for part in found], "holm") if found else []
    tested = [
        replace(part, pair=replace(part.pair, p_corrected=p), loss=part.loss and p <= LEVEL)
        for part, p in zip(found, corrected, strict=True)
    ]
    gain = {id(part): comparison.gain(part.pair.measure, part.pair.difference) for part in tested}
    return tuple(sorted(tested, key=lambda part: (not part.loss, gain[id(part)])))


def _of_pair(
    comparison: Comparison,
    systems: tuple[str, str],
    names: Sequence[str],
    groups: Sequence[str],
    features: Mapping[str, Floats],
    half: np.ndarray,
    resamples: int,
    seed: int,
) -> Iterator[FoundSlice]:
    """The leaves of the tree of one pair, tested on the other half; `loss` says whether a is worse there."""
    gains = comparison.gains(*systems)
    values = np.array([gains[name] for name in names])
    matrix = np.stack(list(features.values()), axis=1) if features else np.zeros((len(names), 0))
    if not features or np.ptp(values[half]) == 0:
        return
    measure = str(comparison.row_measure)
    for conditions, member in _leaves(matrix, list(features), values, half, seed):
        own = np.flatnonzero(member & ~half).tolist()
        if len({groups[place] for place in own}) < 2:
            continue
        (tested,) = paired_differences(
            values[own][:, None], [groups[place] for place in own], resamples=resamples, seed=seed
        )
        sign = comparison.gain(measure, 1.0)
        low, high = sorted((sign * tested.low, sign * tested.high))
        worst = sorted(own, key=lambda place: values[place])[:_EXAMPLES]
        yield FoundSlice(
            conditions,
            sign * float(values[member & half].mean()),
            PairedComparison(
                *systems,
                measure,
                sign * tested.difference,
                low,
                high,
                tested.p,
                tested.p,
                tested.wins,
                tested.losses,
                tested.ties,
                len(own),
            ),
            tuple(names[place] for place in worst if values[place] < 0),
            tested.difference < 0,
        )


def _leaves(
    matrix: Floats, names: Sequence[str], values: Floats, half: np.ndarray, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Conditions and members (a mask over all rows) of each leaf of a tree fitted to one half."""
    from sklearn.tree import DecisionTreeRegressor

    tree = DecisionTreeRegressor(
        max_depth=_DEPTH,
        min_samples_leaf=max(10, math.ceil(_SHARE * half.sum())),
        min_impurity_decrease=_WORTH * float(values[half].var()) / half.sum(),
        random_state=seed,
    )
    tree.fit(matrix[half], values[half])
    nodes, leaf_of = tree.tree_, tree.apply(matrix)
    if nodes.node_count == 1:
        return
    pending: list[tuple[int, dict[str, tuple[float, float]]]] = [(0, {})]
    while pending:
        node, ranges = pending.pop()
        if nodes.children_left[node] < 0:
            conditions = " and ".join(_condition(name, *ends) for name, ends in ranges.items())
            yield conditions, leaf_of == node
            continue
        name, threshold = names[nodes.feature[node]], float(nodes.threshold[node])
        low, high = ranges.get(name, (-math.inf, math.inf))
        pending.append((nodes.children_left[node], {**ranges, name: (low, min(high, threshold))}))
        pending.append((nodes.children_right[node], {**ranges, name: (max(low, threshold), high)}))


def _condition(name: str, low: float, high: float) -> str:
    """A condition in words. A feature that is true or false has its sentence as name, with the opposite after `|`."""
    true, _, false = name.partition("|")
    if false:
        return true if low > 0 else false
    if math.isinf(low):
        return f"{name} ≤ {high:.4g}"
    return f"{name} > {low:.4g}" if math.isinf(high) else f"{low:.4g} < {name} ≤ {high:.4g}"


def _features(rows: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    """Name -> value of each row, `(rows,)`: of each field that most rows have."""
    features: dict[str, Floats] = {}
    for field in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(field) for row in rows]
        if field in _NAMES or any(not isinstance(value, str | int | float | None) for value in values):
            continue
        if all(isinstance(value, int | float) for value in values):
            features[field] = np.array(values, dtype=float)
            continue
        texts = ["" if value is None else str(value) for value in values]
        kinds = sorted(set(texts))
        if len(kinds) <= min(_MAX_VALUES, len(rows) // 10):
            features |= {f"{field} = {kind}|{field} ≠ {kind}": _mask(text == kind for text in texts) for kind in kinds}
            continue
        features[f"words of {field}"] = np.array([len(text.split()) for text in texts], dtype=float)
        features[f"{field} has a digit|{field} has no digit"] = _mask(any(map(str.isdigit, text)) for text in texts)
        features[f"{field} is a question|{field} is no question"] = _mask(bool(_QUESTION.match(text)) for text in texts)
        features[f"{field} has a capital letter|{field} has no capital letter"] = _mask(
            any(map(str.isupper, text)) for text in texts
        )
    return {name: values for name, values in features.items() if np.isfinite(values).all() and np.ptp(values) > 0}


def _mask(values: Iterator[bool]) -> Floats:
    return np.array(list(values), dtype=float)


def _side(group: str, seed: int) -> bool:
    """The half of a cluster."""
    return hashlib.sha256(f"{seed} {group}".encode()).digest()[0] % 2 == 0
