"""`/v1/models` lists what requests may name; `/v1/adapters/load` and `/v1/adapters/unload` manage loaded adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter

from searchlora.adapters.manifest import Manifest
from searchlora.adapters.references import check_name
from searchlora.errors import DeadlineExceeded, EngineBusy, EngineError, NotInStore
from searchlora.models.fingerprint import Fingerprint, fingerprint
from searchlora.server.api.adapter_tasks import description
from searchlora.server.api.errors import ApiError
from searchlora.server.api.schemas import AdapterRequest
from searchlora.server.api.service import Service
from searchlora.server.api.work_queue import run_in_new_thread

T = TypeVar("T")

_BODY = TypeAdapter(AdapterRequest)


def routes(service: Service) -> APIRouter:
    """The base, the encoders, and every adapter for them: by name, by version and by alias."""
    router = APIRouter()
    bases = {service.base: service.engine.base, **service.encoders.bases}
    fingerprints = {name: fingerprint(base.path) for name, base in bases.items()}
    _add_adapter_routes(router, service)

    @router.get("/v1/models")
    async def models(http: Request) -> Response:
        return await service.json(
            http.state.caller, lambda: {"object": "list", "data": list(_all_models(service, fingerprints))}
        )

    @router.get("/v1/models/{model:path}")
    async def model(http: Request, model: str) -> Response:
        def entry() -> dict[str, Any]:
            found = next((entry for entry in _all_models(service, fingerprints) if entry["id"] == model), None)
            if found is None:
                raise NotInStore("this server has no such model", fix="GET /v1/models lists those it has.")
            is_adapter = found["root"] != found["id"] or "@" in found["id"]
            if not is_adapter or not found["parent"]:
                return found
            return found | description(found["root"], service.adapter_tasks.get(found["root"]))

        return await service.json(http.state.caller, entry)

    return router


def _add_adapter_routes(router: APIRouter, service: Service) -> None:
    """Load an adapter before its first request, or free its slot. Both run between two engine steps."""
    one_at_a_time = asyncio.Lock()

    async def run(function: Callable[[], T]) -> T:
        async with one_at_a_time:
            return await asyncio.wrap_future(run_in_new_thread(function))

    @router.post("/v1/adapters/load")
    async def load(http: Request) -> dict[str, Any]:
        body = await service.body(http, _BODY)
        if body.folder is not None:
            name, place = body.adapter, body.folder
            await run(lambda: _load_folder(service, name, place))
            return {"adapter": name, "loaded": True}
        pinned = await run(lambda: service.engine.load(body.adapter))
        return {"adapter": pinned, "loaded": True}

    @router.post("/v1/adapters/unload")
    async def unload(http: Request) -> dict[str, Any]:
        body = await service.body(http, _BODY)
        try:
            was_loaded = await run(lambda: service.engine.unload(body.adapter))
        except (EngineBusy, DeadlineExceeded):
            raise
        except EngineError as error:  # it is in use
            raise ApiError(409, "in_use", str(error), param="adapter") from None
        return {"adapter": body.adapter, "loaded": False, "was_loaded": was_loaded}


def _load_folder(service: Service, name: str, place: str) -> None:
    """Load an adapter that is no version of the store, from a folder below the store's.

    Raises:
        ApiError: 400, for a place that is not below the store, and for the name of a version, of an adapter of the
            store, or of a model.
    """
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


def _all_models(service: Service, fingerprints: dict[str, Fingerprint]) -> Iterator[dict[str, Any]]:
    service.check_store()
    for name in fingerprints:
        computed: dict[str, Any] = {}
        if name == service.base:
            computed = {"precision": service.engine.precision, "batch_invariant": service.engine.batch_invariant}
        own = {"id": name, "object": "model", "created": 0, "owned_by": "searchlora", "root": name, "parent": None}
        yield own | computed
    newest: dict[str, dict[str, Any] | None] = {}
    for entry in service.store.list():
        newest[entry.name] = None
        manifest = entry.manifest
        base = next((name for name, print_ in fingerprints.items() if manifest and _fits(manifest, print_)), None)
        if manifest is not None and manifest.method == "full" and base not in service.encoders.bases:
            base = service.base if manifest.reference == service.base else None  # else it needs a server of its own
        if manifest is None or base is None:
            continue
        description = {
            "object": "model",
            "created": int(datetime.fromisoformat(manifest.created).timestamp()),
            "owned_by": "searchlora",
            "root": manifest.reference,
            "parent": base,
        }
        newest[entry.name] = description
        for target in (entry.version, *entry.aliases):
            yield {"id": f"{entry.name}@{target}", **description}
    for name, newest_description in newest.items():
        if newest_description is not None and name not in fingerprints:  # the base has precedence over an adapter
            yield {"id": name, **newest_description}


def _fits(manifest: Manifest, current: Fingerprint) -> bool:
    recorded = manifest.base.fingerprint
    # A manifest of schema 1 holds no hash of the configuration.
    return (recorded if recorded.config else recorded.model_copy(update={"config": current.config})) == current
