"""The measure of a fusion under each of a grid of weights, from hits that are retrieved once.

The weights of the parts of a `fuse` stage are tenths that add up to 1: 11 choices for two parts, 66 for three. Each
part is searched once for each query; only the fusion is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from searchlora.errors import PipelineError
from searchlora.eval.intervals import bootstrap_intervals
from searchlora.eval.measures import parse_measure, retrieval_values
from searchlora.eval.trec import Qrels
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.slots import fusion_place
from searchlora.pipelines.stages.stage import PartHits, StageSettings
from searchlora.progress import Progress, silent
from searchlora.records import SearchContext

#: Numbers of parts whose weights are measured: the grid grows with each part.
PARTS = (2, 3)

#: Searches that are executed between two reports of progress.
_BATCH = 32


@dataclass(frozen=True)
class WeightsScore:
    """The measure under one choice of weights over all judged topics."""

    weights: tuple[float, ...]
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class FusionHits:
    """What is known of a pipeline's first fusion once its parts were searched."""

    settings: StageSettings
    searches: Sequence[SearchContext]
    hits: Mapping[str, PartHits]  # topic -> the hits of each part


def search_parts(pipeline: Pipeline, searches: Sequence[SearchContext], progress: Progress = silent) -> FusionHits:
    """Execute the stages before the first fusion of a pipeline, and search each part of the fusion once."""
    place = fusion_place(pipeline.settings)
    if place is None:
        raise PipelineError("no stage fuses", where=pipeline.name, fix="Give a pipeline such as 'hybrid'.")
    before = replace(pipeline, stages=pipeline.stages[:place], settings=pipeline.settings[:place])
    executed: list[SearchContext] = []
    hits: dict[str, PartHits] = {}
    for start in range(0, len(searches), _BATCH):
        progress(start, len(searches), "topics")
        batch = before.execute(searches[start : start + _BATCH])
        executed += batch
        hits |= zip((str(search["id"]) for search in batch), pipeline.stages[place].part_hits(batch), strict=True)
    progress(len(searches), len(searches), "topics")
    return FusionHits(pipeline.settings[place], executed, hits)


def weight_grid(parts: int, steps: int = 10) -> list[tuple[float, ...]]:
    """All weights of a number of parts that are multiples of 1 / steps and add up to 1.

    Examples:
        >>> weight_grid(2, 2)
        [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
        >>> len(weight_grid(2)), len(weight_grid(3))
        (11, 66)
    """
    choices = product(range(steps + 1), repeat=parts)
    return [tuple(share / steps for share in shares) for shares in choices if sum(shares) == steps]


def measure_weights(
    searched: FusionHits,
    qrels: Qrels,
    weights: Sequence[tuple[float, ...]] | None = None,
    *,
    measure: str = "nDCG@10",
    progress: Progress = silent,
) -> list[WeightsScore]:
    """The mean measure of a fusion under each choice of weights, with its interval; a topic without hits counts 0.

    `qrels`: Topic -> document -> grade.
    """
    parse_measure(measure)
    choices = weight_grid(len(searched.settings.parts)) if weights is None else weights
    columns = []
    for number, choice in enumerate(choices, 1):
        run = {
            topic: {hit.document: hit.score for hit in searched.settings.fused_hits(hits, choice)}
            for topic, hits in searched.hits.items()
        }
        values = retrieval_values(run, qrels, [measure])[measure]
        columns.append([values[topic] for topic in qrels])
        progress(number, len(choices), "weights")
    table = np.array(columns).T
    return [
        WeightsScore(choice, float(value), float(low), float(high), len(table))
        for choice, value, (low, high) in zip(choices, table.mean(axis=0), bootstrap_intervals(table), strict=True)
    ]


def best_weights(scores: Sequence[WeightsScore]) -> WeightsScore:
    """The weights with the highest value; of equal ones those that are most even.

    Examples:
        >>> best_weights([WeightsScore((n / 10, 1 - n / 10), 0.5, 0, 1, 9) for n in range(11)]).weights
        (0.5, 0.5)
    """
    return max(scores, key=lambda score: (round(score.value, 12), -max(score.weights)))
