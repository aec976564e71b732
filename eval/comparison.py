"""What a comparison of systems holds: means with intervals, paired differences, slices, traffic, costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """The mean of a measure for a system over n rows, with its 95% interval (nan where there is one cluster only)."""

    system: str
    measure: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Pair:
    """System a against system b: a minus b, over the same n rows, as `significance.PairedDifference`.

    Attributes:
        p: Two-sided, by paired randomisation.
        p_corrected: The same, corrected over all pairs and measures of the comparison (of a slice's pair: over all
            pairs of all slices).
        p_t: Two-sided, by the paired t test over clusters; not corrected.
        effect: Cohen's d_z.
        mde: The smallest true difference that such a test finds in four cases of five.
    """

    a: str
    b: str
    measure: str
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float
    wins: int
    losses: int
    ties: int
    n: int
    p_t: float
    effect: float
    mde: float


@dataclass(frozen=True)
class WeightedPair:
    """System a against system b over n rows weighted by traffic, as `significance.WeightedDifference`.

    Attributes:
        p: Two-sided, by paired randomisation of the weighted sums of clusters.
        p_corrected: The same, corrected over all weighted pairs and measures of the comparison.
    """

    a: str
    b: str
    measure: str
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float
    n: int


@dataclass(frozen=True)
class Slice:
    """A `Row` over the rows with one value of a slice, for example `turn` = `3`."""

    slice: str
    value: str
    row: Row


@dataclass(frozen=True)
class SlicePair:
    """A `Pair` over the rows with one value of a slice."""

    slice: str
    value: str
    pair: Pair


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        systems: Names, in the order given.
        measures: The measures compared, the headline first in the order asked for.
        candidate: The system under test, set against every other one; None where there is none.
        baseline: The system that every other one is set against; None where there is none.
        correction: How `p_corrected` was made.
        groups: How many clusters the rows come in.
        rows, comparisons, slices, slice_pairs: The figures.
        values: measure -> system -> row id -> value, over the common rows; what plots and tables of queries show.
        invalid: system -> row id -> why its output did not parse.
        answered: system -> how many rows it answered, also those that others did not; what a rate of `invalid` is of.
        totals: system -> figures that exist only over all rows, without interval.
        weighted: Means weighted by traffic, of the rows whose traffic is known.
        weighted_pairs: Differences of those means, in the tested measures.
        unjudged: What unjudged documents do to the figures; measures are named as `eval.unjudged` names them.
        costs: system -> what a row cost on average.
        circular: system -> why its figures are circular; only those systems whose figures are.
        notes: What a reader must know, beginning with what was left out.
    """

    systems: tuple[str, ...]
    measures: tuple[str, ...]
    candidate: str | None
    baseline: str | None
    correction: str
    groups: int
    rows: tuple[Row, ...]
    comparisons: tuple[Pair, ...]
    slices: tuple[Slice, ...]
    slice_pairs: tuple[SlicePair, ...]
    values: Mapping[str, Mapping[str, Mapping[str, float]]]
    invalid: Mapping[str, Mapping[str, str]]
    answered: Mapping[str, int]
    totals: Mapping[str, Mapping[str, float]]
    weighted: tuple[Row, ...] = ()
    weighted_pairs: tuple[WeightedPair, ...] = ()
    unjudged: tuple[Row, ...] = ()
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    circular: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def met(self) -> tuple[tuple[str, str], ...]:
        """The pairs (a, b) to be looked at first: the candidate and each other, else each other and the baseline."""
        others = [system for system in self.systems if system != (self.candidate or self.baseline)]
        if self.candidate is not None:
            return tuple((self.candidate, other) for other in others)
        return tuple((other, self.baseline) for other in others if self.baseline is not None)

    def shown(self, system: str) -> str:
        """The name of a system as it is printed: `name (circular)` where its figures are."""
        return f"{system} (circular)" if system in self.circular else system

    def row(self, system: str, measure: str) -> Row:
        """The figure of one system. Raises KeyError where there is none."""
        for row in self.rows:
            if (row.system, row.measure) == (system, measure):
                return row
        raise KeyError((system, measure))

    def pair(self, a: str, b: str, measure: str) -> Pair:
        """The comparison of a with b. Raises KeyError where it was not made."""
        for pair in self.comparisons:
            if (pair.a, pair.b, pair.measure) == (a, b, measure):
                return pair
        raise KeyError((a, b, measure))
