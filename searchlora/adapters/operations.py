"""Operations on stored adapters: the Python API behind `searchlora adapters`, and storing a trained adapter.

`store` is a `Store`, its folder, or None for the default store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchlora.adapters.alias_weights import Weights
from searchlora.adapters.aliases import AliasMove, joined_reasons
from searchlora.adapters.full_model import check_full_weights, model_folder, pack
from searchlora.adapters.listing import Entry
from searchlora.adapters.manifest import Base, Dataset, Manifest, ManifestDraft, Precision
from searchlora.adapters.peft_folder import check_delta
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter, check_hashes
from searchlora.adapters.views import peft_folder
from searchlora.errors import StoreError, UsageError
from searchlora.files.json_text import finite
from searchlora.models.fingerprint import fingerprint
from searchlora.models.resolve import BaseModel, resolve

if TYPE_CHECKING:
    from searchlora.adapters.merging import MergeReport
    from searchlora.recipe import AnyRecipe
    from searchlora.task import Task

AnyStore = Store | str | Path | None

#: Fields of a manifest that `diff` compares.
_COMPARED = {
    *("task", "task_version", "base", "recipe", "trained", "evaluated", "dataset", "prompt_hash", "metrics"),
    *("settings", "tuned", "training", "parents", "versions"),
}


def list_(store: AnyStore = None) -> Sequence[Entry]:
    """Every version in the store, by name and number."""
    return Store.of(store).list()


def show(reference: str, store: AnyStore = None) -> Manifest:
    """The manifest of the version that a reference points to. Raises `InvalidName`, `NotInStore`, `ManifestError`."""
    return Store.of(store).get(reference).manifest


def verify(
    reference: str, *, base: str | None = None, tasks: str | Path | None = None, store: AnyStore = None
) -> StoredAdapter:
    """The full load check; see `load_check.verify`.

    Args:
        base: Name or folder of the base, if it is not found under the name in the manifest.
        tasks: A folder of further task plugins.
    """
    from searchlora.adapters.load_check import verify as check
    from searchlora.task import load_task

    stored = Store.of(store).get(reference)
    check(stored, load_task(stored.manifest.task, tasks), resolve(base) if base else None)
    return stored


def path(reference: str, *, base: str | None = None, store: AnyStore = None) -> Path:
    """A folder from which `peft.AutoPeftModel` loads the adapter with its base; see `views.peft_folder`.

    Of a whole model, a folder from which transformers or sentence-transformers loads it; its base is not needed.

    Args:
        base: Name or folder of the base, if it is not found under the name in the manifest.

    Raises:
        BaseModelError: if the base is not on this machine; the hub is not asked.
        What `load_check.check_files` and `views.peft_folder` raise.
    """
    from searchlora.adapters.load_check import check_files

    stored = Store.of(store).get(reference)
    if stored.is_full:
        check_hashes(stored)
        return model_folder(stored)
    model = _base_here(stored, base)
    check_files(stored, model)
    return peft_folder(stored, model)


def base_path(reference: str, *, base: str | None = None, store: AnyStore = None) -> Path:
    """The folder of an adapter's base on this machine, for example for vLLM's `--model`; of a whole model, its own.

    Args:
        base: Name or folder of the base, if it is not found under the name in the manifest.

    Raises:
        BaseModelError: if the base is not on this machine; the hub is not asked.
        BaseMismatch, TokenizerMismatch: if it is not the base that the adapter was trained on.
    """
    from searchlora.adapters.load_check import check_base

    stored = Store.of(store).get(reference)
    if stored.is_full:
        return model_folder(stored)
    model = _base_here(stored, base)
    check_base(stored.reference, stored.manifest.base, model)
    return model.path.resolve()


def _base_here(stored: StoredAdapter, base: str | None) -> BaseModel:
    return resolve(base, ask_hub=False) if base else stored.manifest.base.resolve(ask_hub=False)


def alias(
    reference: str,
    name: str,
    *,
    reason: str | None = None,
    force: str | None = None,
    weights: Weights | None = None,
    store: AnyStore = None,
) -> AliasMove:
    """Move the alias `name` to a version, or let several versions share its requests.

    Args:
        reference: The version; with `weights`, the name of the adapter.
        weights: Version -> share of the requests; they sum to 1.
        reason: Why, for the history.
        force: Why an alias about which a policy has decided is moved without it; the history shows the move as made by
            hand.

    Raises:
        StoreError: if a policy has decided about the alias, without `force`.
        UsageError: if `force` is empty.
        InvalidName, NotInStore: as `Store.alias`.
    """
    if force is not None and not force.strip():
        raise UsageError("--force needs a reason", fix='Say why, for example --force "agreed with the search team".')
    store = Store.of(store)
    version = store.resolve(reference)
    decided = any(move.alias == name and move.decision is not None for move in store.history(version.name))
    if decided and force is None:
        raise StoreError(
            f"a policy decides about the alias '{name}'",
            where=version.name,
            fix="Use `searchlora promote` with the policy, or --force REASON.",
        )
    if weights is not None:
        return store.split(version.name, name, weights, joined_reasons(force, reason))
    return store.alias(version.name, name, version.number, joined_reasons(force, reason))


def rollback(name: str, alias: str, *, reason: str | None = None, store: AnyStore = None) -> AliasMove:
    """Move an alias back to its previous version. Raises `NotInStore` if there is none."""
    return Store.of(store).rollback(name, alias, reason)


def remove(reference: str, *, force: bool = False, store: AnyStore = None) -> str:
    """Remove a version and return its exact reference. Raises `StoreError` if an alias points to it and not `force`."""
    return Store.of(store).remove(reference, force=force)


def export(reference: str, out: str | Path, *, base: str | None = None, store: AnyStore = None) -> MergeReport:
    """Merge an adapter into its base and write the model; see `merging.export_merged`."""
    from searchlora.adapters.merging import export_merged

    return export_merged(Store.of(store).get(reference), Path(out), base=resolve(base) if base else None)


@dataclass(frozen=True)
class Diff:
    """Differences of two versions.

    Attributes:
        fields: Manifest field, its parts joined by dots, -> its two values; None where one version lacks it.
    """

    first: str
    second: str
    fields: dict[str, tuple[Any, Any]]

    def __str__(self) -> str:
        lines = [f"{key}: {one!r} | {two!r}" for key, (one, two) in self.fields.items()]
        return "\n".join([f"{self.first} | {self.second}", *lines])


def diff(first: str, second: str, *, store: AnyStore = None) -> Diff:
    """The manifest fields in which two versions differ."""
    manifests = [Store.of(store).get(reference).manifest for reference in (first, second)]
    one, two = (_flat(manifest.model_dump(include=_COMPARED)) for manifest in manifests)
    keys = sorted(one.keys() | two.keys())
    fields = {key: (one.get(key), two.get(key)) for key in keys if one.get(key) != two.get(key)}
    return Diff(manifests[0].reference, manifests[1].reference, fields)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@dataclass(frozen=True)
class Origin:
    """How an adapter came about, for its manifest.

    Attributes:
        metrics: Measures by name.
        evaluated: Precision of the base while `metrics` were measured.
        training: `TrainingResult.summary`: seconds, parameters trained, ...
        tuned: Values chosen by `Task.tune`.
        parents: References of the adapters that it was made from.
    """

    dataset: Dataset | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    evaluated: Precision | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)
    parents: Sequence[str] = ()


def store_adapter(
    store: Store,
    name: str,
    folder: Path,
    *,
    task: Task,
    recipe: AnyRecipe,
    base: BaseModel,
    origin: Origin | None = None,
    extra_files: Sequence[Path] = (),
) -> StoredAdapter:
    """Write the manifest of a trained adapter, verify it, and store it as the next version of `name`.

    One copy of the base computes the golden outputs, and reproduces them with the adapter as it is stored.

    Args:
        folder: A plain PEFT folder as `save_adapter` writes it, or a model folder where `recipe.method` is full.
        task: Bound to the settings that it was trained with.
        origin: What else the manifest says; None: nothing is known.
        extra_files: Files to store beside the weights, for example `metrics.jsonl` and `loss.svg`.

    Raises:
        What `Store.add` and `load_check.verify` raise; then nothing is stored.
    """
    from searchlora.adapters.golden import BaseCopy, golden_of, prompt_hash
    from searchlora.adapters.load_check import verify as check
    from searchlora.task import GenerationTask

    origin = origin or Origin()
    store.check_task(name, task.name)
    (check_full_weights if recipe.is_full else check_delta)(folder)
    copy = BaseCopy.of(task, base)
    draft = ManifestDraft(
        task=task.name,
        task_version=task.version,
        base=Base(name=base.name, revision=base.revision, fingerprint=fingerprint(base.path)),
        recipe=recipe.model_dump(),
        trained=Precision(quantization=recipe.quantization, precision=recipe.precision),
        evaluated=origin.evaluated,
        dataset=origin.dataset,
        prompt_hash=prompt_hash(task) if isinstance(task, GenerationTask) else None,
        settings=dict(task.settings),
        tuned=dict(origin.tuned),
        golden=golden_of(task, base, folder, getattr(recipe, "prompt", None), copy),
        metrics=finite(dict(origin.metrics)),
        training=finite(dict(origin.training)),
        parents=list(origin.parents),
    )
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        flat = Path(temporary) / "flat"
        if recipe.is_full:
            pack(folder, flat)
        else:
            flat = folder
        verified = partial(check, task=task, base=base, copy=copy)
        return store.add(name, flat, draft, extra_files=extra_files, check=verified)
