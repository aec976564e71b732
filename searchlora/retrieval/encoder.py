"""Text encoders: a sentence-transformers model, optionally with an adapter."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import UsageError
from searchlora.progress import Progress, silent

if TYPE_CHECKING:
    from searchlora.adapters.stored import StoredAdapter
    from searchlora.models.load import Precision
    from searchlora.models.resolve import BaseModel

Vectors = NDArray[np.float32]

#: Characters per readable token: of the part of a long text that is tokenised first, and of the part that is read. No
#: language has such long tokens; a text with fewer tokens is made of blanks or of words that no tokenizer knows.
_FIRST_CHARACTERS, _MAX_CHARACTERS = 16, 256


class Encoder:
    """A sentence-transformers model that turns texts into vectors. Safe for threads: forward passes take turns.

    Args:
        model: A loaded `SentenceTransformer`, with or without an adapter on it.
        name: The name in reports; with an adapter, its pinned reference.
        dimensions: Truncate vectors to this many dimensions and normalise them, for encoders trained for it
            (Matryoshka, arXiv:2205.13147); None: full vectors.
        query_adapter: The `peft.PeftModel` inside `model` whose adapter is for queries only (`sides: query` of the
            recipe); None: queries and documents are encoded alike.

    Prompts in the model's folder are not applied; pass them as prefixes.

    Raises:
        UsageError: if the vectors have fewer dimensions.
    """

    def __init__(self, model: Any, name: str, dimensions: int | None = None, query_adapter: Any = None) -> None:
        self.model = model
        self.query_adapter = query_adapter
        self.name = name
        self.dimensions = dimensions
        # A call of the model changes settings of its tokenizer, and an adapter for queries is off for documents.
        self._lock = threading.RLock()
        largest = model.get_embedding_dimension()
        if dimensions is not None and not 1 <= dimensions <= largest:
            raise UsageError(f"vectors of {largest} dimensions cannot be truncated to {dimensions}", where=name)

    @classmethod
    def load(
        cls,
        name: str,
        *,
        adapter: StoredAdapter | None = None,
        dimensions: int | None = None,
        device: str | None = None,
        revision: str | None = None,
    ) -> Encoder:
        """Load an encoder by catalogue name, folder or hub id, see `searchlora.models.resolve`.

        Args:
            revision: Of a model of the hub without an adapter; an adapter names its own.
            adapter: An adapter of this encoder, or a version that is a whole encoder, loaded after its load check.

        Raises:
            BaseModelError: if the model does not exist or cannot be loaded.
            LoadCheckFailed: if the adapter fails its load check.
        """
        from searchlora.models.load import load_encoder

        base = encoder_base(name, adapter, revision)
        if adapter is None:
            pinned = f"{name}@{base.revision[:12]}" if base.revision else name
            return cls(load_encoder(base, device=device), pinned, dimensions)
        if adapter.is_full:
            return cls(load_encoder(base, device=device), adapter.reference, dimensions)
        from searchlora.adapters.attach import attach
        from searchlora.adapters.load_check import check_files

        check_files(adapter, base)
        model = load_encoder(base, device=device)
        adapted = attach(model, adapter)
        query_adapter = adapted if adapter.manifest.query_side_only else None
        return cls(model, adapter.reference, dimensions, query_adapter)

    @property
    def max_tokens(self) -> int | None:
        """Maximum input length in tokens, including special tokens; None: no limit."""
        limit = self.model.max_seq_length
        return None if limit is None else int(limit)

    def tokens(self, text: str) -> int:
        """Length of a text in tokens before truncation, including special tokens."""
        if self._tokenizer is None:
            return len(self.model.tokenizer(text, truncation=False, verbose=False)["input_ids"])
        return len(self._tokenizer.encode(text).ids)

    def readable(self, text: str) -> tuple[str, int]:
        """The beginning of a text that the encoder reads, without tokenising the rest.

        The text is cut where it has more than twice `max_tokens`, between two words if there are any, so the tokens
        that are left after truncation are those of the whole text; else at 256 characters per token of `max_tokens`.

        Returns:
            The beginning, or the whole text if it is not much longer, and its length in tokens, as `tokens`.
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

    @cached_property
    def _tokenizer(self) -> Any:
        """A copy of the fast tokenizer that neither truncates nor pads; None for a slow one.

        The model changes these settings of its own tokenizer with each call, so other threads must not use that.
        """
        fast = getattr(self.model.tokenizer, "backend_tokenizer", None)
        if fast is None:
            return None
        tokenizer = copy.deepcopy(fast)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = self.model.tokenizer.split_special_tokens
        return tokenizer

    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 32,
        precision: Precision = "fp32",
        progress: Progress = silent,
    ) -> Vectors:
        """Encode documents: as `encode`, but without an adapter that is for queries only.

        Args:
            precision: Of the matrix products; with bf16 a component of a vector differs by up to about 1% of the
                largest. The vectors are float32.
        """
        with self._as_for_documents(), self._computing_in(precision):
            return self.encode(texts, batch_size=batch_size, progress=progress)

    @contextmanager
    def _as_for_documents(self) -> Iterator[None]:
        if self.query_adapter is None:
            yield
            return
        with self._lock, self.query_adapter.disable_adapter():
            yield

    def _computing_in(self, precision: Precision) -> AbstractContextManager[Any]:
        if precision == "fp32":
            return nullcontext()
        import torch

        from searchlora.models.load import computed_in

        if computed_in(precision, self.model.device.type) == "fp32":
            return nullcontext()

        # Weights stay float32, so that the same model encodes queries.
        autocast: AbstractContextManager[Any] = torch.autocast(self.model.device.type, dtype=torch.bfloat16)
        return autocast

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: Progress = silent) -> Vectors:
        """Encode texts; those of an index with `encode_documents`.

        The vector of a text depends on its batch by about 1e-7, the rounding of float32.

        Args:
            batch_size: Texts per forward pass; texts of similar length share a batch.

        Returns:
            Vectors, shape (texts, dimensions).
        """
        order = by_length(np.array([len(text) for text in texts], dtype=np.int64)).tolist()
        vectors: Vectors = np.zeros((0, 0), dtype=np.float32)
        for start in range(0, len(texts), batch_size):
            places = order[start : start + batch_size]
            with self._lock:
                part = self.model.encode(
                    [texts[index] for index in places],
                    prompt="",
                    batch_size=batch_size,
                    show_progress_bar=False,
                    convert_to_numpy=True,
                    truncate_dim=self.dimensions,
                    normalize_embeddings=self.dimensions is not None,
                )
            if not len(vectors):
                vectors = np.zeros((len(texts), part.shape[1]), dtype=np.float32)
            vectors[places] = part
            progress(start + len(places), len(texts), "texts encoded")
        return vectors


def by_length(lengths: NDArray[np.int64]) -> NDArray[np.intp]:
    """The order in which texts are encoded: the longest first, so that texts of a batch have similar lengths.

    Args:
        lengths: Lengths in characters, shape (texts,).
    """
    return np.argsort(-lengths, kind="stable")


def encoder_base(name: str, adapter: StoredAdapter | None = None, revision: str | None = None) -> BaseModel:
    """The model folder that `Encoder.load` loads: the base, or the version if it is a whole encoder.

    Args:
        revision: Of a model of the hub without an adapter; an adapter names its own.

    Raises:
        BaseModelError: if the model does not exist.
        TamperedAdapter: for a version that is a whole encoder and was changed.
    """
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
