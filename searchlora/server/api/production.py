"""`/v1/production`: the aliases that pipelines follow, what users and checks say of them, and the way back."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from typing_extensions import TypedDict

from searchlora.adapters.aliases import actor
from searchlora.adapters.references import parse_reference
from searchlora.errors import LoadCheckFailed, ManifestError, NotInStore, StoreError
from searchlora.events.failures import failed_queries
from searchlora.events.interleaving import preferences
from searchlora.events.shadow_figures import shadow_figures
from searchlora.events.summary import summaries
from searchlora.files.json_text import finite
from searchlora.server.api.errors import ApiError
from searchlora.server.api.keys import WRITES
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.search_schemas import RollbackRequest
from searchlora.server.api.service import Service

router = api_router()

#: Searches that the figures are of at most, and seconds; the newest.
_SEARCHES, _SECONDS = 20_000, 86_400.0

#: Moves of an alias and queries that are shown.
_MOVES, _QUERIES = 8, 10


class AliasEntry(TypedDict):
    """`moved`: moves of the adapter's aliases so far; `weights`: version -> its share of the requests."""

    reference: str
    pipelines: list[str]
    moved: int
    weights: dict[str, float]
    moves: list[str]


class QueryEntry(TypedDict):
    query: str
    searches: int
    users: int
    reasons: list[str]


class ProductionEntry(TypedDict):
    """Figures are of the searches since `since`, in seconds since 1970; null: the server records none.

    `pipelines` and `shadow` are as `events stats` and `events shadow` print them.
    """

    object: str
    since: float | None
    aliases: list[AliasEntry]
    pipelines: dict[str, Any]
    shadow: dict[str, Any]
    interleaving: list[dict[str, Any]]
    queue: list[QueryEntry]


class RollbackEntry(TypedDict):
    object: str
    reference: str
    version: int | None
    move: str


@router.get("/v1/production", summary="Describe what is in production", openapi_extra=WRITES)
def production(http: ApiRequest) -> ProductionEntry:
    """Aliases with their weights; and, with `--events`, what the searches of the last day say."""
    service = http.service
    log = service.events.log if service.events is not None else None
    found: ProductionEntry = {
        "object": "production",
        "since": None,
        "aliases": [_alias(service, reference) for reference in service.pipelines.followed],
        "pipelines": {},
        "shadow": {},
        "interleaving": [],
        "queue": [],
    }
    if log is not None:
        since = log.since_newest(_SEARCHES, time.time() - _SECONDS)
        found["since"] = since
        searches = list(log.searches(since))
        found["pipelines"] = {name: asdict(each) for name, each in summaries(searches).items()}
        found["shadow"] = {name: asdict(each) for name, each in shadow_figures(log.shadows(since)).items()}
        found["interleaving"] = [each.to_json(a, b) for (a, b), each in preferences(searches).items()]
        found["queue"] = [
            {
                "query": query.query,
                "searches": query.searches,
                "users": len(query.failed),
                "reasons": [reason for reason, _ in query.reasons.most_common()],
            }
            for query in failed_queries(searches, _QUERIES)
        ]
    return finite(found)  # type: ignore[no-any-return]  # the mean of no searches is NaN


@router.post("/v1/production/rollback", summary="Take a version back", openapi_extra=WRITES)
def rollback(http: ApiRequest, body: RollbackRequest) -> RollbackEntry:
    """Move an alias back to the version before; one with weights, to its target. The history keeps who and why."""
    service = http.service
    if body.adapter not in service.pipelines.followed:
        known = ", ".join(service.pipelines.followed) or "none"
        raise ApiError(404, "not_found", f"No pipeline follows '{body.adapter}'. Followed: {known}.", param="adapter")
    parsed = parse_reference(body.adapter)
    assert parsed.alias is not None
    before = actor.set(f"API key {http.client_id}" if service.config.keys is not None else None)
    try:
        history = service.store.alias_history(parsed.name)
        if len(history.moves) != body.moved:
            raise ApiError(409, "moved_meanwhile", "The alias was moved meanwhile. Look at it, and decide again.")
        move = service.store.rollback(parsed.name, parsed.alias, body.reason, moved=body.moved)
    except NotInStore as error:
        raise ApiError(409, "not_rolled_back", f"{error.what}.", param="adapter") from error
    except (ManifestError, LoadCheckFailed):
        raise
    except StoreError as error:  # moved since it was looked at, while the version's files were checked
        raise ApiError(409, "moved_meanwhile", f"{error.what}. Look at it, and decide again.") from error
    finally:
        actor.reset(before)  # the thread answers others next
    return {"object": "rollback", "reference": body.adapter, "version": move.target, "move": str(move)}


def _alias(service: Service, reference: str) -> AliasEntry:
    parsed = parse_reference(reference)
    assert parsed.alias is not None
    history = service.store.alias_history(parsed.name)
    version = history.current.get(parsed.alias)
    weights = history.weights(parsed.alias) or ({} if version is None else {version: 1.0})
    return {
        "reference": reference,
        "moved": len(history.moves),
        "pipelines": [name for name, served in service.pipelines if reference in served.aliases.values()],
        "weights": {f"{parsed.name}@{number}": share for number, share in weights.items()},
        "moves": [move.with_author for move in reversed(history.moves) if move.alias == parsed.alias][:_MOVES],
    }
