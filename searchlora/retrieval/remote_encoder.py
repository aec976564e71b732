"""An encoder that a server computes: `/v1/embeddings` of Text Embeddings Inference, vLLM, our own server or others."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import EngineError, RequestRefused
from searchlora.http_client import OF_ONE_REQUEST, HttpClient, Refused
from searchlora.progress import Progress, silent
from searchlora.retrieval.encoder import by_length, truncated
from searchlora.retrieval.shared_model import Vectors

#: Owner in the list of models -> what is sent so that a long text is truncated, as a local encoder does it.
_TRUNCATION: Mapping[str, Mapping[str, Any]] = {
    "searchlora": {"truncate": True},
    "vllm": {"truncate_prompt_tokens": -1},
}


@dataclass(frozen=True)
class RemoteEncoder:
    """An encoder that a server computes; used where an `Encoder` is. Safe for threads.

    A server of another kind than `searchlora` and vLLM must truncate long texts by its own settings, as Text Embeddings
    Inference does with `--auto-truncate`.
    """

    client: HttpClient
    name: str
    dimensions: int | None
    concurrency: int
    listed: Mapping[str, Any]

    @classmethod
    def open(cls, client: HttpClient, name: str, dimensions: int | None = None, concurrency: int = 8) -> RemoteEncoder:
        """Look the model up."""
        try:
            entries = client.get("/v1/models")["data"]
            models = {str(entry["id"]): entry for entry in entries}
        except Refused as error:
            if error.status != 404:
                raise
            models = {}  # Text Embeddings Inference has one model and does not list it
        except (KeyError, TypeError):
            raise EngineError("the server does not list its models as OpenAI's does", where=client.url) from None
        if models and name not in models:
            raise EngineError(
                f"the server has no encoder '{name}'", where=client.url, fix=f"Its models: {', '.join(sorted(models))}."
            )
        return cls(client, name, dimensions, concurrency, models.get(name, {}))

    @property
    def at_once(self) -> int:
        """Requests in flight."""
        return self.concurrency

    @property
    def served(self) -> str:
        """What the name stands for: the exact version of an adapter, or the name itself."""
        return str(self.listed.get("root") or self.name)

    @property
    def max_tokens(self) -> int | None:
        """Length at which the server truncates; None: unknown."""
        limit = self.listed.get("max_model_len")
        return limit if isinstance(limit, int) else None

    @property
    def vector_dimensions(self) -> int:
        """Dimensions of a vector; one text is encoded if they are not set."""
        return self.dimensions or self.encode(["dimensions"]).shape[1]

    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 32,
        precision: str = "fp32",
        progress: Progress = silent,
    ) -> Vectors:
        """Encode documents: as `encode`, and without an adapter for queries only if the server is of this project."""
        del precision
        return self._encode(texts, batch_size, progress, "document")

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: Progress = silent) -> Vectors:
        """Encode texts; texts of similar lengths share a request.

        Returns vectors, shape (texts, dimensions).
        """
        return self._encode(texts, batch_size, progress, "query")

    def encode_together(self, texts: Sequence[str]) -> Vectors:
        """Encode a few queries; the server shares its passes as it does."""
        return self.encode(texts)

    def _encode(self, texts: Sequence[str], batch_size: int, progress: Progress, input_type: str) -> Vectors:
        order = by_length(np.array([len(text) for text in texts], dtype=np.int64))
        places = [order[start : start + batch_size] for start in range(0, len(texts), batch_size)]
        batches = [[texts[place] for place in batch] for batch in places]
        stop = Event()
        vectors: Vectors = np.zeros((0, 0), dtype=np.float32)
        done = 0
        with ThreadPoolExecutor(self.concurrency, "searchlora-embeddings") as pool:
            try:
                answers = pool.map(partial(self._ask, input_type=input_type, stop=stop), batches)
                for batch, part in zip(places, answers, strict=True):
                    if not len(vectors):
                        vectors = np.zeros((len(texts), part.shape[1]), dtype=np.float32)
                    if part.shape[1] != vectors.shape[1]:
                        raise self._wrong(f"vectors of {part.shape[1]} and of {vectors.shape[1]} dimensions")
                    vectors[batch] = part
                    done += len(batch)
                    progress(done, len(texts), "texts encoded")
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return vectors

    def _ask(self, texts: Sequence[str], *, input_type: str, stop: Event) -> Vectors:
        owner = self.listed.get("owned_by")
        body = {"model": self.name, "input": list(texts), **_TRUNCATION.get(str(owner), {})}
        if owner in _TRUNCATION:
            body["encoding_format"] = "base64"
        if owner == "searchlora":
            body["input_type"] = input_type
        try:
            answer = self.client.post("/v1/embeddings", body, cancelled=stop)
        except Refused as error:
            if error.status in OF_ONE_REQUEST:  # one of the texts is too long, for example
                raise RequestRefused(error.what, where=error.where, fix=error.fix) from None
            raise
        try:
            by_index = {int(item["index"]): _vector(item["embedding"]) for item in answer["data"]}
            vectors: Vectors = np.stack([by_index[number] for number in range(len(texts))])
            if vectors.ndim != 2 or not vectors.size:
                raise ValueError(f"they have the shape {vectors.shape}")
        except (KeyError, TypeError, ValueError) as error:
            raise self._wrong(f"no vector of the same length for each of {len(texts)} texts ({error})") from None
        if self.dimensions is not None and self.dimensions > vectors.shape[1]:
            raise self._wrong(
                f"vectors of {vectors.shape[1]} dimensions, too few to truncate them to {self.dimensions}"
            )
        return truncated(vectors, self.dimensions)

    def _wrong(self, what: str) -> EngineError:
        return EngineError(f"the server returns {what}", where=f"{self.client.url}, {self.name}")


def _vector(vector: Any) -> NDArray[np.float32]:
    """A vector: a list of numbers, or base64 of little-endian float32."""
    if isinstance(vector, str):
        return np.frombuffer(base64.b64decode(vector), "<f4")
    return np.array(vector, dtype=np.float32)
