"""The pairs that people should grade first: those on which judges disagree, or of which a judge is unsure.

Both kinds share one scale. With the probabilities of a judge, a pair counts by how far its grade may be off; with two
judges or more, by how far their grades are apart. Both are divided by the span of the scale, and added.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.formats import read_qrels
from searchlora.eval.judge.labels import read_labels, read_probabilities
from searchlora.eval.text_identity import fingerprint
from searchlora.files import atomic_text

#: (topic, document)
Pair = tuple[str, str]


@dataclass(frozen=True)
class Queued:
    """A pair that waits for people.

    Attributes:
        disagreement: Largest difference of the judges' grades, divided by the span of the scale; 0 for one judge.
        uncertainty: Expected distance of the grade of the least sure judge from its mean grade, divided likewise; 0
            without probabilities. An invalid answer counts 1.
        grades: The grade of each judge; None: invalid, or not asked.
    """

    topic: str
    document: str
    disagreement: float
    uncertainty: float
    grades: tuple[int | None, ...]

    @property
    def priority(self) -> float:
        """What the queue is ordered by, from 0 to 2."""
        return self.disagreement + self.uncertainty


def grading_queue(
    judged: Sequence[str | Path], *, human: Sequence[str | Path] = (), top: int | None = None
) -> list[Queued]:
    """The pairs of some judges in the order in which people should grade them.

    Args:
        judged: Qrels that `searchlora judge` wrote; the probabilities beside them are read.
        human: Qrels of people; their pairs are left out.
        top: Number of pairs at most.
    """
    labels = [read_labels(path) for path in judged]
    known = {(topic, document) for path in human for topic, grades in read_qrels(path).items() for document in grades}
    shares = [_probabilities(Path(path), of_judge) for path, of_judge in zip(judged, labels, strict=True)]
    grades = {grade for of_judge in labels for row in of_judge.values() for grade in row.values() if grade is not None}
    grades |= {grade for of_judge in shares for row in of_judge.values() for grade in row}
    span = max(max(grades, default=1) - min(grades, default=0), 1)
    spread: dict[Pair, float] = {}
    for of_judge_shares in shares:
        for pair, row in of_judge_shares.items():
            spread[pair] = max(spread.get(pair, 0.0), _spread(row) / span)
    pairs = dict.fromkeys(
        (topic, document) for of_judge in labels for topic in of_judge for document in of_judge[topic]
    )
    found = [_queued(pair, labels, span, spread.get(pair, 0.0)) for pair in pairs if pair not in known]
    waiting = sorted((each for each in found if round(each.priority, 4) > 0), key=_place)
    if not waiting:
        raise DataError(
            "no pair is unsure or disputed",
            where=", ".join(map(str, judged)),
            fix="Give the qrels of two judges, or of one with its probabilities beside it (not with --generate).",
        )
    return waiting[:top]


def write_queue(queue: Sequence[Queued], path: Path) -> None:
    """Write the queue as JSONL, atomically: a file of pairs for `grade serve --pairs`."""
    with atomic_text(path) as out:
        for each in queue:
            row = {
                "topic": each.topic,
                "document": each.document,
                "priority": round(each.priority, 4),
                "disagreement": round(each.disagreement, 4),
                "uncertainty": round(each.uncertainty, 4),
                "grades": list(each.grades),
            }
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _queued(pair: Pair, labels: Sequence[Mapping[str, Mapping[str, int | None]]], span: int, spread: float) -> Queued:
    topic, document = pair
    asked = [of_judge[topic][document] for of_judge in labels if document in of_judge.get(topic, {})]
    valid = [grade for grade in asked if grade is not None]
    apart = (max(valid) - min(valid)) / span if valid else 0.0
    uncertainty = 1.0 if len(valid) < len(asked) else spread
    return Queued(topic, document, apart, uncertainty, tuple(of.get(topic, {}).get(document) for of in labels))


def _place(queued: Queued) -> tuple[float, int]:
    """The most doubtful first; of equal ones an arbitrary order, so that a cut does not leave whole topics out."""
    return -round(queued.priority, 4), fingerprint(f"{queued.topic} {queued.document}")


def _probabilities(path: Path, labels: Mapping[str, Mapping[str, int | None]]) -> dict[Pair, Mapping[int, float]]:
    """The probabilities beside a judge's qrels, if there are any."""
    file = Path(f"{path}.probabilities.jsonl")
    found: dict[Pair, Mapping[int, float]] = {}
    for topic, row in (read_probabilities(file) if file.exists() else {}).items():
        for document, shares in row.items():
            if document not in labels.get(topic, {}):
                raise DataError(f"holds the pair {topic} {document}, which the qrels do not", where=str(file))
            found[topic, document] = shares
    return found


def _spread(shares: Mapping[int, float]) -> float:
    """The expected distance of the grade from its mean."""
    mean = math.fsum(grade * share for grade, share in shares.items())
    return math.fsum(abs(grade - mean) * share for grade, share in shares.items())
