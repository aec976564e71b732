"""Aggregate measures: statistics of sums over rows that are not a mean of rows, such as macro-F1 and kappa.

Each row has a few cells (mostly counts). Cells are summed over rows and the statistic is computed from the sums, so its
value on a resample takes one matrix product and one call.

An invalid output (None) is never a label: it is wrong for its gold label and counts as no prediction. A ratio with a
denominator of 0 is 0, as in scikit-learn with `zero_division=0`.

Sources: macro-averaging as in scikit-learn; BLEU: Papineni et al. (ACL 2002) and Post (WMT 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import UsageError

Floats: TypeAlias = NDArray[np.float64]

_T = TypeVar("_T")

#: The label of a row, or all of its labels in multi-label tasks.
Labels: TypeAlias = str | Collection[str]


@dataclass(frozen=True)
class Aggregate:
    """A statistic of the sums of cells over rows.

    Attributes:
        cells: Row id -> its cells, as many for every row, with the same meaning in all systems that are compared.
        statistic: Sums of cells `(..., cells)` -> value `(...)`, nan where it is undefined. It must be smooth and
            unchanged when all sums are multiplied by the same number.
        bounds: The least and greatest possible value; intervals are clipped to them.
        share: Whether the statistic is a ratio of two counts, the first cell over the second. Without spread between
            clusters, its interval is that of `intervals.proportion`.
    """

    cells: Mapping[str, Sequence[float] | Floats]
    statistic: Callable[[Floats], Floats]
    bounds: tuple[float, float] = (-np.inf, np.inf)
    share: bool = False

    @property
    def value(self) -> float:
        """The statistic over all rows. Raises ValueError without rows."""
        return float(self.statistic(np.array(list(self.cells.values()), dtype=float).sum(axis=0)))


def macro_f1(gold: Mapping[str, Labels], predicted: Mapping[str, Labels | None], labels: Sequence[str]) -> Aggregate:
    """Macro-averaged F1 over the labels that occur in `gold`; a row's cells are hits, predicted and gold of each label.

    Equals scikit-learn's `f1_score(average="macro", labels=…, zero_division=0)` with these labels.

    Args:
        gold, predicted: Row id -> its label, or its labels in multi-label tasks; None: invalid.
        labels: All labels.

    Examples:
        >>> gold = {"r1": "buy", "r2": "ask", "r3": "ask"}
        >>> predicted = {"r1": "buy", "r2": "ask", "r3": None}
        >>> round(macro_f1(gold, predicted, ["buy", "ask"]).value, 3)
        0.833
    """
    index_of = {label: index for index, label in enumerate(labels)}
    cells = np.zeros((len(gold), 3, len(labels)))
    for row, (id_, true) in zip(cells, gold.items(), strict=True):
        gold_labels, predicted_labels = _set(true), _set(prediction(predicted, id_))
        if unknown := [label for label in gold_labels if label not in index_of]:
            raise UsageError(f"'{unknown[0]}' is not one of the labels", where=f"row {id_}")
        for kind, chosen in enumerate((gold_labels & predicted_labels, predicted_labels, gold_labels)):
            row[kind, [index_of[label] for label in chosen if label in index_of]] = 1
    flat = cells.reshape(len(gold), -1)
    return Aggregate(dict(zip(gold, flat, strict=True)), _mean_f1, (0.0, 1.0))


def f1(gold: Mapping[str, bool], predicted: Mapping[str, bool | None]) -> Aggregate:
    """F1 of one class, over rows that are in the class (`gold`) and rows predicted to be in it."""
    return micro_f1(*_class(gold, predicted))


def precision(gold: Mapping[str, bool], predicted: Mapping[str, bool | None]) -> Aggregate:
    """Precision of one class: the share of the rows predicted to be in it that are in it."""
    hits, positive, _ = _class(gold, predicted)
    return micro_precision(hits, positive)


def recall(gold: Mapping[str, bool], predicted: Mapping[str, bool | None]) -> Aggregate:
    """Recall of one class: the share of its rows that are predicted to be in it."""
    hits, _, true = _class(gold, predicted)
    return micro_recall(hits, true)


def micro_f1(hits: Mapping[str, float], predicted: Mapping[str, float], gold: Mapping[str, float]) -> Aggregate:
    """Micro-averaged F1: 2 Σ hits / (Σ predicted + Σ gold), from the counts of each row.

    Examples:
        >>> micro_f1({"r1": 1, "r2": 0}, {"r1": 2, "r2": 1}, {"r1": 1, "r2": 1}).value
        0.4
    """
    return Aggregate({row: (hits[row], predicted[row], gold[row]) for row in hits}, _mean_f1, (0.0, 1.0))


def micro_precision(hits: Mapping[str, float], predicted: Mapping[str, float]) -> Aggregate:
    """Micro-averaged precision: Σ hits / Σ predicted, from the counts of each row (for example its citations)."""
    return Aggregate({row: (hits[row], predicted[row]) for row in hits}, _share, (0.0, 1.0), share=True)


def micro_recall(hits: Mapping[str, float], gold: Mapping[str, float]) -> Aggregate:
    """Micro-averaged recall: Σ hits / Σ gold, from the counts of each row."""
    return micro_precision(hits, gold)


def corpus_bleu(outputs: Mapping[str, str], references: Mapping[str, str]) -> Aggregate:
    """Corpus BLEU, 0 to 100, one reference per row; equals sacrebleu's with its defaults (13a tokens, exp smoothing).

    Args:
        outputs, references: Row id -> text.

    Examples:
        >>> outputs = {"q1": "a dome tent for two", "q2": "boots"}
        >>> round(corpus_bleu(outputs, {"q1": "a dome tent for two", "q2": "hiking boots"}).value, 1)
        84.6
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)  # of single rows only their counts are used
    cells = {}
    for row, output in outputs.items():
        score = metric.sentence_score(output, [references[row]])
        cells[row] = (score.sys_len, score.ref_len, *score.counts, *score.totals)
    return Aggregate(cells, _bleu, (0.0, 100.0))


