"""Fixed mixes of a hybrid search: the measure under each weighting of a fusion, from hits that are retrieved once.

A mix gives each part of a `fuse` stage a weight in tenths that add up to 1: 11 mixes of two parts, 66 of three. The
parts are searched once for each query; only the fusion is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.intervals import Floats, bootstrap_intervals
from searchlora.eval.measures import parse_measure, retrieval_values
from searchlora.eval.trec import Qrels
from searchlora.pipelines.stages.fuse import FuseSettings
from searchlora.pipelines.stages.retrieve import RetrieveStage, searched_queries
from searchlora.progress import Progress, silent
from searchlora.records import Hit, SearchContext
from searchlora.retrieval.fusion import Fused, fuse
from searchlora.retrieval.retriever import search_filtered

#: Weights are multiples of one part in so many.
TENTHS = 10

#: Numbers of parts whose mixes can be shown as a strip or a triangle.
PARTS = (2, 3)

#: Hits of one search: for each query that it is searched with, for each part.
PartHits: TypeAlias = Sequence[Sequence[Sequence[Hit]]]


@dataclass(frozen=True)
class Mix:
    """The measure of one mix over all judged topics.

    Attributes:
        weights: One per part, adding up to 1.
        value: Mean over n topics, with its 95% interval (nan with a single topic).
    """

    weights: tuple[float, ...]
    value: float
    low: float
    high: float
    n: int


def mixes(parts: int, steps: int = TENTHS) -> Iterator[tuple[float, ...]]:
    """All weights of a number of parts that are multiples of 1 / steps and add up to 1.

    Examples:
        >>> list(mixes(2, 2))
        [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
        >>> len(list(mixes(2))), len(list(mixes(3)))
        (11, 66)
    """
    for shares in _shares(parts, steps):
        yield tuple(share / steps for share in shares)


def _shares(parts: int, total: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _shares(parts - 1, total - first):
            yield (first, *rest)


def part_hits(stage: RetrieveStage, searches: Sequence[SearchContext]) -> list[PartHits]:
    """The hits of each part of a fusion, for each search.

    Args:
        stage: A stage that fuses.
        searches: As they are before the stage.

    Raises:
        UsageError: for a stage that does not fuse.
        What the retrievers raise.
    """
    fused = stage.retriever
    if not isinstance(fused, Fused):
        raise UsageError(f"the stage {stage.label} fuses nothing")
    queries = [searched_queries(search) for search in searches]
    flat = [query for of_search in queries for query in of_search]
    filters = stage.filters(searches)
    of_parts = [iter(search_filtered(source.retriever, flat, source.depth, filters)) for source in fused.sources]
    return [[[next(hits) for hits in of_parts] for _ in of_search] for of_search in queries]


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


def values_under(
    weights: Sequence[float], hits: Mapping[str, PartHits], settings: FuseSettings, qrels: Qrels, measure: str
) -> list[float]:
    """The measure of each topic of the qrels under one weighting; a topic without hits counts 0. See `mix_table`."""
    run = {
        topic: {hit.document: hit.score for hit in fused_by(of_parts, settings, weights)}
        for topic, of_parts in hits.items()
    }
    values = retrieval_values(run, qrels, [measure])[measure]
    return [values[topic] for topic in qrels]


def mix_table(
    hits: Mapping[str, PartHits],
    settings: FuseSettings,
    qrels: Qrels,
    *,
    measure: str = "nDCG@10",
    steps: int = TENTHS,
    progress: Progress = silent,
) -> tuple[list[tuple[float, ...]], Floats]:
    """The measure of every mix of a fusion on every topic of the qrels; a topic without hits counts 0.

    Args:
        hits: Topic -> the hits of the parts, see `part_hits`.
        settings: Of the `fuse` stage: method, constant and k.
        qrels: Topic -> document -> grade.

    Returns:
        The weights, in the order of `mixes`; and the values, shape (topics of the qrels, mixes).

    Raises:
        UsageError: for an unknown measure, or empty qrels.
    """
    parse_measure(measure)
    weightings = list(mixes(len(settings.of), steps))
    columns = []
    for number, weights in enumerate(weightings, 1):
        columns.append(values_under(weights, hits, settings, qrels, measure))
        progress(number, len(weightings), "mixes")
    table: Floats = np.array(columns).T
    return weightings, table


def measure_mixes(
    hits: Mapping[str, PartHits],
    settings: FuseSettings,
    qrels: Qrels,
    *,
    measure: str = "nDCG@10",
    steps: int = TENTHS,
    progress: Progress = silent,
) -> list[Mix]:
    """The mean measure of every mix of a fusion, with its interval. Arguments as for `mix_table`.

    Returns:
        The mixes in the order of `mixes`. The best of them was chosen on these topics: on others it is worse.

    Raises:
        UsageError: for another number of parts than two or three, an unknown measure, or empty qrels.
    """
    if (parts := len(settings.of)) not in PARTS:
        raise UsageError(f"the fusion has {parts} parts", fix="Mixes of two or three parts are measured.")
    weightings, table = mix_table(hits, settings, qrels, measure=measure, steps=steps, progress=progress)
    ends = bootstrap_intervals(table)
    return [
        Mix(weights, float(value), float(low), float(high), len(table))
        for weights, value, (low, high) in zip(weightings, table.mean(axis=0), ends, strict=True)
    ]
