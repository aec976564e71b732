"""Adapter stages that do not depend on each other: what they generate is generated in one batch of mixed adapters.

An intent and a rewrite, for example, both read the query as it was typed. A decoding step for two sequences takes about
as long as for one, so the shorter output costs little more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, NoReturn

from searchlora.errors import SearchloraError, concerns_all
from searchlora.inference.engine import Engine
from searchlora.inference.metered import Answer, Exchange, MeteredEngine, request_key
from searchlora.pipelines.stage_settings import Settings, StageSettings
from searchlora.pipelines.stages import AdapterStage, Stage
from searchlora.records import SearchContext


class SharedBatches:
    """The stages of a pipeline for one batch of searches; neighbours that are independent generate together.

    Args:
        stages: In their order.
        settings: Their settings; fewer, or none, where stages were built without.
    """

    def __init__(self, stages: Sequence[Stage], settings: Sequence[Settings]) -> None:
        self._stages = list(stages)
        self._ends = _groups(stages, settings)
        self._milliseconds = [0.0] * len(self._stages)

    def stage(self, index: int, searches: Sequence[SearchContext]) -> tuple[Stage, float]:
        """A stage, which knows the answers that were generated for it with those of an earlier one.

        Args:
            searches: What the stage is about to be applied to.

        Returns:
            The stage, and its share of the time that generating them took, in milliseconds.
        """
        if index in self._ends:
            self._generate(index, self._ends[index], searches)
        return self._stages[index], self._milliseconds[index]

    def _generate(self, start: int, end: int, searches: Sequence[SearchContext]) -> None:
        stages = [stage for stage in self._stages[start:end] if isinstance(stage, AdapterStage)]
        if len(searches) >= stages[0].engine.call_size:
            return  # each stage fills the batches of the engine by itself
        try:
            asked = [list(stage.generated(searches)) for stage in stages]
            if sum(map(bool, asked)) < 2:
                return
            began = time.perf_counter()
            completions = iter(stages[0].engine.generate([request for of_stage in asked for request in of_stage]))
        except SearchloraError as error:
            # One bad request fails in its own stage only. An engine that cannot be asked is not asked a second time.
            if concerns_all(error):
                for index, stage in zip(range(start, end), stages, strict=True):
                    self._stages[index] = replace(stage, engine=_Failed(stage.engine, error))
            return
        taken = 1000 * (time.perf_counter() - began)
        known = [{request_key(request): next(completions) for request in of_stage} for of_stage in asked]
        tokens = [sum(each.prompt_tokens + each.completion_tokens for each in of_stage.values()) for of_stage in known]
        for index, stage, of_stage, count in zip(range(start, end), stages, known, tokens, strict=True):
            answers: dict[bytes, Answer] = {**of_stage}
            self._stages[index] = replace(stage, engine=MeteredEngine(stage.engine, answers, ahead=of_stage.keys()))
            self._milliseconds[index] = taken * count / sum(tokens)


class _Failed(MeteredEngine):
    """An engine that could not be asked: each stage that shared the call fails by its error, as its settings say."""

    def __init__(self, engine: Engine, error: SearchloraError) -> None:
        super().__init__(engine)
        self._error = error

    def heard_by(self, listener: Callable[[Exchange], None]) -> MeteredEngine:
        del listener  # there is no answer to hear
        return self

    def _answered(self, *_: Any) -> NoReturn:
        raise self._error


def _groups(stages: Sequence[Stage], settings: Sequence[Settings]) -> dict[int, int]:
    """Index of a stage -> end of the stages from there on of which none reads what an earlier one of them writes."""
    groups: dict[int, int] = {}
    start = 0
    group: list[AdapterStage] = []
    for index, (stage, policy) in enumerate(zip_longest(stages, settings)):
        if not (isinstance(stage, AdapterStage) and _may_share(stage, policy)):
            group = []
            continue
        written = {each.task.writes for each in group}
        if group and stage.engine is group[0].engine and written.isdisjoint(stage.task.reads.values()):
            groups[start] = index + 1
        else:
            start, group = index, []
        group.append(stage)
    return groups


def _may_share(stage: AdapterStage, policy: Settings | None) -> bool:
    """Whether what a stage reads and writes is known, its time need not be told apart, and it looks up no answers."""
    timed = isinstance(policy, StageSettings) and policy.budget_s is not None
    return stage.task.reads_as_declared and not timed and not isinstance(stage.engine, MeteredEngine)
