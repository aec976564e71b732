"""`/v1/models` lists what requests may name; `/v1/adapters/load` and `/v1/adapters/unload` manage loaded adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, TypeVar

from searchlora.adapters.listing import Entry
from searchlora.adapters.references import check_name, is_name
from searchlora.errors import DeadlineExceeded, EngineBusy, EngineError, NotInStore
from searchlora.server.api.adapter_tasks import input_schema
from searchlora.server.api.errors import ApiError
from searchlora.server.api.keys import WRITES
from searchlora.server.api.response_schemas import ListOf, Loaded, ModelEntry
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.schemas import AdapterRequest
from searchlora.server.api.service import Service
from searchlora.time_limit import run_in_new_thread

T = TypeVar("T")

router = api_router()


@router.get("/v1/models", summary="List models")
def models(http: ApiRequest) -> ListOf[ModelEntry]:
    """The base, the encoders, and every adapter for them: by name, by version and by alias."""
    return {"object": "list", "data": [*_models(http.service), *_adapters(http.service, http.service.store.list())]}


@router.get("/v1/models/{model:path}", summary="Describe a model")
def describe(http: ApiRequest, model: str) -> ModelEntry:
    """A model; of an adapter, also its task, the fields of its input, and a request that works."""
    entry = next((entry for entry in _named(http.service, model) if entry["id"] == model), None)
    if entry is None:
        raise NotInStore("this server has no such model", fix="GET /v1/models lists those it has.")
    is_adapter = entry["root"] != entry["id"] or "@" in entry["id"]
    if not is_adapter or not entry["parent"]:
        return entry
    task = http.service.adapter_task(entry["root"])
    described: dict[str, Any] = {"task": task.name}
    if task.prompted is not None:
        schema = described["input"] = input_schema(task.prompted)
        example = {name: value for name, value in task.prompted.examples[0].items() if name in schema["properties"]}
        body = {"model": entry["root"], "input": example}
        described["example"] = {"method": "POST", "path": f"/v1/tasks/{task.name}", "body": body}
    return {**entry, **described}  # type: ignore[typeddict-item]  # further keys


@router.post("/v1/adapters/load", summary="Load an adapter", openapi_extra=WRITES)
async def load(http: ApiRequest, body: AdapterRequest) -> Loaded:
    """Load an adapter before its first request, between two engine steps."""
    engine, place = http.service.engine, body.folder
    if place is not None:
        await _run(http, lambda: _load_folder(http.service, body.adapter, place))
        return {"adapter": body.adapter, "loaded": True}
    return {"adapter": await _run(http, lambda: engine.load(body.adapter)), "loaded": True}


@router.post("/v1/adapters/unload", summary="Unload an adapter", openapi_extra=WRITES)
async def unload(http: ApiRequest, body: AdapterRequest) -> Loaded:
    """Free the slot of an adapter, between two engine steps."""
    try:
        was_loaded = await _run(http, lambda: http.service.engine.unload(body.adapter))
    except (EngineBusy, DeadlineExceeded):
        raise
    except EngineError as error:  # it is in use
        raise ApiError(409, "in_use", str(error), param="adapter") from None
    return {"adapter": body.adapter, "loaded": False, "was_loaded": was_loaded}


async def _run(http: ApiRequest, function: Callable[[], T]) -> T:
    """Load or unload in a thread of its own, one at a time."""
    async with http.service.loading:
        return await asyncio.wrap_future(run_in_new_thread(function))


def _load_folder(service: Service, name: str, place: str) -> None:
    """Load an adapter that is no version of the store, from a folder below the store's."""
    root = service.store.root.resolve()
    try:
        folder = (root / place).resolve()
        folder.exists()
    except (ValueError, OSError):  # a NUL character, or a name that is too long
        raise ApiError(400, "invalid_value", "The folder is not the name of a folder.", param="folder") from None
    if folder == root or not folder.is_relative_to(root):
        raise ApiError(400, "invalid_value", "The folder is not below the store.", param="folder")
    check_name(name)
    if name in {service.base, *service.encoders.bases, *service.store.names()}:
        raise ApiError(400, "invalid_value", "The store or the server has a model of this name.", param="adapter")
    service.engine.load_folder(name, folder)


def _models(service: Service) -> Iterator[ModelEntry]:
    """The base and the encoders."""
    service.check_store()
    for name in service.fingerprints:
        entry = _entry(name, 0, name, None)
        if name == service.base:
            entry["precision"], entry["batch_invariant"] = service.engine.precision, service.engine.batch_invariant
            entry["shares_batches"], entry["batching"] = service.engine.shares_batches, str(service.engine.batching)
        yield entry


def _named(service: Service, model: str) -> Iterator[ModelEntry]:
    """The base and the encoders, and the adapters of the name in a reference."""
    yield from _models(service)
    name = model.partition("@")[0]
    if is_name(name):
        yield from _adapters(service, service.store.entries(name))


def _adapters(service: Service, entries: Iterable[Entry]) -> Iterator[ModelEntry]:
    """The adapters for the models of this server, by version and by alias, then by name."""
    base_of = {fingerprint: name for name, fingerprint in reversed(service.fingerprints.items())}
    newest: dict[str, ModelEntry | None] = {}
    for stored in entries:
        newest[stored.name] = None
        summary = stored.summary
        base = base_of.get(summary.base.fingerprint) if summary is not None else None
        if summary is not None and summary.method == "full" and base not in service.encoders.bases:
            base = service.base if stored.reference == service.base else None  # else it needs a server of its own
        if summary is None or base is None:
            continue
        created = int(datetime.fromisoformat(summary.created).timestamp())
        newest[stored.name] = _entry(stored.name, created, stored.reference, base)
        for target in (stored.version, *stored.aliases):
            yield _entry(f"{stored.name}@{target}", created, stored.reference, base)
    for name, named in newest.items():
        if named is not None and name not in service.fingerprints:  # the base has precedence over an adapter
            yield named


def _entry(id_: str, created: int, root: str, parent: str | None) -> ModelEntry:
    return {
        "id": id_,
        "object": "model",
        "created": created,
        "owned_by": "searchlora",
        "root": root,
        "parent": parent,
    }
