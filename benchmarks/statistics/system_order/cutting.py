"""From a score to a grade: cut so that, on topics with people's grades, each grade is given as often as people give it.

This is equipercentile linking (Kolen and Brennan, Test Equating, Scaling, and Linking, 2014, chapter 2). A regression,
as in `eval.judge.calibration`, would give the mean grade that a score stands for, which hardly ever reaches the upper
grades where scores say little: right on average, and useless as gains of nDCG.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.statistics.system_order.pairs import shuffled
from searchlora.eval.trec import Qrels, Run


@dataclass(frozen=True)
class Part:
    """One half of the topics, judged by thresholds from the other.

    Attributes:
        fitted, judged: Topics.
        thresholds: The lowest score of the grades 1, 2, …; infinite where none is high enough.
    """

    fitted: tuple[str, ...]
    judged: tuple[str, ...]
    thresholds: tuple[float, ...]


def thresholds(scores: Sequence[float], grades: Sequence[int], scale: Sequence[int]) -> tuple[float, ...]:
    """The lowest score of each grade of the scale but the first, rising.

    Between equal scores nothing can be cut: of the cuts there are, that with the nearest count is taken, and of two
    the stricter.

    Args:
        scores, grades: Of the same pairs.
        scale: Rising.
    """
    at_least = [(score, sum(each >= score for each in scores)) for score in sorted(set(scores))]
    cuts = [(math.inf, 0), *reversed(at_least)]
    found = []
    for grade in scale[1:]:
        wanted = sum(each >= grade for each in grades)
        found.append(min(cuts, key=lambda cut: abs(cut[1] - wanted))[0])
    return tuple(found)


def cut(
    scores: Run, human: Qrels, scale: Sequence[int], *, seed: int = 0
) -> tuple[dict[str, dict[str, int]], list[Part]]:
    """Grades from scores, the topics of each half graded by the thresholds of the other half.

    Args:
        scores: topic -> document -> score.
        human: People's grades of the same pairs.
        seed: Of the halves.
    """
    order = shuffled(list(scores), seed=seed)
    middle = (len(order) + 1) // 2
    halves = tuple(order[:middle]), tuple(order[middle:])
    parts = [
        Part(fitted, judged, _fitted(fitted, scores, human, scale))
        for fitted, judged in (halves, (halves[1], halves[0]))
    ]
    place = {topic: part for part in parts for topic in part.judged}
    return {
        topic: {document: scale[bisect_right(place[topic].thresholds, score)] for document, score in row.items()}
        for topic, row in scores.items()
    }, parts


def _fitted(topics: Sequence[str], scores: Run, human: Qrels, scale: Sequence[int]) -> tuple[float, ...]:
    pairs = [(scores[topic][document], human[topic][document]) for topic in topics for document in scores[topic]]
    return thresholds([score for score, _ in pairs], [grade for _, grade in pairs], scale)
