"""A pipeline as a system that measures the milliseconds and tokens of each stage, and of each part of a fusion."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from searchlora.inference.engine import Engine
from searchlora.inference.metered import Answer, MeteredEngine
from searchlora.pipelines.execution import execute_stage
from searchlora.pipelines.slots import Place, place_key
from searchlora.pipelines.stages.stage import StageSettings
from searchlora.progress import Progress, silent
from searchlora.records import Hit, Record
from searchlora.retrieval.field_filter import FieldFilter
from searchlora.retrieval.retriever import Retriever, search_filtered
from searchlora.systems.pipeline import PipelineSystem, outputs_of, searches_of
from searchlora.systems.system import Outputs

_MILLISECONDS = "ms per query"


class Answers:
    """Answers of engines to requests of earlier pipelines, which are not computed again."""

    def __init__(self) -> None:
        self._of_engine: dict[int, tuple[Engine, dict[bytes, Answer]]] = {}

    def metered(self, engine: Engine) -> MeteredEngine:
        """The engine, which counts tokens and answers what was asked before from memory."""
        _, answers = self._of_engine.setdefault(id(engine), (engine, {}))
        return MeteredEngine(engine, answers)


@dataclass
class TimedRetriever:
    """A retriever that measures its time."""

    retriever: Retriever
    seconds: float = 0.0

    def search(
        self, queries: Sequence[str], k: int, *, filters: Sequence[FieldFilter] | None = None
    ) -> list[list[Hit]]:
        """See `Retriever.search`."""
        started = time.perf_counter()
        hits = search_filtered(self.retriever, queries, k, filters)
        self.seconds += time.perf_counter() - started
        return hits


class CostedPipeline(PipelineSystem):
    """A pipeline whose stages are executed and measured one by one.

    A stage that repeats a request of an earlier pipeline has no milliseconds; its tokens are counted.
    """

    batch_size = None  # what a later batch repeats is not what an earlier pipeline had asked

    def __init__(self, *arguments: Any, answers: Answers, **inputs: Any) -> None:
        super().__init__(*arguments, **inputs)
        self._answers = answers

    def run(self, rows: Sequence[Record], progress: Progress = silent) -> Outputs:
        pipeline, done = self.pipeline, searches_of(rows, self._topics)
        parts: dict[str, dict[str, float]] = {}
        for index, (stage, settings) in enumerate(zip(pipeline.stages, pipeline.settings, strict=True)):
            progress(index * len(rows), len(pipeline.stages) * len(rows), stage.label)
            engines: list[MeteredEngine] = []
            retrievers: list[TimedRetriever] = []

            def metered(engine: Engine, engines: list[MeteredEngine] = engines) -> Engine:
                engines.append(self._answers.metered(engine))
                return engines[-1]

            def timed(retriever: Retriever, retrievers: list[TimedRetriever] = retrievers) -> Retriever:
                retrievers.append(TimedRetriever(retriever))
                return retrievers[-1]

            measured = stage.with_engines(metered).with_retriever(timed)
            batches = [done[start : start + pipeline.batch_size] for start in range(0, len(done), pipeline.batch_size)]
            started = time.perf_counter()
            done = [one for batch in batches for one in execute_stage(measured, settings, batch, index + 1)]
            seconds = time.perf_counter() - started
            if settings.parts:
                for place, retriever in zip(_leaf_places(settings, (index,)), retrievers, strict=True):
                    parts[place_key(place)] = {_MILLISECONDS: 1000 * retriever.seconds / len(rows)}
            parts[place_key((index,))] = _stage_costs(seconds, engines, len(rows))
        stages = [parts[place_key((index,))] for index in range(len(pipeline.stages))]
        names = dict.fromkeys(name for costs in stages for name in costs)
        if not all(_MILLISECONDS in costs for costs in stages):
            names.pop(_MILLISECONDS, None)
        total = {name: sum(costs.get(name, 0.0) for costs in stages) for name in names}
        return outputs_of(done, total, parts)


def _stage_costs(seconds: float, engines: Sequence[MeteredEngine], rows: int) -> dict[str, float]:
    costs = {} if any(engine.reused for engine in engines) else {_MILLISECONDS: 1000 * seconds / rows}
    if tokens := sum(engine.prompt_tokens for engine in engines):
        costs["prompt tokens per query"] = tokens / rows
        costs["output tokens per query"] = sum(engine.output_tokens for engine in engines) / rows
    return costs


def _leaf_places(settings: StageSettings, place: Place) -> Iterator[Place]:
    if not settings.parts:
        yield place
    for number, part in enumerate(settings.parts):
        yield from _leaf_places(part, (*place, number))
