"""What an evaluator returns: values per row, so that every mean has its n, its interval and its paired comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from searchlora.eval.labels import Confusion, Curve
from searchlora.eval.pooled import Pooled


@dataclass(frozen=True)
class Evaluation:
    """The measured outputs of one system.

    Attributes:
        headline: The name of the measure that counts most, in `values` or `pooled`.
        values: measure -> row id -> value. A measure that is defined on some rows only holds just those.
        clusters: row id -> the group whose rows are not independent (dialogue, query); intervals resample these.
        slices: slice name -> row id -> its value in that slice, for example `turn -> "12" -> "3"`.
        invalid: row id -> why its output did not parse. These rows are in `values`, as fallback or worst.
        totals: Figures that exist only over all rows, for example corpus BLEU.
        tested: The measures whose differences between systems are tested; the others are shown only. Every test more
            costs the others power, since p values are corrected for their number. Empty: all.
        notes: What a reader must know to read the figures: definitions, what was left out.
        weights: row id -> its traffic (how often the query is asked), for means weighted by it. Empty: not known.
        unjudged: measure -> row id -> value, of the figures that tell what unjudged documents do (`eval.unjudged`).
        costs: What a row cost on average, for example `ms per query`.
        circular: Why these figures are circular (the judge had a part in the system, law 6); empty: they are not.
        pooled: measure -> a figure of sums over rows, for those that are no mean: macro-F1, kappa (`eval.pooled`).
            They are compared as the means are; no name is in both. In slices and weighted by traffic there are none.
        confusions: title -> how often what was true was called what.
        curves: title -> how often what was given a probability is right.
        less_is_better: The measures of which less is better (errors, lengths); of all others more is.
    """

    headline: str
    values: Mapping[str, Mapping[str, float]]
    clusters: Mapping[str, str]
    slices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    invalid: Mapping[str, str] = field(default_factory=dict)
    totals: Mapping[str, float] = field(default_factory=dict)
    tested: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    unjudged: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    circular: str = ""
    pooled: Mapping[str, Pooled] = field(default_factory=dict)
    confusions: Mapping[str, Confusion] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    less_is_better: tuple[str, ...] = ()

    def mean(self, measure: str) -> float:
        """The mean of a measure over its rows."""
        rows = self.values[measure]
        return sum(rows.values()) / len(rows)

    def figures(self) -> dict[str, float]:
        """Every mean and every pooled figure, by name, over this system's own rows."""
        means = {measure: self.mean(measure) for measure in self.values}
        return means | {measure: figure.value for measure, figure in self.pooled.items() if figure.cells}
