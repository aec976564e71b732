"""What the stages with an encoder have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from searchlora.adapters.store import Store
from searchlora.models.resolve import public_name
from searchlora.pipelines.stages.retrieve import RetrieveSettings
from searchlora.pipelines.stages.stage import BuildContext, Needs, StageSettings, short_name

if TYPE_CHECKING:
    from searchlora.adapters.stored import StoredAdapter
    from searchlora.retrieval.encoder import Encoder
    from searchlora.retrieval.encoding import TextEncoding
    from searchlora.retrieval.index_manifest import VectorKeys
    from searchlora.retrieval.shared_model import SharedModel


class EncoderSettings(StageSettings):
    """Settings of a stage with an encoder."""

    adapter_key: ClassVar[str | None] = "adapter"
    removable: ClassVar[bool] = True

    model: str = Field(description="encoder: catalogue name, folder or hub id")
    adapter: str | None = Field(None, description="adapter of the encoder")
    dimensions: int | None = Field(None, ge=1, description="truncate vectors to this many dimensions (Matryoshka)")

    def needs(self) -> Needs:
        return Needs(encoders=(self.model,)) if self.adapter is None else Needs(adapters=(self.adapter,))

    def encoder(self, context: BuildContext) -> Encoder:
        """The encoder, loaded on first use.

        Raises:
            BaseModelError, NotInStore, LoadCheckFailed: if the model or the adapter is missing or fails its load check.
        """
        from searchlora.retrieval.encoder import Encoder

        adapter = self.stored_adapter(context.store)
        key = ("encoder", self.model, adapter.reference if adapter else None, self.dimensions)

        def shared(folder: Path, load: Callable[[], SharedModel]) -> SharedModel:
            return context.shared.get(("encoder model", folder), load)

        return context.shared.get(
            key, lambda: Encoder.load(self.model, adapter=adapter, dimensions=self.dimensions, shared=shared)
        )

    def stored_adapter(self, store: Store) -> StoredAdapter | None:
        """The adapter; None without one."""
        return store.get(self.adapter) if self.adapter is not None else None

    @property
    def slot_name(self) -> str:
        return self.kind if self.adapter is None else f"{self.kind}({short_name(self.adapter)})"


class EncodingSettings(EncoderSettings, RetrieveSettings):
    """Settings of a stage that searches by the vectors of an encoder."""

    unlabelled: ClassVar[frozenset[str]] = frozenset({"model", "adapter", "batch_size", "query_batch_size"})

    normalise: bool = Field(True, description="normalise vectors to length 1, so that inner products are cosines")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="precision in which documents are encoded")
    query_prefix: str = Field("", description="text before each query, as some encoders expect it")
    document_prefix: str = Field("", description="text before each document")
    query_batch_size: int = Field(
        1, ge=1, description="queries per forward pass; with 1, hits do not depend on other queries"
    )
    batch_size: int = Field(32, ge=1, description="documents per forward pass")

    @property
    def encoding(self) -> TextEncoding:
        """How documents and queries are encoded."""
        from searchlora.retrieval.encoding import TextEncoding

        keys = [field.name for field in fields(TextEncoding)]
        return TextEncoding(**{key: getattr(self, key) for key in keys})

    def document_adapter(self, store: Store) -> StoredAdapter | None:
        """The adapter with which documents are encoded; None without one, and for one that is for queries only."""
        adapter = self.stored_adapter(store)
        return None if adapter is None or adapter.manifest.query_side_only else adapter

    def encoded(self, context: BuildContext) -> dict[str, Any]:
        """The keys of `EncodedVectors` but for the dimensions: model, adapter, and what vectors depend on."""
        adapter = self.document_adapter(context.store)
        return {
            "model": public_name(self.model),
            "adapter": adapter.reference if adapter is not None else None,
            "keys": self.vector_keys(context),
            "batch_size": self.batch_size,
        }

    def vector_keys(self, context: BuildContext) -> VectorKeys:
        """What the vectors of documents depend on. Loads the encoder."""
        from searchlora.models.fingerprint import fingerprint
        from searchlora.retrieval.encoder import encoder_base
        from searchlora.retrieval.index_manifest import VectorKeys

        adapter = self.document_adapter(context.store)
        weights = None
        if adapter is not None:
            files = adapter.manifest.files
            weights = {name: files[name] for name in sorted(files) if name.endswith((".safetensors", "_config.json"))}
        return VectorKeys(
            encoder=fingerprint(encoder_base(self.model, self.stored_adapter(context.store)).path),
            adapter=weights,
            max_tokens=self.encoder(context).max_tokens,
            dimensions=self.dimensions,
            normalise=self.normalise,
            document_prefix=self.document_prefix,
            precision=self.precision,
        )