def _mean_f1(sums: Floats) -> Floats:
    """Mean F1 of the labels that occur in gold, from sums `(..., 3 * labels)` of hits, predicted and gold."""
    hits, predicted, gold = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    occurring = gold > 0
    scores = np.divide(2 * hits, predicted + gold, out=np.zeros_like(hits), where=occurring)
    return np.asarray(scores.sum(axis=-1) / np.maximum(occurring.sum(axis=-1), 1))


def _bleu(sums: Floats) -> Floats:
    """BLEU from sums `(..., 10)`: lengths of output and reference, matching and all 1-grams to 4-grams of the output.

    A count of 0 is smoothed exponentially, as by sacrebleu's default; without a 4-gram, or a match, BLEU is 0.
    """
    length, reference, matches, all_ = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:]
    none = matches <= 0
    smoothed = np.where(none, 0.5 ** np.cumsum(none, axis=-1), matches)
    precisions = np.divide(smoothed, all_, out=np.ones_like(smoothed), where=all_ > 0)
    brevity = np.exp(np.minimum(0.0, 1 - np.divide(reference, length, out=np.ones_like(length), where=length > 0)))
    score = 100 * brevity * np.exp(np.log(precisions).mean(axis=-1))
    return np.asarray(np.where((all_ > 0).all(axis=-1) & ~none.all(axis=-1), score, 0.0))


def _share(sums: Floats) -> Floats:
    part, total = sums[..., 0], sums[..., 1]
    return np.asarray(np.divide(part, total, out=np.zeros_like(part), where=total > 0))


def _class(
    gold: Mapping[str, bool], predicted: Mapping[str, bool | None]
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Hits, predicted and gold (0 or 1) of each row."""
    positive = {row: float(bool(prediction(predicted, row))) for row in gold}
    true = {row: float(value) for row, value in gold.items()}
    return {row: positive[row] * true[row] for row in gold}, positive, true


def prediction(predicted: Mapping[str, _T], row: str) -> _T:
    """The prediction of a row. Raises `UsageError` if it is missing."""
    if row not in predicted:
        raise UsageError("the row has no prediction; an invalid output is None", where=f"row {row}")
    return predicted[row]


def _set(labels: Labels | None) -> set[str]:
    return {labels} if isinstance(labels, str) else set(labels or ())
