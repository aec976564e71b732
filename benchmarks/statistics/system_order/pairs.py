"""Judged pairs: the pool of the Cranfield runs, and thresholds that turn scores into grades.

Thresholds are set so that, on topics with human grades, each grade is as frequent as in the human grades:
equipercentile linking (Kolen and Brennan, Test Equating, Scaling, and Linking, 2014, chapter 2). A regression, as in
`eval.judge.calibration`, would return mean grades, which hardly ever reach the upper grades for weak scores: unbiased,
but useless as gains of nDCG.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cranfield_runs.systems import Cranfield
from searchlora.eval.judgments.pooling import pool
from searchlora.eval.trec import Qrels, Run
from searchlora.files import atomic_text, numbered_lines

#: Number of judged documents per run, the cutoff of the measures.
DEPTH = 10

#: Number of words of an abstract in the prompt of the LLM judge; 30% of the abstracts have at most 109.
WORDS = 100

#: Topic -> document -> number of runs that have it in their first `DEPTH`.
Pool = Mapping[str, Mapping[str, int]]


def judged_pool(folder: Path, runs: Mapping[str, Run]) -> dict[str, dict[str, int]]:
    """The pool of the runs without the pairs that the collection marks with an unexplained -1.

    There is one per topic, probably the source paper of the question, which has no human grade.
    """
    odd = _unexplained(folder)
    return {
        topic: {document: count for document, count in row.items() if (topic, document) not in odd}
        for topic, row in pool(runs, DEPTH).items()
    }


def completed(qrels: Qrels, pooled: Pool) -> dict[str, dict[str, int]]:
    """Human grades of the pooled pairs; an unjudged pair has grade 0, since Cranfield is judged completely."""
    return {
        topic: {document: qrels.get(topic, {}).get(document, 0) for document in row} for topic, row in pooled.items()
    }


def shuffled(topics: Sequence[str], *, seed: int = 0) -> list[str]:
    """Topics in the order of a hash."""
    return sorted(topics, key=lambda topic: hashlib.sha256(f"{seed}\t{topic}".encode()).hexdigest())


def write_inputs(folder: Path, data: Cranfield, pooled: Pool) -> dict[str, Path]:
    """Write the files `topics`, `corpus` and `pairs` of pooled pairs for `searchlora judge`.

    An abstract starts with its title, so the title is not repeated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {"topics": folder / "topics.jsonl", "corpus": folder / "corpus.jsonl", "pairs": folder / "pairs.txt"}
    target = {document for row in pooled.values() for document in row}
    texts = [
        {"id": document.id, "text": " ".join(document.text.split()[:WORDS])}
        for document in data.documents
        if document.id in target
    ]
    _write(files["topics"], [json.dumps({"id": topic, "query": data.queries[topic]}) for topic in pooled])
    _write(files["corpus"], map(json.dumps, texts))
    _write(files["pairs"], [f"{topic} {document}" for topic, row in pooled.items() for document in row])
    return files


def _write(path: Path, lines: Sequence[str] | map[str]) -> None:
    with atomic_text(path) as out:
        out.writelines(f"{line}\n" for line in lines)


def _unexplained(folder: Path) -> set[tuple[str, str]]:
    rows = (line.split() for _, line in numbered_lines(folder / "cranqrel"))
    return {(topic, document) for topic, document, grade in rows if grade == "-1"}


@dataclass(frozen=True)
class Part:
    """One half of the topics, graded by thresholds from the other half.

    Attributes:
        fitted, judged: Topics of both halves.
        thresholds: The lowest score of the grades 1, 2, …; infinite if no score is high enough.
    """

    fitted: tuple[str, ...]
    judged: tuple[str, ...]
    thresholds: tuple[float, ...]


def thresholds(scores: Sequence[float], grades: Sequence[int], scale: Sequence[int]) -> tuple[float, ...]:
    """The lowest score of each grade of the scale except the first, rising.

    Equal scores get the same grade: of the possible thresholds, the one with the nearest count is taken, and of two the
    stricter one.

    Args:
        scores, grades: Scores and human grades of the same pairs.
        scale: Grades, rising.
    """
    at_least = [(score, sum(other >= score for other in scores)) for score in sorted(set(scores))]
    cuts = [(math.inf, 0), *reversed(at_least)]
    found = []
    for grade in scale[1:]:
        target = sum(value >= grade for value in grades)
        found.append(min(cuts, key=lambda cut: abs(cut[1] - target))[0])
    return tuple(found)


def cut(
    scores: Run, human: Qrels, scale: Sequence[int], *, seed: int = 0
) -> tuple[dict[str, dict[str, int]], list[Part]]:
    """Map scores to grades; the topics of each half use the thresholds of the other half.

    Args:
        scores: Topic -> document -> score.
        human: Human grades of the same pairs.
        seed: Seed of the split into halves.
    """
    order = shuffled(list(scores), seed=seed)
    middle = (len(order) + 1) // 2
    halves = tuple(order[:middle]), tuple(order[middle:])
    parts = [
        Part(fitted, judged, _fitted(fitted, scores, human, scale))
        for fitted, judged in (halves, (halves[1], halves[0]))
    ]
    part_of = {topic: part for part in parts for topic in part.judged}
    return {
        topic: {document: scale[bisect_right(part_of[topic].thresholds, score)] for document, score in row.items()}
        for topic, row in scores.items()
    }, parts


def _fitted(topics: Sequence[str], scores: Run, human: Qrels, scale: Sequence[int]) -> tuple[float, ...]:
    pairs = [(scores[topic][document], human[topic][document]) for topic in topics for document in scores[topic]]
    return thresholds([score for score, _ in pairs], [grade for _, grade in pairs], scale)
