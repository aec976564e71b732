"""The LLMJudge data: 25 queries, 4,423 pairs with human grades, 33 judges.

All human grades are known, so the true value is known: the 25 queries are the population. Topics are drawn from it with
replacement, like a sample of topics from a large population.

The data has no runs. The systems are LLM judges of other teams, used as rerankers of the pairs of each query: documents
are ordered by their grades.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.statistics.prediction_powered.draws import DRAWS, Sample, intervals, summary
from searchlora.eval.formats import read_qrels
from searchlora.eval.measures import retrieval_values

#: The judge with the highest kappa over four grades (0.286), and one of the lowest (0.078).
JUDGES = {"good": "willia-umbrela1", "bad": "TREMA-rubric0"}
#: One judge of each other team.
SYSTEMS = ("RMITIR-llama70B", "prophet-setting1", "NISTRetrieval-instruct0", "Olz-gpt4o", "h2oloo-zeroshot1")
TOPICS = 100
MEASURE = "nDCG@10"

Grades = Mapping[str, Mapping[str, int]]
Values = Mapping[str, float]
Draw = Callable[[np.random.Generator], Sample]


class Collection:
    """Grades of people, of a judge and of the systems."""

    def __init__(self, folder: Path, quality: str) -> None:
        self.human = read_qrels(folder / "human_test_qrels.txt")
        self.name = JUDGES[quality]
        self.judged = read_qrels(folder / "judges" / f"{self.name}.txt")
        self.judge = f"{quality} judge {self.name}"
        systems = {name: _as_run(read_qrels(folder / "judges" / f"{name}.txt")) for name in SYSTEMS}
        self._measured = {
            name: tuple(retrieval_values(run, qrels, [MEASURE])[MEASURE] for qrels in (self.human, self.judged))
            for name, run in systems.items()
        }

    def measured(self, name: str) -> tuple[Values, Values]:
        """The measure of a system by topic, under the grades of people and of the judge."""
        return self._measured[name]

    def difference(self, a: str, b: str) -> tuple[Values, Values]:
        """The paired difference of two systems by topic, under the grades of people and of the judge."""
        return tuple(
            {topic: one[topic] - other[topic] for topic in one}
            for one, other in zip(self._measured[a], self._measured[b], strict=True)
        )


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Coverage and width for nDCG@10 by topic and for grades by pair, for both judges."""
    for quality in JUDGES:
        collection = Collection(folder, quality)
        a, b = SYSTEMS[:2]
        for quantity, (truth, graded) in {
            f"{MEASURE} of {a}": collection.measured(a),
            f"{MEASURE}, {a} − {b}": collection.difference(a, b),
        }.items():
            for n in (10, 20, 50):
                name = f"{quantity}; {collection.judge}; {n} of {TOPICS} topics"
                yield from _drawn(name, _correlation(truth, graded), _mean(truth), _topics(truth, graded, n))
        for binary in (False, True):
            yield from _pairs(collection, binary)


def correlations(folder: Path) -> dict[str, Any]:
    """Correlation of judge and people over topics, for each system and for each pair of systems."""
    found: dict[str, Any] = {}
    for quality, name in JUDGES.items():
        collection = Collection(folder, quality)
        found[name] = {
            MEASURE: _spread([_correlation(*collection.measured(system)) for system in SYSTEMS]),
            f"difference of {MEASURE}": _spread(
                [_correlation(*collection.difference(a, b)) for a, b in combinations(SYSTEMS, 2)]
            ),
        }
    return found


def _topics(truth: Values, graded: Values, n: int) -> Draw:
    """Draws in which people judge n topics and the judge all drawn topics."""

    def draw(rng: np.random.Generator) -> Sample:
        topics = rng.choice(list(truth), TOPICS)
        people = {str(at): truth[topic] for at, topic in enumerate(topics[:n])}
        judge = {str(at): graded[topic] for at, topic in enumerate(topics)}
        return Sample(people, judge)

    return draw


def _pairs(collection: Collection, binary: bool) -> Iterator[dict[str, Any]]:
    """Draws in which people label all pairs of some topics, or some pairs; intervals by topic or for fixed topics."""
    truth, graded = (
        {
            topic: {document: float(grade >= 2) if binary else float(grade) for document, grade in row.items()}
            for topic, row in grades.items()
        }
        for grades in (collection.human, collection.judged)
    )
    flat = [{(t, d): value for t, row in values.items() for d, value in row.items()} for values in (truth, graded)]
    quantity = "share of grade 2 or more" if binary else "mean grade"

    def rows_of(topics: Sequence[str]) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
        ids = {f"{at} {document}": (topic, document) for at, topic in enumerate(topics) for document in truth[topic]}
        people, judge = ({row: values[t][d] for row, (t, d) in ids.items()} for values in (truth, graded))
        return people, judge, {row: row.split()[0] for row in ids}

    def whole_topics(rng: np.random.Generator) -> Sample:
        people, judge, clusters = rows_of(rng.choice(list(truth), TOPICS))
        labelled = {row: grade for row, grade in people.items() if int(clusters[row]) < 15}
        return Sample(labelled, judge, clusters)

    def some_pairs(rng: np.random.Generator) -> Sample:
        people, judge, clusters = rows_of(rng.choice(list(truth), TOPICS))
        labelled = {row: people[row] for row in rng.choice(list(people), 300, replace=False)}
        return Sample(labelled, judge, clusters)

    def these_topics(rng: np.random.Generator) -> Sample:
        people, judge, _ = rows_of(list(truth))
        labelled = {row: people[row] for row in rng.choice(list(people), 100, replace=False)}
        return Sample(labelled, judge)

    for labelled, draw in {
        f"all pairs of 15 of {TOPICS} topics": whole_topics,
        f"300 pairs of {TOPICS} topics": some_pairs,
        "100 pairs of the 25 topics, for these topics": these_topics,
    }.items():
        yield from _drawn(f"{quantity}; {collection.judge}; {labelled}", _correlation(*flat), _mean(flat[0]), draw)


def _drawn(name: str, correlation: float, truth: float, draw: Draw) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(13)
    found, drawn = zip(*(intervals(draw(rng), seed) for seed in range(DRAWS)), strict=True)
    about = {
        "system": name,
        "n_human": int(np.median([estimate.n_human for estimate in found])),
        "n_judged": int(np.median([estimate.n_judged for estimate in found])),
        "correlation": correlation,
    }
    yield from summary(about, truth, drawn, [estimate.effective_n / estimate.n_human for estimate in found])


def _as_run(grades: Grades) -> dict[str, dict[str, float]]:
    return {topic: {document: float(grade) for document, grade in row.items()} for topic, row in grades.items()}


def _mean(values: Mapping[Any, float]) -> float:
    return float(np.mean(list(values.values())))


def _correlation(a: Mapping[Any, float], b: Mapping[Any, float]) -> float:
    return float(np.corrcoef(list(a.values()), [b[key] for key in a])[0, 1])


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": float(np.median(values)),
        "least": min(values),
        "greatest": max(values),
        "n": len(values),
    }
