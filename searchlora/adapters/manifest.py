"""Adapter manifest: base, recipe, data, golden outputs and measures of a version, in `searchlora.json`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from searchlora.adapters.references import MAX_VERSION, is_name, is_version
from searchlora.errors import ManifestError, printable
from searchlora.files import parse_json, read_bounded
from searchlora.models.fingerprint import Fingerprint
from searchlora.models.resolve import BaseModel as LocalBase
from searchlora.models.resolve import resolve
from searchlora.recipe import PromptOptions

#: Incremented whenever a field is added, renamed or changes its meaning; no other schema is read.
SCHEMA_VERSION = 5

MANIFEST = "searchlora.json"

#: Key of `training`: id of the training run that stored the adapter.
TRAINING_RUN = "training_run"

#: Golden records of an adapter, their tokens together, and the characters of an encoder's golden texts together. They
#: bound the time of `adapters verify`, which anybody's manifest would otherwise set.
MAX_GOLDEN_RECORDS = 1000
MAX_GOLDEN_TOKENS = 65_536
MAX_GOLDEN_CHARACTERS = 1_000_000

#: Largest size of a manifest that is read.
MAX_BYTES = 64 * 2**20

# Texts of manifests are printed on terminals and cards, so they hold no control characters.
_Line = Annotated[str, StringConstraints(pattern=r"\A[^\p{C}\u{2028}\u{2029}]*\z", max_length=1024)]
_Name = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\z")]
_Sha256 = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
_FileName = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\z")]
_TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Base(_Part):
    """Base model of the adapter; `name` as the user gave it, `revision` the commit on the hub."""

    name: Annotated[_Line, Field(min_length=1)]
    revision: _Line | None = None
    fingerprint: Fingerprint

    def resolve(self, *, ask_hub: bool = True) -> LocalBase:
        """The base on this machine. Its fingerprint is not compared, see `load_check.check_base`.

        Only a base from the hub has a revision. Without one, a name like `models/my-base` is that of a folder, and the
        hub is not asked for a repository of this name, which would be a stranger's.

        Raises:
            BaseModelError: if it is not found.
        """
        return resolve(self.name, self.revision, ask_hub=ask_hub and self.revision is not None)


class Precision(_Part):
    """Quantisation of the base's weights and precision of the computation."""

    quantization: Literal["nf4", "none"]
    precision: Literal["bf16", "fp32"]


class Dataset(_Part):
    """Training data: the fingerprint of the dataset and a summary of its card."""

    fingerprint: _Line
    card: dict[_Line, Any] = {}


class GoldenRender(_Part):
    """An example record and its token ids: prompt (the first `prompt_length`), completion and stop token."""

    record: dict[str, Any]
    token_ids: list[_TokenId] = Field(min_length=1)
    prompt_length: int = Field(ge=1)

    @model_validator(mode="after")
    def _inside(self) -> GoldenRender:
        if self.prompt_length > len(self.token_ids):
            raise ValueError("prompt_length is more than there are token ids")
        return self


class GoldenLogits(_Part):
    """The adapter's largest logits for the token after a golden prompt, and their distance from the base's.

    Attributes:
        ids: Token ids, largest logit first.
        logits: Logits of these ids.
        base_difference: max |logit with adapter - logit of the base| over the vocabulary.
    """

    ids: list[_TokenId] = Field(min_length=1, max_length=1000)
    logits: list[float] = Field(min_length=1, max_length=1000)
    base_difference: float

    @model_validator(mode="after")
    def _pairs(self) -> GoldenLogits:
        if len(self.ids) != len(self.logits):
            raise ValueError("there are not as many logits as ids")
        return self


class GoldenVector(_Part):
    """An example text and its vector with the adapter.

    Attributes:
        vector: Output of the encoder with the adapter.
        base_difference: max |component with adapter - component of the base|.
    """

    text: str = Field(max_length=MAX_GOLDEN_CHARACTERS)
    vector: list[float] = Field(min_length=1, max_length=65_536)
    base_difference: float


