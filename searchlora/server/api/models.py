"""`/v1/models`: what requests may name as their model."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from fastapi import APIRouter

from searchlora.adapters.manifest import Manifest
from searchlora.errors import NotInStore
from searchlora.models.fingerprint import Fingerprint, fingerprint
from searchlora.server.api.service import Service


def routes(service: Service) -> APIRouter:
    """The base, the encoders, and every adapter of theirs: by name, by version and by alias."""
    router = APIRouter()
    bases = {service.base: service.engine.base, **service.encoders.bases}
    prints = {name: fingerprint(base.path) for name, base in bases.items()}

    @router.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": list(_all(service, prints))}

    @router.get("/v1/models/{model:path}")
    def model(model: str) -> dict[str, Any]:
        found = next((each for each in _all(service, prints) if each["id"] == model), None)
        if found is None:
            raise NotInStore("this server has no such model", fix="GET /v1/models lists those it has.")
        return found

    return router


def _all(service: Service, prints: dict[str, Fingerprint]) -> Iterator[dict[str, Any]]:
    for name in prints:
        yield {"id": name, "object": "model", "created": 0, "owned_by": "searchlora", "root": name, "parent": None}
    newest: dict[str, dict[str, Any] | None] = {}
    for entry in service.store.list():
        newest[entry.name] = None
        manifest = entry.manifest
        base = next((name for name, print_ in prints.items() if manifest and _fits(manifest, print_)), None)
        if manifest is None or base is None:
            continue
        about = {
            "object": "model",
            "created": int(_seconds(manifest.created)),
            "owned_by": "searchlora",
            "root": manifest.reference,
            "parent": base,
        }
        newest[entry.name] = about
        for target in (entry.version, *entry.aliases):
            yield {"id": f"{entry.name}@{target}", **about}
    for name, newest_about in newest.items():
        if newest_about is not None and name not in prints:  # a base of that name is what requests get
            yield {"id": name, **newest_about}


def _seconds(created: str) -> float:
    return datetime.fromisoformat(created).timestamp()


def _fits(manifest: Manifest, now: Fingerprint) -> bool:
    then = manifest.base.fingerprint
    # A manifest of schema 1 holds no hash of the configuration.
    return (then if then.config else then.model_copy(update={"config": now.config})) == now
