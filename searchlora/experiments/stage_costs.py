"""Execution of pipelines that have stages in common: each stage once, with its milliseconds and tokens.

A stage whose settings and whose earlier stages are equal in two pipelines is executed once. Where only the stages
before differ, equal requests to an engine and equal calls of a retriever are answered once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from searchlora.adapters.store import Store
from searchlora.inference.engine import Engine
from searchlora.inference.metered import Answer, MeteredEngine
from searchlora.pipelines.corpus import IndexedCorpus
from searchlora.pipelines.execution import execute_stage
from searchlora.pipelines.pipeline import Pipeline, build_pipeline
from searchlora.pipelines.stages.stage import Stage, StageSettings, leaves, needs_of
from searchlora.progress import Progress, Steps, no_progress
from searchlora.records import Document, Hit, SearchContext
from searchlora.retrieval.field_filter import FieldFilter, FieldTest
from searchlora.retrieval.retriever import Retriever, search_filtered

#: Where a stage stands in a pipeline: its index, followed by its index under each `fuse` that it stands under.
Place: TypeAlias = tuple[int, ...]

#: Queries, k and filters of a call of a retriever.
_Call: TypeAlias = tuple[tuple[str, ...], int, tuple[tuple[tuple[str, FieldTest], ...], ...]]


@dataclass(frozen=True)
class Cost:
    """What a stage took over a number of searches.

    Attributes:
        seconds: None if a part of its work was not repeated, because another pipeline had done the same.
        prompt_tokens, output_tokens: Tokens that an LLM read and that it generated or scored, those of work that was
            not repeated included. Encoders are not counted.
    """

    seconds: float | None = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        known = self.seconds is not None and other.seconds is not None
        return Cost(
            (self.seconds or 0.0) + (other.seconds or 0.0) if known else None,
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
        )

    def per(self, searches: int) -> dict[str, float]:
        """Mean costs of a search by name; milliseconds only if they were measured, tokens only if there are any."""
        costs = {} if self.seconds is None else {"ms per query": 1000 * self.seconds / searches}
        if self.prompt_tokens:
            costs["prompt tokens per query"] = self.prompt_tokens / searches
            costs["output tokens per query"] = self.output_tokens / searches
        return costs


class MeteredRetriever:
    """A retriever that measures its time and repeats no call.

    Args:
        hits: Queries, k and filters of a call -> its hits, of earlier calls of the same retriever; new ones are added.
            Whole calls are compared, since the vector of a query may depend on those beside it in its last bits.

    Attributes:
        seconds: Time of all calls that were not made before.
        reused: Number of calls that were made before.
    """

    def __init__(self, retriever: Retriever, hits: dict[_Call, list[list[Hit]]]) -> None:
        self.retriever = retriever
        self.seconds, self.reused = 0.0, 0
        self._hits = hits

    def search(
        self, queries: Sequence[str], k: int, *, filters: Sequence[FieldFilter] | None = None
    ) -> list[list[Hit]]:
        """See `Retriever.search`."""
        key = (tuple(queries), k, tuple(tuple(filter.items()) for filter in filters or ()))
        if key in self._hits:
            self.reused += 1
        else:
            started = time.perf_counter()
            self._hits[key] = search_filtered(self.retriever, queries, k, filters)
            self.seconds += time.perf_counter() - started
        return self._hits[key]


class SharedStages:
    """The stages of several pipelines, built once and executed once where they have the same stages before them.

    Stages are built when the first one is executed: those of the pipelines that are not finished.

    Args:
        pipelines: The settings of their stages, with pinned adapters. What none of the later ones needs is forgotten.
        documents: Opens the documents; called if a stage needs them.
    """

    def __init__(
        self,
        pipelines: Iterable[Sequence[StageSettings]],
        *,
        store: Store,
        documents: Callable[[], Sequence[Document] | IndexedCorpus],
        tasks: str | Path | None = None,
        steps: Steps = no_progress,
    ) -> None:
        self._pending = [tuple(stages) for stages in pipelines]
        self._store, self._documents, self._tasks, self._steps = store, documents, tasks, steps
        self._done: dict[tuple[str, ...], tuple[list[SearchContext], Mapping[Place, Cost]]] = {}
        self._answers: dict[int, dict[bytes, Answer]] = {}
        self._hits: dict[int, dict[_Call, list[list[Hit]]]] = {}

    @cached_property
    def _built(self) -> dict[str, Stage]:
        """The built stages of the pending pipelines by their identity. Raises as `build_pipeline`."""
        needed_once = {_identity(leaf): leaf for stages in self._pending for leaf in leaves(stages)}
        needed = any(needs_of(stages).corpus for stages in self._pending)
        built = build_pipeline(
            "stages",
            list(needed_once.values()),
            store=self._store,
            documents=self._documents() if needed else (),
            tasks=self._tasks,
            steps=self._steps,
        )
        return dict(zip(needed_once, built.stages, strict=True))

    def pipeline(self, name: str, stages: Sequence[StageSettings]) -> Pipeline:
        """A pipeline of these stages."""
        parts = [self._stage(stage, lambda _, leaf: leaf, ()) for stage in stages]
        return Pipeline(name, parts, tuple(stages))

    def execute(
        self, stages: Sequence[StageSettings], searches: Sequence[SearchContext], progress: Progress
    ) -> tuple[list[SearchContext], Mapping[Place, Cost]]:
        """Execute stages on searches, which are the same in every call.

        Returns:
            The searches with what the stages wrote, and the cost of each stage and of each part of a `fuse`.

        Raises:
            As `Pipeline.execute`: where `on_failure` is `skip`, a search goes on without the stage.
        """
        path = tuple(map(_identity, stages))
        known = max(length for length in range(len(path) + 1) if not length or path[:length] in self._done)
        done, costs = self._done[path[:known]] if known else (list(searches), {})
        total = len(stages) * len(searches)
        progress(known * len(searches), total)
        for index in range(known, len(stages)):
            note = f"stage {index + 1} of {len(stages)}: {stages[index].kind}"

            def executed(count: int, before: int = index * len(searches), note: str = note) -> None:
                progress(before + count, total, note)

            done, own = self._executed(stages[index], index, done, executed)
            costs = {**costs, **own}
            self._done[path[: index + 1]] = done, costs
        return done, costs

    def finish(self, stages: Sequence[StageSettings]) -> None:
        """Forget what only this pipeline, executed or not, needs; call it once for each."""
        self._pending.remove(tuple(stages))
        paths = [tuple(map(_identity, pending)) for pending in self._pending]
        needed = {path[:length] for path in paths for length in range(1, len(path) + 1)}
        self._done = {path: done for path, done in self._done.items() if path in needed}

    def _executed(
        self, settings: StageSettings, index: int, searches: Sequence[SearchContext], progress: Callable[[int], None]
    ) -> tuple[list[SearchContext], dict[Place, Cost]]:
        meters: dict[Place, MeteredEngine | MeteredRetriever] = {}

        def metered(place: Place, leaf: Stage) -> Stage:
            def of_engine(engine: Engine) -> MeteredEngine:
                meters[place] = meter = MeteredEngine(engine, self._answers.setdefault(id(engine), {}))
                return meter

            def of_retriever(retriever: Retriever) -> MeteredRetriever:
                meters[place] = meter = MeteredRetriever(retriever, self._hits.setdefault(id(retriever), {}))
                return meter

            return leaf.with_engines(of_engine).with_retriever(of_retriever)

        stage = self._stage(settings, metered, (index,))
        started = time.perf_counter()
        done: list[SearchContext] = []
        size = Pipeline(stage.label, [stage]).batch_size
        for start in range(0, len(searches), size):
            done += execute_stage(stage, settings, searches[start : start + size], index + 1)
            progress(len(done))
        taken = time.perf_counter() - started
        reused = any(meter.reused for meter in meters.values())
        costs = {
            place: Cost(None if meter.reused else meter.seconds)
            for place, meter in meters.items()
            if isinstance(meter, MeteredRetriever)
        }
        engine = meters.get((index,))
        tokens = (engine.prompt_tokens, engine.output_tokens) if isinstance(engine, MeteredEngine) else (0, 0)
        return done, {**costs, (index,): Cost(None if reused else taken, *tokens)}

    def _stage(self, settings: StageSettings, change: Callable[[Place, Stage], Stage], place: Place) -> Stage:
        """The built stage, with each leaf changed."""
        if not settings.parts:
            return change(place, self._built[_identity(settings)])
        parts = [self._stage(inner, change, (*place, index)) for index, inner in enumerate(settings.parts)]
        return settings.of_parts(parts)


def _identity(settings: StageSettings) -> str:
    return f"{settings.kind} {settings.model_dump_json()}"