class Golden(_Part):
    """Outputs that `adapters verify` reproduces: renders and logits of a prompted task, vectors of an encoder task.

    Attributes:
        precision: Precision in which logits and vectors were computed.
        tolerance: Largest |difference| of a reproduced logit or component, as a share of the largest one; see
            `golden.TOLERANCE`.
    """

    renders: list[GoldenRender] = Field([], max_length=MAX_GOLDEN_RECORDS)
    logits: list[GoldenLogits] = Field([], max_length=MAX_GOLDEN_RECORDS)
    vectors: list[GoldenVector] = Field([], max_length=MAX_GOLDEN_RECORDS)
    precision: Literal["bf16", "fp32"] = "bf16"
    tolerance: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _logits_of_renders(self) -> Golden:
        if self.logits and len(self.logits) != len(self.renders):
            raise ValueError("there are not as many logits as renders")
        if sum(len(render.token_ids) for render in self.renders) > MAX_GOLDEN_TOKENS:
            raise ValueError(f"the golden records have more than {MAX_GOLDEN_TOKENS:,} tokens")
        if sum(len(vector.text) for vector in self.vectors) > MAX_GOLDEN_CHARACTERS:
            raise ValueError(f"the golden texts have more than {MAX_GOLDEN_CHARACTERS:,} characters")
        return self


class _RecipeKeys(BaseModel):
    """What commands read of a recipe. Recipes of other releases have other keys, too, and may lack some."""

    precision: Literal["bf16", "fp32"] | None = None
    max_new_tokens: Annotated[int, Field(ge=1, lt=2**31, strict=True)] | None = None
    classifier: Literal["centroid", "knn", "linear"] | None = None
    sides: Literal["both", "query"] | None = None
    method: str | None = None
    lora: dict[str, Any] | None = None


#: Key of `ManifestDraft.training`: the models that labelled the training rows, and their ancestors, as in lineages.
TEACHERS = "teachers"


