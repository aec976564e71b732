"""Documents, corpora and an encoder for indexes in search engines."""

from __future__ import annotations

from pathlib import Path

from searchlora.models.fingerprint import Fingerprint
from searchlora.records import Document
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.engine_index import EngineVectors, Vectorizer
from searchlora.retrieval.index_manifest import CorpusIdentity, VectorKeys, corpus_identity
from searchlora.retrieval.retriever import Retriever

FINGERPRINT = Fingerprint(architecture="Tiny", tensors="0", tokenizer="0", template="0", config="0")


def vectorizer_of(encoder: Encoder, graph: bool = False) -> Vectorizer:
    """The encoder with settings that most tests use; its fingerprint is made up."""
    fixed = {"adapter": None, "dimensions": None, "normalise": True, "document_prefix": "", "precision": "fp32"}
    keys = VectorKeys(encoder=FINGERPRINT, max_tokens=encoder.max_tokens, **fixed)
    dimensions = encoder.model.get_embedding_dimension()
    vectors = EngineVectors(model="tiny", adapter=None, keys=keys, batch_size=32, dimensions=dimensions, graph=graph)
    return Vectorizer(encoder, vectors)


def numbered(count: int, word: str = "tent") -> list[Document]:
    """Documents of seven different texts."""
    return [Document(f"d{number}", f"{word} {number % 7}") for number in range(count)]


def identity(folder: Path, content: str = "a", name: str = "corpus.jsonl") -> CorpusIdentity:
    """The identity of a corpus file that is written with some content."""
    file = folder / name
    file.write_text(content)
    return corpus_identity(file, {"text": ("name", "description")})


def found(retriever: Retriever, query: str, k: int = 9) -> list[str]:
    """The ids of the hits of one query."""
    return [hit.document for hit in retriever.search([query], k)[0]]
