"""Execution of one stage on searches: its time budget, what happens when it fails, and its trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from searchlora.errors import SearchloraError, concerns_all
from searchlora.inference.engine import ChoiceScores
from searchlora.inference.metered import Exchange, MeteredEngine
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.conditions import paths_of, values_at
from searchlora.pipelines.results import plain, written
from searchlora.pipelines.stage_settings import (
    HitsSettings,
    PassagesSettings,
    RetrieveSettings,
    Settings,
    StageSettings,
    stage_kind,
)
from searchlora.pipelines.stages import (
    FAILED_PARTS,
    FUSED_QUERIES,
    AdapterStage,
    HitsStage,
    MatchStage,
    PassagesStage,
    RetrieveStage,
    SimilarityStage,
    Stage,
    has_own_hits,
)
from searchlora.prompts import messages
from searchlora.records import Record, SearchContext
from searchlora.time_limit import within_budget

#: The message of an error.
Describe: TypeAlias = Callable[[SearchloraError], str]

#: Takes the rows of a trace, one for each search and stage.
Trace: TypeAlias = Callable[[Mapping[str, Any]], None]


def execute_stage(
    stage: Stage,
    settings: Settings | None,
    searches: Sequence[SearchContext],
    number: int,
    trace: Trace | None = None,
    earlier: float = 0.0,
    describe: Describe = str,
) -> list[SearchContext]:
    """Apply a stage to searches, as its settings say about failures and time.

    A search for which the stage is skipped keeps its fields, and gets the reason as `skipped[label]`. A stage that
    retrieves leaves no hits then, unless an earlier one did, and a `passages` stage no passages.

    Args:
        settings: None: the stage may take any time, and an error is raised.
        number: Number of the stage in its pipeline, from 1, for the trace.
        trace: Gets a row for each search, see `trace_row`. None: nothing is kept.
        earlier: Milliseconds that were spent for the stage before, see `SharedBatches`.
        describe: The reason why a stage is skipped, of the error. A server leaves paths and addresses out.

    Raises:
        DeadlineExceeded: if the stage takes longer than its budget, unless failures are skipped.
        SearchloraError: whatever the stage raises, unless failures are skipped.
    """
    if trace is None:
        return _applied(stage, settings, searches, describe)
    exchanges: list[Exchange] = []
    watched = stage
    if isinstance(stage, AdapterStage):
        engine = stage.engine if isinstance(stage.engine, MeteredEngine) else MeteredEngine(stage.engine)
        watched = replace(stage, engine=engine.heard_by(exchanges.append))
    started = time.perf_counter()
    done = _applied(watched, settings, searches, describe)
    taken = earlier + 1000 * (time.perf_counter() - started)
    of_prompt: dict[str, list[Exchange]] = {}
    for exchange in exchanges:
        of_prompt.setdefault(repr(exchange.request.messages), []).append(exchange)
    for before, after in zip(searches, done, strict=True):
        row = trace_row(stage, settings, before, after, of_prompt)
        trace({"id": row.pop("id"), "stage": number, **row, "milliseconds": taken / len(searches)})
    return done


def _applied(
    stage: Stage, settings: Settings | None, searches: Sequence[SearchContext], describe: Describe
) -> list[SearchContext]:
    policy = settings if isinstance(settings, StageSettings) else StageSettings()
    try:
        if policy.budget_s is None:
            done = stage(searches)
        else:
            done = within_budget(lambda: stage(searches), policy.budget_s, len(searches), f"stage {stage.label}")
        return [_without_failed_parts(search, describe) for search in done]
    except SearchloraError as error:
        if policy.on_failure == "raise":
            raise
        if len(searches) == 1 or concerns_all(error):
            return [_skipped(stage, settings, search, describe(error)) for search in searches]
    half = len(searches) // 2
    halves = searches[:half], searches[half:]
    return [search for part in halves for search in _applied(stage, settings, part, describe)]


def _without_failed_parts(search: SearchContext, describe: Describe) -> SearchContext:
    """The search after a stage, with the parts of a fusion that failed among what was skipped."""
    if FAILED_PARTS not in search:
        return search
    failed = {label: describe(error) for label, error in search[FAILED_PARTS].items()}
    rest = {name: value for name, value in search.items() if name != FAILED_PARTS}
    return {**rest, "skipped": {**search.get("skipped", {}), **failed}}


def _skipped(stage: Stage, settings: Settings | None, search: SearchContext, reason: str) -> SearchContext:
    nothing: dict[str, Any] = {}
    if isinstance(settings, RetrieveSettings | HitsSettings):
        nothing["hits"] = list(search["hits"]) if has_own_hits(search) else []
    elif isinstance(settings, PassagesSettings):
        nothing["passages"] = []
    return {**search, **nothing, "skipped": {**search.get("skipped", {}), stage.label: reason}}


# Traces


def trace_row(
    stage: Stage,
    settings: Settings | None,
    before: SearchContext,
    after: SearchContext,
    exchanges: Mapping[str, Sequence[Exchange]],
) -> dict[str, Any]:
    """What a stage did with one search, as a JSON object.

    Args:
        before, after: The search before and after the stage.
        exchanges: Requests of the stage and their answers, by the `repr` of their messages.

    Returns:
        `id` of the search; `kind` of the stage; its `label`, with the pinned version; `adapter`, the version that
        generated, null for a bare base, for adapter stages only; `input`, the fields that the stage reads; `requests`
        of an adapter stage: prompt, answer and tokens of each; `output`, the fields that it wrote, in the form of
        `pipelines.results.result`; `tokens`, if there are any, those of cached answers included; and `flags`:
        `invalid: REASON`, `skipped: REASON`, of a part of a fusion `skipped: PART: REASON`, and `cached` if no answer
        was computed.
    """
    row: dict[str, Any] = {
        "id": str(before["id"]),
        "kind": stage_kind(settings) if settings is not None else type(stage).__name__,
        "label": stage.label,
        "input": dict(_read(stage, before)),
    }
    flags = []
    if isinstance(stage, AdapterStage):
        asked = [messages(stage.task, record) for record in _records(stage, before)]
        own = [exchange for prompt in dict.fromkeys(map(repr, asked)) for exchange in exchanges.get(prompt, ())]
        distinct = list({(repr(each.request), each.choices): each for each in own}.values())
        row["adapter"] = stage.adapter
        row["requests"] = [_request(exchange) for exchange in distinct]
        row["tokens"] = {
            "prompt": sum(each.answer.prompt_tokens for each in distinct),
            "output": sum(_output_tokens(each) for each in distinct),
        }
        if distinct and all(exchange.known for exchange in distinct):
            flags.append("cached")
        outputs = after.get("outputs", {}).get(stage.task.name, ()) if after is not before else ()
        reasons = dict.fromkeys(output.reason for output in outputs if isinstance(output, InvalidOutput))
        flags += [f"invalid: {reason}" for reason in reasons]
    output = dict(written(before, after))
    skipped = {label: why for label, why in output.pop("skipped", {}).items() if label not in before.get("skipped", {})}
    row["output"] = output
    if stage.label in skipped:
        row["flags"] = [f"skipped: {skipped[stage.label]}"]
    else:
        row["flags"] = [*flags, *(f"skipped: {label}: {reason}" for label, reason in skipped.items())]
    return row


def _read(stage: Stage, search: SearchContext) -> Iterator[tuple[str, Any]]:
    """The fields that a stage reads; of passages and hits the ids."""
    if isinstance(stage, AdapterStage):
        yield "records", plain(_records(stage, search))
    elif isinstance(stage, RetrieveStage | SimilarityStage):
        yield "query", search["query"]
    if isinstance(stage, RetrieveStage):
        if FUSED_QUERIES in search:
            yield FUSED_QUERIES, list(search[FUSED_QUERIES])
        for path in paths_of(stage.filter_by):
            yield path, sorted(values_at(search, path))
    if isinstance(stage, SimilarityStage):
        yield "passages", [passage["id"] for passage in search.get("passages", ())]
    if isinstance(stage, PassagesStage):
        yield "hits", [hit.document for hit in search.get("hits", ())][: stage.k]
    if isinstance(stage, MatchStage):
        for path in stage.paths:
            yield path, sorted(values_at(search, path))
    if isinstance(stage, HitsStage) and stage.run is None:
        yield "hits", plain(search.get("hits"))


def _records(stage: AdapterStage, search: SearchContext) -> list[Record]:
    """The records of a stage; none where the search lacks what they need, so that the stage was skipped."""
    try:
        return list(stage.task.records_from(search))
    except SearchloraError:
        return []


def _request(exchange: Exchange) -> dict[str, Any]:
    request, answer = exchange.request, exchange.answer
    row: dict[str, Any] = {"prompt": [dict(message) for message in request.messages]}
    if request.answer_prefix:
        row["answer_prefix"] = request.answer_prefix
    if isinstance(answer, ChoiceScores):
        row["log_probabilities"] = dict(zip(exchange.choices, answer.log_probabilities, strict=True))
    else:
        row |= {"text": answer.text, "finish": answer.finish}
    tokens = {"prompt": answer.prompt_tokens, "output": _output_tokens(exchange)}
    return {**row, "tokens": tokens, **({"cached": True} if exchange.known else {})}


def _output_tokens(exchange: Exchange) -> int:
    answer = exchange.answer
    return answer.scored_tokens if isinstance(answer, ChoiceScores) else answer.completion_tokens
