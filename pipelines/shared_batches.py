"""Adapter stages that do not depend on each other: their requests are answered in one batch of mixed adapters.

An intent and a rewrite, for example, both read the query as it was typed. A decoding step for two sequences takes about
as long as for one, so the shorter output costs little more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, NoReturn, TypeAlias

from searchlora.errors import SearchloraError, concerns_all
from searchlora.inference.engine import Completion, Engine, Request
from searchlora.inference.metered import Answer, Exchange, MeteredEngine, request_key
from searchlora.pipelines.stages.adapter import PRUNE_MARGIN, AdapterStage
from searchlora.pipelines.stages.stage import Stage, StageSettings
from searchlora.records import SearchContext

#: A request, and its choices if they are scored.
_Asked: TypeAlias = tuple[Request, tuple[str, ...]]


class SharedBatches:
    """The stages of a pipeline for one batch of searches; neighbours that are independent share calls of the engine."""

    def __init__(self, stages: Sequence[Stage], settings: Sequence[StageSettings]) -> None:
        self._stages = list(stages)
        self._ends = _groups(stages, settings)
        self._milliseconds = [0.0] * len(self._stages)

    def stage(self, index: int, searches: Sequence[SearchContext]) -> tuple[Stage, float]:
        """A stage, which knows the answers that were computed for it with those of an earlier one.

        Returns the stage, and its share of the time that computing them took, in milliseconds.
        """
        if index in self._ends:
            self._ask(index, self._ends[index], searches)
        return self._stages[index], self._milliseconds[index]

    def _ask(self, start: int, end: int, searches: Sequence[SearchContext]) -> None:
        stages = [stage for stage in self._stages[start:end] if isinstance(stage, AdapterStage)]
        if len(searches) >= stages[0].engine.call_size:
            return  # each stage fills the batches of the engine by itself
        known: list[dict[bytes, Answer]] = [{} for _ in stages]
        try:
            asked = [stage.requests(searches) for stage in stages]
            for scored in (True, False):
                of_kind = [[request for request in of_stage if bool(request[1]) is scored] for of_stage in asked]
                if sum(map(bool, of_kind)) > 1:
                    self._answer(start, stages[0].engine, of_kind, known)
        except SearchloraError as error:
            # One bad request fails in its own stage only. An engine that cannot be asked is not asked a second time.
            if concerns_all(error):
                for index, stage in zip(range(start, end), stages, strict=True):
                    self._stages[index] = replace(stage, engine=_Failed(stage.engine, error))
                return
        for index, stage, answers in zip(range(start, end), stages, known, strict=True):
            if answers:
                engine = MeteredEngine(stage.engine, answers, ahead=frozenset(answers))
                self._stages[index] = replace(stage, engine=engine)

    def _answer(
        self, start: int, engine: Engine, asked: Sequence[Sequence[_Asked]], known: Sequence[dict[bytes, Answer]]
    ) -> None:
        """Ask for all stages at once; keep the answers of each, and its share of the time, by tokens."""
        began = time.perf_counter()
        answers: Iterator[Answer] = iter(_answers(engine, [request for of_stage in asked for request in of_stage]))
        taken = 1000 * (time.perf_counter() - began)
        by_stage = [{_key(*request): next(answers) for request in of_stage} for of_stage in asked]
        tokens = [sum(map(_tokens, of_stage.values())) for of_stage in by_stage]
        for number, (of_stage, count) in enumerate(zip(by_stage, tokens, strict=True)):
            known[number].update(of_stage)
            self._milliseconds[start + number] += taken * count / sum(tokens)


def _answers(engine: Engine, asked: Sequence[_Asked]) -> Sequence[Answer]:
    requests, choices = [request for request, _ in asked], [scored for _, scored in asked]
    if not any(choices):
        return engine.generate(requests)
    return engine.score(requests, choices, prune_margin=PRUNE_MARGIN)


def _key(request: Request, choices: tuple[str, ...]) -> bytes:
    """The key by which the engine of a stage looks the answer up, see `MeteredEngine`."""
    return request_key(request, choices, PRUNE_MARGIN) if choices else request_key(request)


def _tokens(answer: Answer) -> int:
    return answer.prompt_tokens + (answer.completion_tokens if isinstance(answer, Completion) else answer.scored_tokens)


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


def _groups(stages: Sequence[Stage], settings: Sequence[StageSettings]) -> dict[int, int]:
    """Index of a stage -> end of the stages from there on of which none reads what an earlier one of them writes."""
    groups: dict[int, int] = {}
    start = 0
    group: list[AdapterStage] = []
    for index, (stage, policy) in enumerate(zip_longest(stages, settings)):
        if not (isinstance(stage, AdapterStage) and _may_share(stage, policy)):
            group = []
            continue
        written = {earlier.task.writes for earlier in group}
        if group and stage.engine is group[0].engine and written.isdisjoint(stage.task.reads.values()):
            groups[start] = index + 1
        else:
            start, group = index, []
        group.append(stage)
    return groups


def _may_share(stage: AdapterStage, policy: StageSettings | None) -> bool:
    """Whether a stage can be asked with others: what it reads is known, it is not timed, and looks up no answers."""
    timed = policy is not None and policy.budget_s is not None
    return (
        stage.task.reads_as_declared
        and not (timed or stage.only_undecided)
        and not isinstance(stage.engine, MeteredEngine)
    )
