"""Execution of one stage on searches: its time budget, what happens when it fails, and its trace."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

from searchlora.errors import PipelineError, SearchloraError, concerns_all
from searchlora.inference.engine import Engine
from searchlora.inference.metered import Exchange, MeteredEngine
from searchlora.pipelines.results import INVALID, written
from searchlora.pipelines.stages.deciding import UNDECIDED
from searchlora.pipelines.stages.explanation import Describe
from searchlora.pipelines.stages.stage import FAILED_PARTS, FUSED_QUERIES, Stage, StageSettings
from searchlora.records import SearchContext
from searchlora.time_limit import within_budget

#: Fields that stages write, and a query cannot bring.
WRITTEN = frozenset({"outputs", "skipped", FAILED_PARTS, FUSED_QUERIES, INVALID, UNDECIDED})

#: Takes the rows of a trace, one for each search and stage.
Trace: TypeAlias = Callable[[Mapping[str, Any]], None]


def execute_stage(
    stage: Stage,
    settings: StageSettings | None,
    searches: Sequence[SearchContext],
    number: int,
    trace: Trace | None = None,
    earlier: float = 0.0,
    describe: Describe = str,
) -> list[SearchContext]:
    """Apply a stage to searches, as its settings say about failures and time.

    A search for which the stage is skipped keeps its fields, and gets the reason as `skipped[label]`. A stage that
    retrieves leaves no hits then, unless an earlier one did, and a `passages` stage no passages.
    """
    if trace is None:
        return _applied(stage, settings, searches, describe)
    exchanges: list[Exchange] = []

    def heard(engine: Engine) -> Engine:
        metered = engine if isinstance(engine, MeteredEngine) else MeteredEngine(engine)
        return metered.heard_by(exchanges.append)

    started = time.perf_counter()
    done = _applied(stage.with_engines(heard), settings, searches, describe)
    taken = earlier + 1000 * (time.perf_counter() - started)
    of_prompt: dict[str, list[Exchange]] = {}
    for exchange in exchanges:
        of_prompt.setdefault(repr(exchange.request.messages), []).append(exchange)
    for before, after in zip(searches, done, strict=True):
        row = trace_row(stage, settings, before, after, of_prompt)
        trace({"id": row.pop("id"), "stage": number, **row, "milliseconds": taken / len(searches)})
    return done


def _applied(
    stage: Stage, settings: StageSettings | None, searches: Sequence[SearchContext], describe: Describe
) -> list[SearchContext]:
    policy = settings or StageSettings()
    try:
        if policy.budget_s is None:
            done = stage(searches)
        else:
            done = within_budget(lambda: stage(searches), policy.budget_s, len(searches), f"stage {stage.label}")
        _check_result(stage, searches, done)
        return [_without_failed_parts(search, describe) for search in done]
    except SearchloraError as error:
        if policy.on_failure == "raise":
            error.stage = stage.label
            raise
        if len(searches) == 1 or concerns_all(error):
            reason = describe(error)
            return [_skipped(stage, search, reason) if stage.takes(search) else search for search in searches]
    half = len(searches) // 2
    halves = searches[:half], searches[half:]
    return [search for part in halves for search in _applied(stage, settings, part, describe)]


def _check_result(stage: Stage, before: Sequence[SearchContext], after: Sequence[SearchContext]) -> None:
    """Refuse what no stage may return.

    Results are shown in the order of the list, and a run is ordered by score, in single precision as `trec.ranked`
    does it: the two must not differ.
    """
    if len(after) != len(before):
        raise PipelineError(f"returned {len(after)} searches for {len(before)}", where=f"stage {stage.label}")
    for search, own in zip(before, after, strict=True):
        hits = own.get("hits", ())
        if hits is not search.get("hits") and any(a < b for a, b in pairwise(array("f", (hit.score for hit in hits)))):
            raise PipelineError(
                f"returned hits for the search '{own.get('id')}' that are not in the order of their scores",
                where=f"stage {stage.label}",
                fix="Sort the hits by descending score, and give hits in another order other scores.",
            )


def _without_failed_parts(search: SearchContext, describe: Describe) -> SearchContext:
    """The search after a stage, with the parts of a fusion that failed among what was skipped."""
    if FAILED_PARTS not in search:
        return search
    failed = {label: describe(error) for label, error in search[FAILED_PARTS].items()}
    rest = {name: value for name, value in search.items() if name != FAILED_PARTS}
    return {**rest, "skipped": {**search.get("skipped", {}), **failed}}


def _skipped(stage: Stage, search: SearchContext, reason: str) -> SearchContext:
    return {**search, **stage.if_skipped(search), "skipped": {**search.get("skipped", {}), stage.label: reason}}


# Traces


def trace_row(
    stage: Stage,
    settings: StageSettings | None,
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
        `invalid: REASON`, `skipped: REASON`, of a part of a fusion `skipped: PART: REASON`, `undecided` if the answer
        was not acted on, and `cached` if no answer was computed.
    """
    row: dict[str, Any] = {
        "id": str(before["id"]),
        "kind": settings.kind if settings is not None else type(stage).__name__,
        "label": stage.label,
        "input": dict(stage.inputs(before)),
    }
    more, flags = stage.trace(before, after, exchanges)
    output = dict(written(before, after))
    skipped = {label: why for label, why in output.pop("skipped", {}).items() if label not in before.get("skipped", {})}
    if stage.label in skipped:
        flags = [f"skipped: {skipped[stage.label]}"]
    else:
        flags += [f"skipped: {label}: {reason}" for label, reason in skipped.items()]
    return {**row, **more, "output": output, "flags": flags}
