"""Text encoders: a sentence-transformers model, optionally with an adapter, and how texts are batched for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import UsageError
from searchlora.progress import Progress, silent
from searchlora.retrieval.shared_model import SharedModel, Vectors

if TYPE_CHECKING:
    from searchlora.adapters.stored import StoredAdapter
    from searchlora.models.load import Precision
    from searchlora.models.resolve import BaseModel

#: Batches of texts of similar lengths in characters that are sorted by their tokens.
BATCHES_OF_A_WINDOW = 16

#: Characters per readable token: of the part of a long text that is tokenised first, and of the part that is read. No
#: language has such long tokens; a text with fewer tokens is made of blanks or of words that no tokenizer knows.
_FIRST_CHARACTERS, _MAX_CHARACTERS = 16, 256


class TextEncoder(Protocol):
    """What turns texts into vectors: an `Encoder` in this process, or a `RemoteEncoder`. Safe for threads."""

    @property
    def name(self) -> str:
        """The name in reports."""

    @property
    def max_tokens(self) -> int | None:
        """Length in tokens at which texts are truncated; None: unknown, or no limit."""

    @property
    def vector_dimensions(self) -> int:
        """Dimensions of a vector."""

    @property
    def at_once(self) -> int:
        """Batches that are worth having in work at once."""

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int = 32, precision: Precision = "fp32", progress: Progress = silent
    ) -> Vectors:
        """The vectors of documents, shape (texts, dimensions)."""

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: Progress = silent) -> Vectors:
        """The vectors of queries, shape (texts, dimensions)."""

    def encode_together(self, texts: Sequence[str]) -> Vectors:
        """The vectors of a few queries, in a pass that calls of other threads may share."""


class Encoder:
    """A sentence-transformers model that turns texts into vectors. Safe for threads: forward passes take turns.

    Prompts in the model's folder are not applied; pass them as prefixes.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        dimensions: int | None = None,
        *,
        adapter: str | None = None,
        query_only: bool = False,
    ) -> None:
        self.shared = model if isinstance(model, SharedModel) else SharedModel(model)
        self.name = name
        self.dimensions = dimensions
        self.adapter = adapter
        self.query_only = query_only
        largest = self.model.get_embedding_dimension()
        if dimensions is not None and not 1 <= dimensions <= largest:
            raise UsageError(f"vectors of {largest} dimensions cannot be truncated to {dimensions}", where=name)

    #: Forward passes take turns.
    at_once = 1

    @classmethod
    def load(
        cls,
        name: str,
        *,
        adapter: StoredAdapter | None = None,
        dimensions: int | None = None,
        device: str | None = None,
        revision: str | None = None,
        shared: Callable[[Path, Callable[[], SharedModel]], SharedModel] | None = None,
    ) -> Encoder:
        """Load an encoder by catalogue name, folder or hub id, see `searchlora.models.resolve`."""
        from searchlora.models.load import load_encoder

        base = encoder_base(name, adapter, revision)

        def load() -> SharedModel:
            return SharedModel(load_encoder(base, device=device))

        if adapter is not None and not adapter.is_full:
            from searchlora.adapters.load_check import check_files

            check_files(adapter, base)
        model = load() if shared is None else shared(base.path, load)
        if adapter is None:
            return cls(model, f"{name}@{base.revision[:12]}" if base.revision else name, dimensions)
        if adapter.is_full:
            return cls(model, adapter.reference, dimensions)
        model.add(adapter)
        reference = adapter.reference
        return cls(model, reference, dimensions, adapter=reference, query_only=adapter.manifest.query_side_only)

    @property
    def model(self) -> Any:
        """The `SentenceTransformer`, in float32."""
        return self.shared.model

    @property
    def vector_dimensions(self) -> int:
        """Dimensions of a vector."""
        return int(self.dimensions or self.model.get_embedding_dimension())

    @property
    def max_tokens(self) -> int | None:
        """Maximum input length in tokens, including special tokens; None: no limit."""
        limit = self.model.max_seq_length
        return None if limit is None else int(limit)

    def tokens(self, text: str) -> int:
        """Length of a text in tokens before truncation, including special tokens."""
        if self.shared.tokenizer is None:
            return len(self.model.tokenizer(text, truncation=False, verbose=False)["input_ids"])
        return len(self.shared.tokenizer.encode(text).ids)

    def readable(self, text: str) -> tuple[str, int]:
        """The beginning of a text that the encoder reads, without tokenising the rest.

        The text is cut where it has more than twice `max_tokens`, between two words if there are any, so the tokens
        that are left after truncation are those of the whole text; else at 256 characters per token of `max_tokens`.

        Returns the beginning, or the whole text if it is not much longer, and its length in tokens, as `tokens`.
        """
        limit = self.max_tokens
        if limit is None:
            return text, self.tokens(text)
        for per_token in (_FIRST_CHARACTERS, _FIRST_CHARACTERS * 4, _MAX_CHARACTERS):
            beginning = _cut(text, per_token * limit)
            length = self.tokens(beginning)
            if beginning is text or length > 2 * limit:
                break
        return beginning, length

    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 32,
        precision: Precision = "fp32",
        progress: Progress = silent,
    ) -> Vectors:
        """Encode documents: as `encode`, but without an adapter that is for queries only."""
        return self._encode(texts, None if self.query_only else self.adapter, batch_size, precision, progress)

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: Progress = silent) -> Vectors:
        """Encode texts; those of an index with `encode_documents`.

        The vector of a text depends on its batch by about 1e-7, the rounding of float32. Texts are taken by length in
        characters, 16 batches at a time, and those 16 batches by length in tokens.

        Returns vectors, shape (texts, dimensions).
        """
        return self._encode(texts, self.adapter, batch_size, "fp32", progress)

    def encode_together(self, texts: Sequence[str], check: Callable[[], object] = lambda: None) -> Vectors:
        """Encode a few queries, in a pass with those of other threads, which may use other adapters of the model."""
        return truncated(self.shared.submit(texts, self.adapter, check).result(), self.dimensions)

    def _encode(
        self, texts: Sequence[str], adapter: str | None, batch_size: int, precision: Precision, progress: Progress
    ) -> Vectors:
        vectors: Vectors = np.zeros((0, 0), dtype=np.float32)
        done = 0
        for places in self._windows(texts, batch_size):
            parts = []
            for batch in places:
                rows = [texts[place] for place in batch]
                parts.append(self.shared.encode(rows, [adapter] * len(rows), precision))
                done += len(rows)
                progress(done, len(texts), "texts encoded")
            encoded = truncated(np.concatenate([part.cpu().numpy() for part in parts]), self.dimensions)
            if not len(vectors):
                vectors = np.zeros((len(texts), encoded.shape[1]), dtype=np.float32)
            vectors[np.concatenate(places)] = encoded
        return vectors

    def _windows(self, texts: Sequence[str], batch_size: int) -> Iterator[list[NDArray[np.intp]]]:
        """The places of the texts, in windows of batches; what a window holds depends on its own texts only."""
        order = by_length(np.array([len(text) for text in texts], dtype=np.int64))
        limit = self.max_tokens
        for start in range(0, len(order), batch_size * BATCHES_OF_A_WINDOW):
            window = order[start : start + batch_size * BATCHES_OF_A_WINDOW]
            tokens = self._lengths([texts[place] for place in window])
            most = batch_size * limit if self.shared.on_gpu and limit is not None else None
            yield [window[batch] for batch in token_batches(tokens, batch_size, most)]

    def _lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Lengths in tokens after truncation, shape (texts,); in characters if the tokenizer is slow."""
        limit = self.max_tokens
        if self.shared.tokenizer is None or limit is None:
            return np.array([len(text) for text in texts], dtype=np.int64)
        beginnings = [text[: _FIRST_CHARACTERS * limit] for text in texts]
        encoded = self.shared.tokenizer.encode_batch(beginnings)
        return np.minimum(np.array([len(tokens.ids) for tokens in encoded], dtype=np.int64), limit)


def truncated(vectors: Vectors, dimensions: int | None) -> Vectors:
    """The first dimensions of vectors, normalised; None: the vectors as they are."""
    if dimensions is None:
        return vectors
    vectors = vectors[:, :dimensions]
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def token_batches(tokens: NDArray[np.int64], batch_size: int, max_tokens: int | None = None) -> list[NDArray[np.intp]]:
    """Batches of texts of similar lengths, the longest first.

    `tokens`: Length of each text, shape (texts,).

    Examples:
        >>> token_batches(np.array([2, 9, 3, 8]), 2)
        [array([1, 3]), array([2, 0])]
        >>> token_batches(np.array([2, 9, 3, 2]), 1, max_tokens=9)
        [array([1]), array([2, 0, 3])]
    """
    order = np.argsort(-tokens, kind="stable")
    batches, start = [], 0
    while start < len(order):
        longest = max(1, int(tokens[order[start]]))
        size = batch_size if max_tokens is None else max(1, max_tokens // longest)
        batches.append(order[start : start + size])
        start += size
    return batches


def by_length(lengths: NDArray[np.int64]) -> NDArray[np.intp]:
    """The order in which texts are encoded: the longest first, so that texts of a batch have similar lengths.

    `lengths`: Lengths in characters, shape (texts,).
    """
    return np.argsort(-lengths, kind="stable")


def encoder_base(name: str, adapter: StoredAdapter | None = None, revision: str | None = None) -> BaseModel:
    """The model folder that `Encoder.load` loads: the base, or the version if it is a whole encoder."""
    if adapter is not None and adapter.is_full:
        from searchlora.adapters.full_model import model_of

        return model_of(adapter)
    from searchlora.models.resolve import resolve

    if adapter is None:
        return resolve(name, revision)
    trained_on = adapter.manifest.base
    return trained_on.resolve() if name == trained_on.name else resolve(name, trained_on.revision)


def _cut(text: str, characters: int) -> str:
    """At most so many characters of a text, without the last word, which may be cut; the text itself if it is short."""
    if len(text) <= characters:
        return text
    words = text[:characters].rsplit(None, 1)
    return words[0] if len(words) == 2 else text[:characters]
