"""What adapters and their bases take up on disk, against a full model for each task."""

from __future__ import annotations

from collections.abc import Sequence

from searchlora.adapters.stored import StoredAdapter
from searchlora.eval.report import Stored
from searchlora.models.resolve import public_name, resolve


def footprint(adapters: Sequence[StoredAdapter]) -> list[Stored]:
    """Each base once, with its adapters. Counted are the safetensors of a base and all files of an adapter."""
    under: dict[tuple[str, str | None], list[StoredAdapter]] = {}
    for adapter in adapters:
        base = adapter.manifest.base
        under.setdefault((base.name, base.revision), []).append(adapter)
    found = []
    for (name, revision), on_it in under.items():
        weights = sum(file.stat().st_size for file in resolve(name, revision).path.rglob("*.safetensors"))
        found.append(Stored(public_name(name), weights, {each.reference: _size(each) for each in on_it}))
    return found


def _size(adapter: StoredAdapter) -> int:
    return sum(file.stat().st_size for file in adapter.path.rglob("*") if file.is_file())
