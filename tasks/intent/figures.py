"""What the evaluators of the three kinds of answer are given, and what they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from searchlora.eval.labels import Confusion, Curve
from searchlora.eval.pooled import Pooled, f1, precision, recall


@dataclass(frozen=True)
class Answered:
    """Row id -> the true answer, what was answered (None: invalid), and the group of rows that are not independent."""

    gold: Mapping[str, Any]
    said: Mapping[str, Any]
    groups: Mapping[str, str]


@dataclass(frozen=True)
class Figures:
    """The part of an `Evaluation` that depends on the kind of answer."""

    headline: str
    values: Mapping[str, Mapping[str, float]]
    pooled: Mapping[str, Pooled] = field(default_factory=dict)
    tested: tuple[str, ...] = ()
    slices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    confusions: Mapping[str, Confusion] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def out_of_scope_figures(gold: Mapping[str, bool], said: Mapping[str, bool]) -> dict[str, Pooled]:
    """Recall, precision and F1 of the rows that are out of scope; nothing where none is."""
    if not any(gold.values()):
        return {}
    return {
        "out-of-scope recall": recall(gold, said),
        "out-of-scope precision": precision(gold, said),
        "out-of-scope F1": f1(gold, said),
    }
