"""What the stages with an encoder have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from searchlora.adapters.store import Store
from searchlora.http_client import HttpClient, api_key, check_key_variable
from searchlora.inference.settings import HttpServerSettings
from searchlora.models.resolve import public_name
from searchlora.pipelines.stages.retrieve import RetrieveSettings
from searchlora.pipelines.stages.stage import BuildContext, Needs, StageSettings, short_name

if TYPE_CHECKING:
    from searchlora.adapters.stored import StoredAdapter
    from searchlora.retrieval.encoder import Encoder
    from searchlora.retrieval.encoding import TextEncoding
    from searchlora.retrieval.index_manifest import VectorKeys
    from searchlora.retrieval.remote_encoder import RemoteEncoder
    from searchlora.retrieval.shared_model import SharedModel


class EncoderServer(HttpServerSettings):
    """`server: {url: http://localhost:8080}`: the server that computes an encoder, by `/v1/embeddings`."""

    concurrency: int = Field(8, ge=1)

    def open(self, model: str, dimensions: int | None) -> RemoteEncoder:
        """The encoder of a name. Raises `EngineError`, and `PipelineError` without the key."""
        from searchlora.retrieval.remote_encoder import RemoteEncoder

        client = HttpClient(
            self.url,
            api_key=api_key(self.api_key_env, self.url),
            connections=self.concurrency,
            timeout_s=self.timeout_s,
            retries=self.retries,
        )
        return RemoteEncoder.open(client, model, dimensions, self.concurrency)


class EncoderSettings(StageSettings):
    """Settings of a stage with an encoder."""

    adapter_key: ClassVar[str | None] = "adapter"
    removable: ClassVar[bool] = True

    model: str = Field(description="encoder: catalogue name, folder or hub id; of a server, its name there")
    adapter: str | None = Field(None, description="adapter of the encoder")
    server: EncoderServer | None = Field(
        None,
        description="server that computes the encoder: `url`, and optionally `api_key_env`, `concurrency`, `timeout_s`"
        " and `retries`",
    )
    dimensions: int | None = Field(None, ge=1, description="truncate vectors to this many dimensions (Matryoshka)")

    @model_validator(mode="after")
    def _local_or_served(self) -> Self:
        if self.server is not None and self.adapter is not None:
            raise ValueError("'adapter' is for a local encoder: of a server, name the adapter as the 'model'")
        if self.server is not None and "precision" in self.model_fields_set:
            raise ValueError("'precision' is for a local encoder: a server has its own")
        return self

    def check_file(self, where: str) -> None:
        super().check_file(where)
        if self.server is not None:
            check_key_variable(self.server.api_key_env, where)

    def needs(self) -> Needs:
        if self.server is not None:
            return Needs(unversioned=True)
        return Needs(encoders=(self.model,)) if self.adapter is None else Needs(adapters=(self.adapter,))

    def encoder(self, context: BuildContext) -> Encoder | RemoteEncoder:
        """The encoder, loaded on first use."""
        from searchlora.retrieval.encoder import Encoder

        if (server := self.server) is not None:
            served = ("served encoder", server, self.model, self.dimensions)
            return context.shared.get(served, lambda: server.open(self.model, self.dimensions))
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

    unlabelled: ClassVar[frozenset[str]] = frozenset({"model", "adapter", "server", "batch_size", "query_batch_size"})

    normalise: bool = Field(True, description="normalise vectors to length 1, so that inner products are cosines")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="precision in which documents are encoded")
    query_prefix: str = Field("", description="text before each query, as some encoders expect it")
    document_prefix: str = Field("", description="text before each document")
    query_batch_size: int = Field(
        1,
        ge=1,
        description="queries per forward pass; with 1, hits do not depend on other queries; with more, searches that"
        " run at the same time share passes, also with other adapters of the model",
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
        from searchlora.retrieval.encoder import Encoder, encoder_base
        from searchlora.retrieval.index_manifest import ServedModel, VectorKeys

        encoder = self.encoder(context)
        adapter = self.document_adapter(context.store)
        weights = None
        if adapter is not None:
            files = adapter.manifest.files
            weights = {name: files[name] for name in sorted(files) if name.endswith((".safetensors", "_config.json"))}
        return VectorKeys(
            encoder=fingerprint(encoder_base(self.model, self.stored_adapter(context.store)).path)
            if isinstance(encoder, Encoder)
            else ServedModel(name=self.model, version=encoder.served),
            adapter=weights,
            max_tokens=encoder.max_tokens,
            dimensions=self.dimensions,
            normalise=self.normalise,
            document_prefix=self.document_prefix,
            precision=self.precision,
        )
