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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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

#: Characters of a value in a condition.
_SHOWN = 40

#: Greatest number that a tree of scikit-learn holds exactly enough (32-bit floats).
_GREATEST = 1e30

_QUESTION = re.compile(
    r"(?i)(who|what|when|where|which|why|how|is|are|was|were|do|does|did|can|could|should)\b|.*\?\s*$"
)


#: What is said of a text, its opposite, and whether it holds; questions are those of English.
_OF_TEXTS: Mapping[tuple[str, str], Callable[[str], bool]] = {
    ("has a digit", "has no digit"): lambda text: any(map(str.isdigit, text)),
    ("has a capital letter", "has no capital letter"): lambda text: any(map(str.isupper, text)),
    ("is a question", "is no question"): lambda text: bool(_QUESTION.match(text)),
}


@dataclass(frozen=True)
class FoundSlice:
    """Rows on which system a seems to be worse than system b.

    Attributes:
        conditions: What the rows have in common, for example `words of query > 6`.
        difference_where_found: Difference on the half of the rows on which the slice was found; it is too far from 0.
        pair: The comparison on the other half; its `p_corrected` is over all slices and pairs of systems.
        examples: Ids of rows of the slice with the largest losses of a, in the other half.
        confirmed: Whether a is worse on the other half, too: by the paired test, at p ≤ 0.05 after correction.
    """

    conditions: str
    difference_where_found: float
    pair: PairedComparison
    examples: tuple[str, ...]
    confirmed: bool = False


