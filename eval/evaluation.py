"""What an evaluator returns: values per row, so that every mean has its n, its interval and its paired comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Evaluation:
    """The measured outputs of one system.

    Attributes:
        headline: The name of the measure that counts most.
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

    def mean(self, measure: str) -> float:
        """The mean of a measure over its rows."""
        rows = self.values[measure]
        return sum(rows.values()) / len(rows)