class ManifestDraft(_Part):
    """The part of a manifest that training and evaluation fill in; the store adds the rest.

    Attributes:
        recipe: `Recipe.model_dump()`; a mapping, so that manifests outlive changes of the recipe's schema.
        trained: Precision of the base in training.
        evaluated: Precision of the base while `metrics` were measured; None if nothing was measured.
        prompt_hash: sha256 of the task's `prompt.jinja` and settings; None for a task without a prompt.
        settings: `Task.settings`: labels, grades, a guideline; None: the task's default settings.
        tuned: Values chosen on validation rows by `Task.tune`: a temperature, thresholds.
        metrics: Measures by name.
        training: `seconds`, `parameters_trained`, steps, tokens, ...
        parents: References `name@3` of the adapters that this one was copied or trained further from, and of
            the teacher of a query side.
    """

    task: _Name
    task_version: int = Field(ge=0, le=10**6, strict=True)
    base: Base
    recipe: dict[str, Any]
    trained: Precision
    evaluated: Precision | None = None
    dataset: Dataset | None = None
    prompt_hash: _Sha256 | None = None
    settings: dict[str, Any] | None = None
    tuned: dict[str, Any] = {}
    golden: Golden = Golden()
    metrics: dict[_Line, float | int | bool | _Line | None] = Field({}, max_length=1000)
    training: dict[_Line, Any] = {}
    parents: list[_Line] = Field([], max_length=1000)

    @field_validator("recipe")
    @classmethod
    def _usable(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        _RecipeKeys.model_validate(recipe)
        return recipe

    @field_validator("parents")
    @classmethod
    def _exact_references(cls, parents: list[str]) -> list[str]:
        for parent in parents:
            name, _, version = parent.partition("@")
            if not (is_name(name) and is_version(version)):
                raise ValueError(f"'{parent[:80]}' is not an exact reference, name@3")
        return parents


class Manifest(ManifestDraft):
    """Complete manifest of a stored version.

    Attributes:
        created: Time of storing, ISO 8601 in UTC.
        versions: Versions of the packages that stored it.
        files: sha256 of each file of the version, without the manifest itself.
    """

    schema_version: int = Field(SCHEMA_VERSION, ge=SCHEMA_VERSION, le=SCHEMA_VERSION, strict=True)
    name: str
    version: int = Field(ge=1, le=MAX_VERSION, strict=True)
    created: Annotated[str, StringConstraints(pattern=r"\A[0-9TWZ:.+-]{8,40}\z")]
    versions: dict[_Name, _Line] = Field(max_length=100)
    files: dict[_FileName, _Sha256] = Field({}, max_length=1000)

    @field_validator("name")
    @classmethod
    def _valid_name(cls, name: str) -> str:
        if not is_name(name):
            raise ValueError(f"{name[:80]!r} is not a name for an adapter")
        return name

    @field_validator("created")
    @classmethod
    def _iso_time(cls, created: str) -> str:
        if not 1970 < datetime.fromisoformat(created).year < 9999:  # others have no timestamp everywhere
            raise ValueError("the year is out of range")
        return created

    @model_validator(mode="after")
    def _usable_prompt(self) -> Manifest:
        _ = self.prompt_options
        return self

    @property
    def reference(self) -> str:
        """`name@3`."""
        return f"{self.name}@{self.version}"

    @property
    def teachers(self) -> list[str]:
        """References of the models that labelled the training rows, and of their ancestors: `name@3`, `base NAME`."""
        listed = self.training.get(TEACHERS, [])
        return [str(reference) for reference in listed] if isinstance(listed, list) else []

    @property
    def method(self) -> str:
        """`method` of the recipe: full, lora or qlora; lora for a recipe without one."""
        return str(self.recipe.get("method", "lora"))

    @property
    def precision(self) -> Literal["bf16", "fp32"]:
        """Precision in which the base is computed. Raises `ManifestError` if the recipe has none."""
        precision: Literal["bf16", "fp32"] = self._of_recipe("precision")
        return precision

    @property
    def max_new_tokens(self) -> int:
        """Maximum number of generated tokens. Raises `ManifestError` if the recipe has none."""
        return int(self._of_recipe("max_new_tokens"))

    @property
    def classifier(self) -> Literal["centroid", "knn", "linear"]:
        """Classifier on the vectors of an encoder. Raises `ManifestError` if the recipe has none."""
        classifier: Literal["centroid", "knn", "linear"] = self._of_recipe("classifier")
        return classifier

    def _of_recipe(self, key: str) -> Any:
        value = self.recipe.get(key)
        if value is None:
            raise ManifestError(
                f"the recipe in the manifest lacks '{key}'",
                where=self.reference,
                fix="Restore searchlora.json from a copy, or store the adapter again.",
            )
        return value

    @property
    def query_side_only(self) -> bool:
        """Whether an encoder adapter encodes queries only, and documents are encoded by the base."""
        return bool(self.recipe.get("sides") == "query")

    @property
    def prompt_options(self) -> PromptOptions:
        """Options of the chat template in training."""
        return PromptOptions.model_validate(self.recipe.get("prompt") or {})

    def draft(self) -> ManifestDraft:
        """The part that does not depend on the store, for storing the adapter under another name."""
        return ManifestDraft.model_validate(self.model_dump(include=set(ManifestDraft.model_fields)))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a version's folder.

    Raises:
        ManifestError: if it is missing, not valid JSON, lacks a field, or has another schema.
    """
    file = folder / MANIFEST
    try:
        return parse_manifest(read_bounded(file, MAX_BYTES).decode("utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"cannot be read ({error})", where=str(file), fix="Is this an adapter that searchlora stored?"
        ) from None


def parse_manifest(text: str, where: str) -> Manifest:
    """Parse a manifest from JSON. Raises `ManifestError` as `read_manifest` does."""
    restore = "Restore the file from a copy, or remove this version and store the adapter again."
    try:
        values = parse_json(text)
    except ValueError as error:
        raise ManifestError(f"is not JSON ({error})", where=where, fix=restore) from None
    schema = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(schema, int) and schema != SCHEMA_VERSION:
        raise ManifestError(
            f"has manifest schema {schema}, and this searchlora reads {SCHEMA_VERSION}",
            where=where,
            fix="Train the adapter again, or use the searchlora that stored it.",
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = printable(".".join(str(part)[:80] for part in first["loc"])) or "the whole file"
        raise ManifestError(
            f"is not a manifest: field '{field}': {first['msg'].lower()}", where=where, fix=restore
        ) from None


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `searchlora.json` into a folder."""
    (folder / MANIFEST).write_text(manifest_json(manifest), encoding="utf-8")


def manifest_json(manifest: Manifest) -> str:
    """The text of `searchlora.json`."""
    return manifest.model_dump_json(indent=2) + "\n"
