"""The verbs of `searchlora adapters` as functions; `store` is a `Store`, its folder, or None for the usual place."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from searchlora.adapters.aliases import AliasMove
from searchlora.adapters.comparing import Diff, compare
from searchlora.adapters.entries import Entry
from searchlora.adapters.manifest import Manifest
from searchlora.adapters.names import parse_reference
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter

if TYPE_CHECKING:
    from searchlora.adapters.exporting import MergeReport
    from searchlora.adapters.transfer import Pulled, Pushed

AnyStore = Store | str | Path | None


def list_(store: AnyStore = None) -> Sequence[Entry]:
    """Every version in the store, by name and number."""
    return _store(store).list()


def show(reference: str, store: AnyStore = None) -> Manifest:
    """The manifest of what a reference means now. Raises `InvalidName`, `NotInStore`, `ManifestError`."""
    return _store(store).get(reference).manifest


def verify(
    reference: str, *, base: str | None = None, tasks: str | Path | None = None, store: AnyStore = None
) -> StoredAdapter:
    """The full load check; see `load_check.verify` for what is checked and raised.

    Args:
        base: Where the base is now, if not under the name in the manifest.
        tasks: A folder of task plugins of one's own.
    """
    from searchlora.adapters.load_check import verify as check
    from searchlora.models.resolve import resolve
    from searchlora.task import load_task

    stored = _store(store).get(reference)
    check(stored, load_task(stored.manifest.task, tasks), resolve(base) if base else None)
    return stored


def alias(reference: str, name: str, *, reason: str | None = None, store: AnyStore = None) -> AliasMove:
    """Let the alias `name` point to a version. Raises `InvalidName`, `NotInStore`."""
    place = _store(store)
    pinned = parse_reference(place.pin(reference))
    return place.alias(pinned.name, name, pinned.version or 0, reason)


def rollback(name: str, alias: str, *, reason: str | None = None, store: AnyStore = None) -> AliasMove:
    """Let an alias point to where it pointed before. Raises `NotInStore` where there is no before."""
    return _store(store).rollback(name, alias, reason)


def diff(first: str, second: str, *, store: AnyStore = None) -> Diff:
    """The manifest fields that differ, and the relative distance of the weights."""
    place = _store(store)
    return compare(place.get(first), place.get(second))


def remove(reference: str, *, force: bool = False, store: AnyStore = None) -> str:
    """Take a version away; returns what it was. Raises `StoreError` while an alias points to it and not `force`."""
    return _store(store).remove(reference, force=force)


def merge(
    references: Sequence[str],
    name: str,
    *,
    weights: Sequence[float] | None = None,
    method: str = "cat",
    density: float = 0.5,
    base: str | None = None,
    tasks: str | Path | None = None,
    store: AnyStore = None,
) -> StoredAdapter:
    """Combine adapters of one task and base into a new version of `name`, with them as its parents.

    It has their settings and nothing tuned: what was chosen on the outputs of one need not suit the combination.

    Args:
        weights: One for each reference; None weighs all alike, with a sum of one.
        method: See `combining.combine_folders`; `cat` is exact.

    Raises:
        UsageError, BaseMismatch: see `combining.check_combinable`.
        What `storing.store_adapter` raises.
    """
    from searchlora.adapters.combining import check_combinable, combine_folders
    from searchlora.adapters.load_check import check_files
    from searchlora.adapters.storing import store_adapter
    from searchlora.models.resolve import resolve
    from searchlora.recipe import parse_encoder_recipe, parse_recipe
    from searchlora.task import EncoderTask, load_task

    place = _store(store)
    parents = [place.get(reference) for reference in references]
    shares = [1 / len(parents)] * len(parents) if weights is None else [float(weight) for weight in weights]
    check_combinable(parents, shares, method)
    first = parents[0].manifest
    place.check_task(name, first.task)
    model = resolve(base) if base else resolve(first.base.name, first.base.revision)
    for parent in parents:
        check_files(parent, model)
    with tempfile.TemporaryDirectory() as temporary:
        folders = [parent.path for parent in parents]
        config = combine_folders(folders, shares, Path(temporary), combination=method, density=density)
        task = load_task(first.task, tasks).bound(first.settings)
        parse = parse_encoder_recipe if isinstance(task, EncoderTask) else parse_recipe
        lora = {**first.recipe["lora"], "r": config["r"], "alpha": config["lora_alpha"], "variant": "lora"}
        return store_adapter(
            place,
            name,
            Path(temporary),
            task=task,
            recipe=parse({**first.recipe, "lora": lora}),
            base=model,
            training={"combination": method, "weights": shares},
            parents=[parent.reference for parent in parents],
        )


def export(reference: str, out: str | Path, *, base: str | None = None, store: AnyStore = None) -> MergeReport:
    """Merge an adapter into its base and write the model; see `exporting.export_merged`."""
    from searchlora.adapters.exporting import export_merged
    from searchlora.models.resolve import resolve

    return export_merged(_store(store).get(reference), Path(out), base=resolve(base) if base else None)


def push(reference: str, url: str, *, store: AnyStore = None) -> Pushed:
    """Send a version to a folder, an object store or the hub; see `transfer.push`."""
    from searchlora.adapters.transfer import push as send

    return send(_store(store).get(reference), url)


def pull(
    url: str,
    *,
    name: str | None = None,
    base: str | None = None,
    tasks: str | Path | None = None,
    store: AnyStore = None,
) -> Pulled:
    """Fetch a version from a folder, an object store or the hub; see `transfer.pull`.

    Args:
        base: Where the base is, if not under the name in the manifest.
        tasks: A folder of task plugins of one's own.
    """
    from searchlora.adapters.transfer import pull as fetch
    from searchlora.models.resolve import resolve

    return fetch(url, _store(store), name, base=resolve(base) if base else None, tasks=tasks)


def _store(store: AnyStore) -> Store:
    return store if isinstance(store, Store) else Store(store)