def found_slices(
    comparison: Comparison,
    rows: Sequence[Mapping[str, Any]],
    clusters: Mapping[str, str],
    *,
    without: Collection[str] = (),
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[FoundSlice, ...]:
    """The slices in which a system loses, of all main pairs in the measure `row_measure`; confirmed ones first.

    Args:
        rows: The compared rows, each with an `id`; their fields are what slices are made of.
        clusters: Row id -> its cluster.
        without: Systems against which nothing is searched, such as one made from the expected outputs.

    Returns:
        Empty with fewer than `MINIMUM_CLUSTERS` clusters, without a measure per row, or where no slice is unlike the
        others.
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
        if not {a, b} & {*without}
        for part in _of_pair(comparison, (a, b), names, groups, features, half, resamples, seed)
    ]
    corrected = correct([part.pair.p for part in found], "holm") if found else []
    tested = [
        replace(
            part,
            pair=replace(part.pair, p_corrected=p),
            confirmed=p <= LEVEL and comparison.gain(part.pair.measure, part.pair.difference) < 0,
        )
        for part, p in zip(found, corrected, strict=True)
    ]
    return tuple(sorted(tested, key=lambda part: (not part.confirmed, _gain(comparison, part.pair))))


def _gain(comparison: Comparison, pair: PairedComparison) -> float:
    return comparison.gain(pair.measure, pair.difference)


def _of_pair(
    comparison: Comparison,
    systems: tuple[str, str],
    names: Sequence[str],
    groups: Sequence[str],
    features: Sequence[_Feature],
    half: np.ndarray,
    resamples: int,
    seed: int,
) -> Iterator[FoundSlice]:
    """The leaves of the tree of one pair in which a loses, tested on the other half."""
    gains = comparison.gains(*systems)
    values = np.array([gains[name] for name in names])
    if not features or np.ptp(values[half]) == 0:
        return
    measure, sign = str(comparison.row_measure), comparison.gain(str(comparison.row_measure), 1.0)
    for conditions, member in _leaves(features, values, half, seed):
        found, own = float(values[member & half].mean()), np.flatnonzero(member & ~half).tolist()
        if found >= 0 or len({groups[place] for place in own}) < 2:
            continue
        (tested,) = paired_differences(
            values[own][:, None], [groups[place] for place in own], resamples=resamples, seed=seed
        )
        low, high = sorted((sign * tested.low, sign * tested.high))
        worst = sorted(own, key=lambda place: values[place])[:_EXAMPLES]
        yield FoundSlice(
            conditions,
            sign * found,
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
        )


@dataclass(frozen=True)
class _Feature:
    """A feature of the rows, `(rows,)`.

    Attributes:
        name: Of a number; or the condition that holds where the value is 1.
        opposite: The condition that holds where the value is 0; empty for a number.
    """

    name: str
    opposite: str
    values: Floats

    def condition(self, low: float, high: float) -> str:
        """The condition that the value is above `low` and at most `high`."""
        if self.opposite:
            return self.name if low > 0 else self.opposite
        if math.isinf(low):
            return f"{self.name} ≤ {high:.6g}"
        return f"{self.name} > {low:.6g}" if math.isinf(high) else f"{low:.6g} < {self.name} ≤ {high:.6g}"


def _leaves(
    features: Sequence[_Feature], values: Floats, half: np.ndarray, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Conditions and members (a mask over all rows) of each leaf of a tree fitted to one half."""
    from sklearn.tree import DecisionTreeRegressor

    matrix = np.stack([feature.values for feature in features], axis=1)
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
    pending: list[tuple[int, dict[int, tuple[float, float]]]] = [(0, {})]
    while pending:
        node, ranges = pending.pop()
        if nodes.children_left[node] < 0:
            yield " and ".join(features[of].condition(*ends) for of, ends in ranges.items()), leaf_of == node
            continue
        of, threshold = int(nodes.feature[node]), float(nodes.threshold[node])
        low, high = ranges.get(of, (-math.inf, math.inf))
        pending.append((nodes.children_left[node], {**ranges, of: (low, min(high, threshold))}))
        pending.append((nodes.children_right[node], {**ranges, of: (max(low, threshold), high)}))


def _features(rows: Sequence[Mapping[str, Any]]) -> list[_Feature]:
    """The features of each field that at least half of the rows have, those that do not vary left out."""
    features: list[_Feature] = []
    for field in dict.fromkeys(key for row in rows for key in row if key not in _NAMES):
        values = [row.get(field) for row in rows]
        present = [value for value in values if value not in (None, "")]
        if 2 * len(present) < len(rows) or any(not isinstance(value, str | int | float) for value in present):
            continue
        missing = [value in (None, "") for value in values]
        if any(missing):
            features.append(_mask(f"no {field}", f"some {field}", missing))
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
            features += _number(field, values)
            continue
        texts = ["" if absent else str(value) for value, absent in zip(values, missing, strict=True)]
        kinds = sorted(set(texts) - {""})
        if len(kinds) <= min(_MAX_VALUES, len(rows) // 10):
            shown = {kind: kind if len(kind) <= _SHOWN else f"{kind[:_SHOWN]}…" for kind in kinds}
            features += [
                _mask(f"{field} = {shown[k]}", f"{field} ≠ {shown[k]}", [text == k for text in texts]) for k in kinds
            ]
            continue
        features.append(_Feature(f"words of {field}", "", np.array([len(text.split()) for text in texts], dtype=float)))
        for (what, opposite), holds in _OF_TEXTS.items():
            features.append(_mask(f"{field} {what}", f"{field} {opposite}", [holds(text) for text in texts]))
    return [feature for feature in features if np.ptp(feature.values) > 0]


def _number(field: str, values: Sequence[Any]) -> list[_Feature]:
    """The feature of a field of numbers, with the median where it is missing; none if a number is too large."""
    try:
        known = np.array([math.nan if value in (None, "") else float(value) for value in values])
    except OverflowError:
        return []
    finite = np.isfinite(known)
    if not finite.any() or np.abs(known[finite]).max() > _GREATEST:
        return []
    return [_Feature(field, "", np.where(finite, known, np.median(known[finite])))]


def _mask(name: str, opposite: str, holds: Sequence[bool]) -> _Feature:
    return _Feature(name, opposite, np.array(holds, dtype=float))


def _side(group: str, seed: int) -> bool:
    """The half of a cluster."""
    return hashlib.sha256(f"{seed} {group}".encode()).digest()[0] % 2 == 0
