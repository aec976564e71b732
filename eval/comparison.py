"""What a comparison of systems holds: figures with intervals, paired differences, slices, traffic, costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """A measure of a system over n rows, with its 95% interval (nan where there is one cluster only).

    The mean, or a pooled figure (`eval.pooled`); of the latter `value` is nan where the figure does not exist.
    """

    system: str
    measure: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Pair:
    """System a against system b: a minus b, over the same n rows, as `significance.PairedDifference`.

    Of a pooled figure no single row has a value: there are no wins, losses and ties, no effect, and `p_t` and `mde` are
    by the jackknife's standard error. Where a figure does not exist, nor does its difference or p (nan).

    Attributes:
        p: Two-sided, by paired randomisation.
        p_corrected: The same, corrected over all pairs and measures of the comparison (of a slice's pair: over all
            pairs of all slices).
        wins, losses, ties: Rows on which a is better, worse, the same.
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
    wins: int | None
    losses: int | None
    ties: int | None
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
        measures: The measures compared, the headline first in the order asked for. One that is not the headline may
            be of some systems only.
        candidate: The system under test, set against every other one; None where there is none.
        baseline: The system that every other one is set against; None where there is none.
        correction: How `p_corrected` was made.
        groups: How many clusters the rows come in.
        rows, comparisons, slices, slice_pairs: The figures.
        values: measure -> system -> row id -> value, over the common rows; what plots and tables of queries show.
        invalid: system -> row id -> why its output did not parse.
        less_is_better: Those of the measures of which less is better.
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
    less_is_better: tuple[str, ...] = ()

    @property
    def met(self) -> tuple[tuple[str, str], ...]:
        """The pairs (a, b) to be looked at first: the candidate and each other, else each other and the baseline."""
        others = [system for system in self.systems if system != (self.candidate or self.baseline)]
        if self.candidate is not None:
            return tuple((self.candidate, other) for other in others)
        return tuple((other, self.baseline) for other in others if self.baseline is not None)

    @property
    def by_row(self) -> str | None:
        """The first measure with a value per row in all systems: the headline, unless that is pooled; else None."""
        return next((m for m in self.measures if len(self.values.get(m, ())) == len(self.systems)), None)

    @property
    def pooled(self) -> tuple[str, ...]:
        """The measures that are no mean of rows."""
        return tuple(measure for measure in self.measures if measure not in self.values)

    @property
    def order_of_gain(self) -> str:
        """How `gains` are taken, in words."""
        turned = self.by_row in self.less_is_better
        return "the second system minus the first, since less is better" if turned else "the first minus the second"

    def gains(self, a: str, b: str) -> dict[str, float]:
        """Row id -> by how much a is better than b in the measure `by_row`, which must be there."""
        measure = str(self.by_row)
        ours, theirs = self.values[measure][a], self.values[measure][b]
        return {row: self.gain(measure, ours[row] - theirs[row]) for row in ours}

    def gain(self, measure: str, difference: float) -> float:
        """A difference in a measure, above 0 where it is for the better."""
        return -difference if measure in self.less_is_better else difference

    def shown(self, system: str) -> str:
        """The name of a system as it is printed: `name (circular)` where its figures are."""
        return f"{system} (circular)" if system in self.circular else system

    def row(self, system: str, measure: str) -> Row:
        """The figure of one system. Raises KeyError where there is none."""
        found = self.find(system, measure)
        if found is None:
            raise KeyError((system, measure))
        return found

    def find(self, system: str, measure: str) -> Row | None:
        """The figure of one system, if it has it."""
        return next((row for row in self.rows if (row.system, row.measure) == (system, measure)), None)

    def pair(self, a: str, b: str, measure: str) -> Pair:
        """The comparison of a with b. Raises KeyError where it was not made."""
        for pair in self.comparisons:
            if (pair.a, pair.b, pair.measure) == (a, b, measure):
                return pair
        raise KeyError((a, b, measure))
