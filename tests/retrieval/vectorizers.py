"""How a tiny encoder encodes documents for a search engine."""

from __future__ import annotations

from searchlora.models.fingerprint import Fingerprint
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.engine_index import EngineVectors, Vectorizer
from searchlora.retrieval.index_manifest import VectorKeys
from searchlora.retrieval.search_engine import Graph

FINGERPRINT = Fingerprint(architecture="Tiny", tensors="0", tokenizer="0", template="0", config="0")


def vectorizer_of(encoder: Encoder, graph: Graph | None = None) -> Vectorizer:
    """The encoder with settings that most tests use; its fingerprint is made up."""
    keys = VectorKeys(
        encoder=FINGERPRINT,
        adapter=None,
        max_tokens=encoder.max_tokens,
        dimensions=None,
        normalise=True,
        document_prefix="",
        precision="fp32",
    )
    dimensions = encoder.model.get_embedding_dimension()
    vectors = EngineVectors(model="tiny", adapter=None, keys=keys, batch_size=32, dimensions=dimensions, graph=graph)
    return Vectorizer(encoder, vectors)
