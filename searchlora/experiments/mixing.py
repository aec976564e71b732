"""The verb `mix-qrels`: human judgments, and another source's where people did not judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from searchlora.errors import UsageError
from searchlora.eval.formats import read_qrels
from searchlora.eval.judge.calibration import Calibration, fit_isotonic, fit_shift
from searchlora.eval.judge.labels import Labels, read_labels
from searchlora.eval.judgments.card import JudgmentsCard, check_new, read_card, write_judgments
from searchlora.eval.judgments.mix import Mixed, mix, mixed_card
from searchlora.eval.trec import Qrels
from searchlora.files import file_sha256

_FITS = {"shift": fit_shift, "isotonic": fit_isotonic}


@dataclass(frozen=True)
class MixedQrels:
    """What came out, and the calibration where one was fitted."""

    mixed: Mixed
    card: JudgmentsCard
    calibration: Calibration | None


def mix_qrels(
    human: str | Path,
    other: str | Path,
    out: str | Path,
    *,
    source: Literal["llm", "clicks"] | None = None,
    scale: Sequence[int] | None = None,
    grades: Mapping[int, int] | None = None,
    calibrate: Literal["shift", "isotonic"] | None = None,
) -> MixedQrels:
    """Write qrels in which human grades stand, and another source's beside them, with a card that says so.

    Args:
        human: Qrels of people, in any format that is read.
        other: Qrels of an LLM or of clicks, with their card; answers that were no grade, as `read_labels` reads them.
        out: The qrels, in the format of the name (`.txt`: TREC).
        source: What `other` is, where it has no card.
        scale, grades: See `mix`.
        calibrate: Fit a calibration on the pairs that both judged, and lay it over the other source's grades.

    Raises:
        UsageError: when `out` is there already, the source of `other` is not known, or as `mix` and `mixed_card`.
        DataError: when a file cannot be read or was changed since its card was written.
    """
    check_new(out)
    of_people, filled_in = read_card(human), read_card(other) or _unknown(other, source)
    people, said = read_qrels(Path(human)), read_labels(other)
    calibration = _fitted(calibrate, people, said, scale, grades) if calibrate is not None else None
    mixed = mix(people, said, scale=scale, grades=grades, calibration=calibration)
    card = mixed_card(
        mixed,
        of_people,
        filled_in,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        made_from={"human": file_sha256(human), "other": file_sha256(other)},
    )
    return MixedQrels(mixed, write_judgments(out, mixed.qrels, card), calibration)


def _unknown(path: str | Path, source: Literal["llm", "clicks"] | None) -> JudgmentsCard:
    """The card of judgments made elsewhere; on what their judge was trained is not known."""
    if source is None:
        raise UsageError(
            "there is no card that says who judged", where=str(path), fix="Say what it is: --source llm or clicks."
        )
    return JudgmentsCard(source, created="", judge_queries=None)


def _fitted(
    method: Literal["shift", "isotonic"],
    human: Qrels,
    other: Labels,
    scale: Sequence[int] | None,
    grades: Mapping[int, int] | None,
) -> Calibration:
    known = tuple(scale) if scale is not None else tuple({grade for row in human.values() for grade in row.values()})
    # What is no grade, or not in the map, is put where no scale is, so that the fit leaves it out and counts it.
    outside = min(known) - 1
    said = {
        topic: {document: float(_meant(grade, grades, outside)) for document, grade in row.items()}
        for topic, row in other.items()
    }
    return _FITS[method](human, said, scale=known)


def _meant(grade: int | None, grades: Mapping[int, int] | None, otherwise: int) -> int:
    if grade is None:
        return otherwise
    return grades.get(grade, otherwise) if grades else grade
