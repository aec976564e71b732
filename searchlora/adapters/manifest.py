"""Adapter manifest: base, recipe, data, golden outputs and measures of a version, in `searchlora.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from searchlora.errors import ManifestError
from searchlora.models.fingerprint import Fingerprint
from searchlora.recipe import PromptOptions

#: Incremented whenever a field is added, renamed or changes its meaning. 2: the fingerprint of the base has `config`.
#: 3: `settings` and `tuned`. 4: prompts are rendered by rule 4 (`prompts.RENDERING`), and the recipe has `prompt`.
SCHEMA_VERSION = 4

MANIFEST = "searchlora.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Base(_Part):
    """Base model of the adapter; `name` as the user gave it, `revision` the commit on the hub."""

    name: str
    revision: str | None = None
    fingerprint: Fingerprint


class Precision(_Part):
    """Quantisation of the base's weights and precision of the computation."""

    quantization: Literal["nf4", "none"]
    precision: Literal["bf16", "fp32"]


class Dataset(_Part):
    """Training data: the fingerprint of the dataset and a summary of its card."""

    fingerprint: str
    card: dict[str, Any] = {}


class GoldenRender(_Part):
    """An example record and its token ids: prompt (the first `prompt_length`), completion and stop token."""

    record: dict[str, Any]
    token_ids: list[int]
    prompt_length: int


class GoldenLogits(_Part):
    """The adapter's largest logits for the token after a golden prompt, and their distance from the base's.

    Attributes:
        ids: Token ids, largest logit first.
        logits: Logits of these ids.
        base_difference: max |logit with adapter - logit of the base| over the vocabulary.
    """

    ids: list[int]
    logits: list[float]
    base_difference: float


class GoldenVector(_Part):
    """An example text and its vector with the adapter.

    Attributes:
        vector: Output of the encoder with the adapter.
        base_difference: max |component with adapter - component of the base|.
    """

    text: str
    vector: list[float]
    base_difference: float


class Golden(_Part):
    """Outputs that `adapters verify` reproduces: renders and logits of a prompted task, vectors of an encoder task.

    Attributes:
        precision: Precision in which logits and vectors were computed.
        tolerance: Largest |difference| of a reproduced logit or component, as a share of the largest one; see
            `golden.TOLERANCE`.
    """

    renders: list[GoldenRender] = []
    logits: list[GoldenLogits] = []
    vectors: list[GoldenVector] = []
    precision: Literal["bf16", "fp32"] = "bf16"
    tolerance: float = 0.0


class ManifestDraft(_Part):
    """The part of a manifest that training and evaluation fill in; the store adds the rest.

    Attributes:
        recipe: `Recipe.model_dump()`; a mapping, so that manifests outlive changes of the recipe's schema.
        trained: Precision of the base in training.
        evaluated: Precision of the base while `metrics` were measured; None if nothing was measured.
        prompt_hash: sha256 of the task's `prompt.jinja` and settings; None for a task without a prompt.
        settings: `Task.settings`: labels, grades, a guideline; None in manifests of schema 1 and 2.
        tuned: Values chosen on validation rows by `Task.tune`: a temperature, thresholds.
        metrics: Measures by name.
        training: `seconds`, `parameters_trained`, steps, tokens, ...
        parents: References `name@3` of the adapters that this one was combined or copied from.
    """

    task: str
    task_version: int
    base: Base
    recipe: dict[str, Any]
    trained: Precision
    evaluated: Precision | None = None
    dataset: Dataset | None = None
    prompt_hash: str | None = None
    settings: dict[str, Any] | None = None
    tuned: dict[str, Any] = {}
    golden: Golden = Golden()
    metrics: dict[str, Any] = {}
    training: dict[str, Any] = {}
    parents: list[str] = []


class Manifest(ManifestDraft):
    """Complete manifest of a stored version.

    Attributes:
        created: Time of storing, ISO 8601 in UTC.
        versions: Versions of the packages that stored it.
        files: sha256 of each file of the version, without the manifest itself.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    version: int = Field(ge=1)
    created: str
    versions: dict[str, str]
    files: dict[str, str] = {}

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        if self.schema_version > 1 and not self.base.fingerprint.config:
            raise ValueError("base.fingerprint.config is missing")
        _ = self.prompt_options
        return self

    @property
    def reference(self) -> str:
        """`name@3`."""
        return f"{self.name}@{self.version}"

    @property
    def rendering(self) -> int:
        """`prompts.RENDERING` when the adapter was trained; 3 stands for 3 and older."""
        return 4 if self.schema_version > 3 else 3

    @property
    def prompt_options(self) -> PromptOptions:
        """Options of the chat template in training; the default ones for an adapter of an older schema."""
        return PromptOptions.model_validate(self.recipe.get("prompt") or {})

    def draft(self) -> ManifestDraft:
        """The part that does not depend on the store, for storing the adapter under another name."""
        return ManifestDraft.model_validate(self.model_dump(include=set(ManifestDraft.model_fields)))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a version's folder.

    Raises:
        ManifestError: if it is missing, not valid JSON, lacks a field, or was written by a newer searchlora.
    """
    file = folder / MANIFEST
    try:
        return parse_manifest(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"cannot be read ({error})", where=str(file), fix="Is this an adapter that searchlora stored?"
        ) from None


def parse_manifest(text: str, where: str) -> Manifest:
    """Parse a manifest from JSON. Raises `ManifestError` as `read_manifest` does."""
    restore = "Restore the file from a copy, or remove this version and store the adapter again."
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ManifestError(f"is not JSON ({error})", where=where, fix=restore) from None
    schema = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise ManifestError(
            f"was written by a newer searchlora (manifest schema {schema}; this one reads up to {SCHEMA_VERSION})",
            where=where,
            fix="Upgrade searchlora.",
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise ManifestError(
            f"is not a manifest: field '{field}': {first['msg'].lower()}", where=where, fix=restore
        ) from None


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `searchlora.json` into a folder."""
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
