"""`/v1/adapters`: the stored adapters with lineage, measures, decisions, aliases, and the pipelines that use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from searchlora.adapters.aliases import AliasMove, Decision
from searchlora.adapters.ancestry import ancestors
from searchlora.adapters.evaluations import EvaluationRecord
from searchlora.adapters.listing import Entry
from searchlora.adapters.references import parse_reference
from searchlora.errors import SearchloraError
from searchlora.models.resolve import public_name
from searchlora.server.api.errors import without_folders
from searchlora.server.api.response_schemas import AdapterEntry, ListOf, VersionEntry
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.service import Service

router = api_router()


@router.get("/v1/adapters", summary="List the adapters")
def adapters(http: ApiRequest) -> ListOf[AdapterEntry]:
    """The adapters of the store with lineage, measures, decisions and aliases."""
    return {"object": "list", "data": _adapters(http.service)}


def _adapters(service: Service) -> list[AdapterEntry]:
    service.check_store()
    by_name: dict[str, list[Entry]] = {}
    for entry in service.store.list():
        by_name.setdefault(entry.name, []).append(entry)
    return [_described(service, name, entries) for name, entries in by_name.items()]


def _described(service: Service, name: str, entries: Sequence[Entry]) -> AdapterEntry:
    versions = [entry for entry in entries if entry.version]
    try:
        evaluations, history = service.store.evaluations(name), service.store.history(name)
        problem = next((entry.problem for entry in entries if not entry.version), None)
    except SearchloraError as error:  # a damaged file of this name; the others are shown
        evaluations, history, problem = (), (), error.what
    newest = next((entry.summary for entry in reversed(versions) if entry.summary is not None), None)
    return {
        "id": name,
        "object": "adapter",
        "task": newest.task if newest is not None else None,
        "base": public_name(newest.base.name) if newest is not None else None,
        "problem": without_folders(problem) if problem is not None else None,
        "aliases": {
            alias: {"version": entry.version, "forced": alias in entry.forced, "by_hand": alias in entry.by_hand}
            for entry in versions
            for alias in entry.aliases
        },
        "versions": [_version(service, entry, evaluations) for entry in reversed(versions)],
        "history": [_move(move) for move in reversed(history)],
        "pipelines": _pipelines(service, name),
    }


def _version(service: Service, entry: Entry, evaluations: Sequence[EvaluationRecord]) -> VersionEntry:
    summary = entry.summary
    shown: VersionEntry = {
        "version": entry.version,
        "reference": entry.reference,
        "problem": without_folders(entry.problem) if entry.problem is not None else None,
        "created": None,
        "method": None,
        "lineage": [],
        "data": None,
        "metrics": {},
        "evaluations": [],
    }
    if summary is None:
        return shown
    metrics = summary.metrics.items()
    return {
        **shown,
        "created": summary.created,
        "method": summary.method,
        "lineage": list(ancestors(service.store, entry.reference)),
        "data": summary.dataset,
        "metrics": {key: each for key, each in metrics if isinstance(each, int | float) and not isinstance(each, bool)},
        "evaluations": [
            record.model_dump(include={"time", "data", "split", "measure", "value", "low", "high", "n", "loses_to"})
            for record in reversed(evaluations)
            if record.version == entry.version
        ],
    }


def _move(move: AliasMove) -> dict[str, Any]:
    return {
        "alias": move.alias,
        "time": move.time,
        "from": move.source,
        "to": move.target,
        "who": move.who,
        "reason": move.reason,
        "rollback": move.rollback,
        "decision": _decision(move.decision) if move.decision is not None else None,
    }


def _decision(decision: Decision) -> dict[str, Any]:
    """A decision with its rules, and the figures of the candidate that it rests on."""
    rows = decision.evidence.get("rows", ())
    return {
        "version": decision.version,
        "outcome": decision.outcome,
        "rules": [rule.model_dump(include={"rule", "passed", "finding"}) for rule in decision.rules],
        "n": decision.evidence.get("n"),
        "split": decision.evidence.get("split"),
        "judgments": decision.evidence.get("judgments"),
        "figures": [
            {key: row.get(key) for key in ("measure", "value", "low", "high", "n")}
            for row in rows
            if str(row.get("system", "")).endswith(f"@{decision.version}")
        ],
    }


def _pipelines(service: Service, name: str) -> list[str]:
    """The served pipelines in which the adapter stands."""
    return [
        pipeline
        for pipeline, served in service.pipelines
        if any(slot.adapter is not None and parse_reference(slot.adapter).name == name for slot in served.slots)
    ]
