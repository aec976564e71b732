"""From a trained PEFT folder to a checked version in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.adapters.golden import golden_of, prompt_hash
from searchlora.adapters.golden_vectors import golden_vectors
from searchlora.adapters.load_check import verify
from searchlora.adapters.manifest import Base, Dataset, Golden, ManifestDraft, Precision
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.adapters.weights import check_delta
from searchlora.models.fingerprint import fingerprint
from searchlora.models.resolve import BaseModel
from searchlora.recipe import AnyRecipe
from searchlora.task import EncoderTask, PromptedTask, Task


def store_adapter(
    store: Store,
    name: str,
    folder: Path,
    *,
    task: Task,
    recipe: AnyRecipe,
    base: BaseModel,
    dataset: Dataset | None = None,
    metrics: Mapping[str, Any] | None = None,
    evaluated: Precision | None = None,
    training: Mapping[str, Any] | None = None,
    tuned: Mapping[str, Any] | None = None,
    parents: Sequence[str] = (),
    beside: Sequence[Path] = (),
) -> StoredAdapter:
    """Describe an adapter, check it in full, and store it as the next version of `name`.

    Two copies of the base are loaded in turn, one that the golden logits come from and one that reproduces them.

    Args:
        folder: A plain PEFT folder as `save_adapter` writes it.
        task: Bound to the settings that it was trained with.
        evaluated: How the base was held while `metrics` were measured.
        training: `Trained.summary`: seconds, parameters trained, ...
        tuned: What `Task.tune` chose.
        beside: Files that go along, for example `metrics.jsonl` and `loss.svg`.

    Raises:
        What `Store.add` and `load_check.verify` raise; then nothing is stored.
    """
    store.check_task(name, task.name)
    check_delta(folder)
    draft = ManifestDraft(
        task=task.name,
        task_version=task.version,
        base=Base(name=base.name, revision=base.revision, fingerprint=fingerprint(base.path)),
        recipe=recipe.model_dump(),
        trained=Precision(quantization=recipe.quantization, precision=recipe.precision),
        evaluated=evaluated,
        dataset=dataset,
        prompt_hash=prompt_hash(task) if isinstance(task, PromptedTask) else None,
        settings=dict(task.settings),
        tuned=dict(tuned or {}),
        golden=_golden(task, base, folder),
        metrics=dict(metrics or {}),
        training=dict(training or {}),
        parents=list(parents),
    )
    return store.add(name, folder, draft, beside=beside, check=lambda stored: verify(stored, task, base))


def _golden(task: Task, base: BaseModel, folder: Path) -> Golden:
    if isinstance(task, PromptedTask):
        return golden_of(task, base, folder)
    return golden_vectors(task, base, folder) if isinstance(task, EncoderTask) else Golden()
