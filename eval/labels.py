"""Confusion matrices and calibration curves, as an evaluator gives them and a report shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from searchlora.eval.judge.calibration_curve import CurvePoint, calibration_curve

INVALID = "invalid"


@dataclass(frozen=True)
class Confusion:
    """How often what was true was called what.

    Args:
        rows: What is true.
        columns: What was said, `invalid` among it.
        counts: One row of counts for each of `rows`.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Curve:
    """The points of a calibration curve (`judge.calibration_curve`), rising."""

    points: tuple[CurvePoint, ...]


def confusion_of(gold: Mapping[str, str], said: Mapping[str, str | None], labels: Sequence[str]) -> Confusion:
    """The matrix of labels, rows in the order of `labels`; None, and what is no label, is in the column `invalid`.

    Args:
        gold, said: Row id -> label.
    """
    place = {label: index for index, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for row, label in gold.items():
        found = said[row]
        counts[place[label]][place.get(found, len(labels)) if found is not None else len(labels)] += 1
    return Confusion(tuple(labels), (*labels, INVALID), tuple(map(tuple, counts)))


def curve_of(
    probability: Mapping[str, float],
    correct: Mapping[str, bool],
    clusters: Mapping[str, str] | None = None,
    *,
    bins: int = 15,
) -> Curve:
    """How often what was given a probability is right, by bins of equal width from 0 to 1; empty bins have no point.

    Args:
        probability, correct: Row id -> the probability given to what was said, and whether that is right.
        clusters: Row id -> the group of rows that are not independent; None: each row on its own.
    """
    truth: dict[str, dict[str, int]] = {}
    given: dict[str, dict[str, float]] = {}
    for row, value in probability.items():
        group = clusters.get(row, row) if clusters is not None else row
        truth.setdefault(group, {})[row] = int(correct[row])
        given.setdefault(group, {})[row] = value
    return Curve(tuple(calibration_curve(truth, given, bins=bins, relevant=1))) if probability else Curve(())
