"""The command `merge-qrels`: human judgments, completed by judgments of another source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from searchlora.errors import UsageError
from searchlora.eval.formats import read_qrels
from searchlora.eval.judge.calibration import Calibration, fit_calibration
from searchlora.eval.judge.labels import Labels, read_labels
from searchlora.eval.judge.merging import MergedQrels, merge_qrels, merged_qrels_card
from searchlora.eval.judgments.card import JudgmentsCard, check_new, read_card, write_judgments
from searchlora.eval.judgments.sources import GradeSources
from searchlora.eval.trec import Qrels
from searchlora.files import file_sha256


@dataclass(frozen=True)
class MergeResult:
    """The merged judgments, their card, and the calibration if one was fitted."""

    merged: MergedQrels
    card: JudgmentsCard
    calibration: Calibration | None


def merge_files(
    human: str | Path,
    other: str | Path,
    out: str | Path,
    *,
    source: Literal["llm", "clicks"] | None = None,
    scale: Sequence[int] | None = None,
    grades: Mapping[int, int] | None = None,
    calibrate: Literal["isotonic"] | None = None,
) -> MergeResult:
    """Write qrels with human grades, completed by another source's grades, and a card with the source of each grade.

    Args:
        human: Human qrels, in any supported format. A file without a card is declared human by this argument.
        other: Qrels of an LLM or of clicks, with their card; `read_labels` reads them.
        out: The qrels to write; the format follows the extension (`.txt`: TREC).
        source: The source of `other`, if it has no card.
        scale, grades: See `merge_qrels`.
        calibrate: Fit a calibration on the pairs that both judged, and apply it to the other source's grades.

    Raises:
        UsageError: if `out` exists or the source of `other` is unknown; also as `merge_qrels` and `merged_qrels_card`.
        DataError: if a file cannot be read or was changed after its card was written.
    """
    check_new(out)
    human_card, other_card = read_card(human), read_card(other) or _card_of(other, source)
    human_qrels, labels = read_qrels(Path(human)), read_labels(other)
    calibration = _fitted(human_qrels, labels, scale, grades) if calibrate is not None else None
    merged = merge_qrels(human_qrels, labels, scale=scale, grades=grades, calibration=calibration)
    card = merged_qrels_card(
        merged,
        human_card,
        other_card,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        made_from={"human": file_sha256(human), "other": file_sha256(other)},
    )
    sources = GradeSources(
        None,
        {
            (topic, document): "human" if document in human_qrels.get(topic, {}) else other_card.source
            for topic, grades in merged.qrels.items()
            for document in grades
        },
    )
    return MergeResult(merged, write_judgments(out, merged.qrels, card, sources=sources), calibration)


def _card_of(path: str | Path, source: Literal["llm", "clicks"] | None) -> JudgmentsCard:
    """The card of judgments without one; the training data of their judge is unknown."""
    if source is None:
        raise UsageError("has no card that names its source", where=str(path), fix="Give --source llm or clicks.")
    return JudgmentsCard(source, created="", judge_queries=None)


def _fitted(
    human: Qrels,
    other: Labels,
    scale: Sequence[int] | None,
    grades: Mapping[int, int] | None,
) -> Calibration:
    known = tuple(scale) if scale is not None else tuple({grade for row in human.values() for grade in row.values()})
    # Invalid labels, and grades missing in the map, get a grade outside the scale: the fit skips them.
    outside = min(known) - 1
    predicted = {
        topic: {document: float(_mapped(grade, grades, outside)) for document, grade in row.items()}
        for topic, row in other.items()
    }
    return fit_calibration(human, predicted, scale=known)


def _mapped(grade: int | None, grades: Mapping[int, int] | None, default: int) -> int:
    if grade is None:
        return default
    return grades.get(grade, default) if grades else grade
