"""The measure of a fusion under each of a grid of weights, from hits that are retrieved once.

The weights of the parts of a `fuse` stage are tenths that add up to 1: 11 choices for two parts, 66 for three. Each
part is searched once for each query; only the fusion is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeAlias

import numpy as np

from searchlora.errors import PipelineError
from searchlora.eval.intervals import bootstrap_intervals
from searchlora.eval.measures import parse_measure, retrieval_values
from searchlora.eval.trec import Qrels
from searchlora.experiments.slots import fusion_place
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.stages.fuse import FuseSettings
from searchlora.pipelines.stages.retrieve import RetrieveStage, searched_queries
from searchlora.progress import Progress, silent
from searchlora.records import Hit, SearchContext
from searchlora.retrieval.fusion import Fused, fuse
from searchlora.retrieval.retriever import search_filtered

#: Numbers of parts whose weights are measured: the grid grows with each part.
PARTS = (2, 3)

#: Searches that are executed between two reports of progress.
_BATCH = 32

#: Hits of one search: for each query that it is searched with, for each part.
PartHits: TypeAlias = Sequence[Sequence[Sequence[Hit]]]


@dataclass(frozen=True)
class WeightsScore:
    """The measure under one choice of weights over all judged topics.

    Attributes:
        weights: One per part, adding up to 1.
        value: Mean over n topics, with its 95% interval (nan with a single topic).
    """

    weights: tuple[float, ...]
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class FusionHits:
    """What is known of a pipeline's first fusion once its parts were searched.

    Attributes:
        settings: Of the `fuse` stage: method, constant and k.
        searches: The searches as they are before that stage.
        hits: Topic -> the hits of each part.
    """

    settings: FuseSettings
    searches: Sequence[SearchContext]
    hits: Mapping[str, PartHits]


def search_parts(pipeline: Pipeline, searches: Sequence[SearchContext], progress: Progress = silent) -> FusionHits:
    """Execute the stages before the first fusion of a pipeline, and search each part of the fusion once.

    Raises:
        PipelineError: if no stage fuses two or three parts.
        What the stages and the retrievers raise.
    """
    place = fusion_place(pipeline.settings)
    settings, stage = (None, None) if place is None else (pipeline.settings[place], pipeline.stages[place])
    if not isinstance(settings, FuseSettings) or len(settings.of) not in PARTS:
        raise PipelineError(
            "no stage fuses two or three parts, so there are no weights to choose",
            where=pipeline.name,
            fix="Give a pipeline such as 'hybrid'.",
        )
    assert isinstance(stage, RetrieveStage)
    before = replace(pipeline, stages=pipeline.stages[:place], settings=pipeline.settings[:place])
    executed: list[SearchContext] = []
    hits: dict[str, PartHits] = {}
    for start in range(0, len(searches), _BATCH):
        progress(start, len(searches), "topics")
        batch = before.execute(searches[start : start + _BATCH])
        executed += batch
        hits |= zip((str(search["id"]) for search in batch), _part_hits(stage, batch), strict=True)
    progress(len(searches), len(searches), "topics")
    return FusionHits(settings, executed, hits)


def _part_hits(stage: RetrieveStage, searches: Sequence[SearchContext]) -> Iterator[PartHits]:
    """The hits of each part of a fusion, for each search."""
    assert isinstance(stage.retriever, Fused)
    queries = [searched_queries(search) for search in searches]
    flat = [query for of_search in queries for query in of_search]
    filters = stage.filters(searches)
    parts = [iter(search_filtered(part.retriever, flat, part.depth, filters)) for part in stage.retriever.sources]
    for of_search in queries:
        yield [[next(hits) for hits in parts] for _ in of_search]


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


def fused_by(hits: PartHits, settings: FuseSettings, weights: Sequence[float]) -> list[Hit]:
    """What the fusion returns for a search under other weights; a part of weight 0 is left out.

    Examples:
        >>> one, two = [Hit("a", 2.0), Hit("b", 1.0)], [Hit("b", 9.0)]
        >>> from searchlora.pipelines.stages.bm25 import Bm25Settings
        >>> settings = FuseSettings(of=(Bm25Settings(), Bm25Settings()), k=5)
        >>> [hit.document for hit in fused_by([[one, two]], settings, (1.0, 0.0))]
        ['a', 'b']
    """
    used = [place for place, weight in enumerate(weights) if weight > 0]
    by_query = [
        fuse(
            [parts[place] for place in used],
            method=settings.method,
            weights=[weights[place] for place in used],
            rrf_k=settings.rrf_k,
        )[: settings.k]
        for parts in hits
    ]
    return by_query[0] if len(by_query) == 1 else fuse(by_query)[: settings.k]


def measure_weights(
    searched: FusionHits,
    qrels: Qrels,
    weights: Sequence[tuple[float, ...]] | None = None,
    *,
    measure: str = "nDCG@10",
    progress: Progress = silent,
) -> list[WeightsScore]:
    """The mean measure of a fusion under each choice of weights, with its interval; a topic without hits counts 0.

    Args:
        qrels: Topic -> document -> grade.
        weights: The choices; None: all of `weight_grid`.

    Returns:
        The choices in their order. The best of them was chosen on these topics: on others it is worse.

    Raises:
        UsageError: for an unknown measure, or empty qrels.
    """
    parse_measure(measure)
    choices = weight_grid(len(searched.settings.of)) if weights is None else weights
    columns = []
    for number, choice in enumerate(choices, 1):
        run = {
            topic: {hit.document: hit.score for hit in fused_by(hits, searched.settings, choice)}
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
