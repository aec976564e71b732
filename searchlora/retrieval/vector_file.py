"""Document vectors on disk: encoded in bounded memory, in parts of a job in shards, and memory-mapped."""

from __future__ import annotations

import base64
import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import DataError
from searchlora.files.shards import Job
from searchlora.files.string_table import check_vector, mapped_array
from searchlora.records import Document
from searchlora.retrieval.encoder import BATCHES_OF_A_WINDOW, TextEncoder, by_length
from searchlora.retrieval.encoding import TextEncoding, check_finite, longest_of, normalised
from searchlora.retrieval.shared_model import Vectors

VECTORS = "vectors.npy"
ROWS = "rows.npy"
VECTOR_FILES = (VECTORS, ROWS)
_ENCODED = "encoded.f32"

#: Vectors that are normalised and written at once.
_BLOCK = 8_192


def open_vectors(folder: Path) -> tuple[Vectors, NDArray[np.int64]]:
    """Open what `write_vectors` wrote, memory-mapped.

    Returns:
        The vectors of the documents with text, shape (documents with text, dimensions), and the number of the document
        of each, ascending.

    Raises:
        OSError, ValueError: if a file is missing, is not a plain array, or does not fit the other.
    """
    vectors, rows = mapped_array(folder / VECTORS), mapped_array(folder / ROWS)
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not vectors.flags.c_contiguous or not vectors.size:
        raise ValueError(f"the vectors are an array of {vectors.dtype} and shape {vectors.shape}")
    check_vector(rows, np.int64, "rows", len(vectors))
    if rows[0] < 0 or bool((rows[1:] <= rows[:-1]).any()):
        raise ValueError("the rows do not ascend")
    return vectors, rows


@dataclass(frozen=True)
class DistinctTexts:
    """The texts of documents, equal ones once, in the order in which `DenseIndex` encodes them.

    Attributes:
        rows: Number of each document with text, ascending, shape (documents with text,).
        encoded: Number of the first document with each text, the longest text first, shape (texts,).
        places: Of each document with text, the place of its text in `encoded`.
    """

    rows: NDArray[np.int64]
    encoded: NDArray[np.int64]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, documents: Iterable[Document]) -> DistinctTexts:
        """Read documents once, in about 100 bytes of memory each. Texts are compared by 128 bits of their hash.

        Raises:
            DataError: if no document contains text.
        """
        rows, lengths, hashes = array("q"), array("q"), bytearray()
        for number, document in enumerate(documents):
            text = document.searchable
            if text.strip():
                rows.append(number)
                lengths.append(len(text))
                hashes += hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if not rows:
            raise DataError("no document contains text to search")
        _, first, group = np.unique(np.frombuffer(bytes(hashes), dtype="u8,u8"), return_index=True, return_inverse=True)
        first = first[group]
        distinct = np.flatnonzero(first == np.arange(len(rows)))
        order = distinct[by_length(np.array(lengths, dtype=np.int64)[distinct])]
        places = np.empty(len(rows), dtype=np.int64)
        places[order] = np.arange(len(order))
        numbers = np.array(rows, dtype=np.int64)
        return cls(numbers, numbers[order], places[first])


def encoding_job(
    texts: DistinctTexts, at: Callable[[int], Document], encoder: TextEncoder, encoding: TextEncoding, key: Any
) -> Job:
    """The texts as rows, and as results their vectors, in base64 of float32: what the encoder returns.

    A part is a window of the encoder, the texts of 16 batches, so that vectors have the same bytes as in `DenseIndex`
    for any number of shards. Its results raise `DataError` for a vector that is not finite.

    Args:
        at: The document of a number.
        key: All that vectors depend on besides the texts and the batch size, as JSON.
    """

    def read(numbers: Sequence[int]) -> list[tuple[str, str]]:
        return [(document.id, document.searchable) for document in map(at, map(int, numbers))]

    def compute(rows: Sequence[tuple[str, str]]) -> list[str]:
        vectors = encoding.forward(encoder, [text for _, text in rows])
        check_finite(vectors, (f"document {name}" for name, _ in rows))
        return [base64.b64encode(vector.tobytes()).decode() for vector in vectors.astype("<f4")]

    window = encoding.batch_size * BATCHES_OF_A_WINDOW
    return Job(key, texts.encoded, compute, window, read=read, part_rows=window)


def write_vectors(folder: Path, texts: DistinctTexts, vectors: Iterable[str], normalise: bool) -> float:
    """Write the results of an `encoding_job` into a folder, in the order of the documents.

    Args:
        folder: An existing folder.
        vectors: One for each text, in their order; read as a stream.
        normalise: Normalise vectors to length 1.

    Returns:
        The length of the longest vector.

    Raises:
        DataError: if vectors have different dimensions.
        OSError: if a file cannot be written.
    """
    file = folder / _ENCODED
    sizes = set()
    with file.open("wb") as out:
        for vector in map(base64.b64decode, vectors):
            sizes.add(len(vector) // 4)
            out.write(vector)
    if len(sizes) > 1:
        raise DataError(f"the encoder returned vectors of {' and of '.join(map(str, sorted(sizes)))} dimensions")
    encoded = np.memmap(file, dtype="<f4", mode="r").reshape(len(texts.encoded), -1)
    longest = _in_order(folder / VECTORS, encoded.view(np.ndarray), texts.places, normalise)
    np.save(folder / ROWS, texts.rows, allow_pickle=False)
    del encoded
    file.unlink()
    return longest


def _in_order(file: Path, encoded: Vectors, places: NDArray[np.int64], normalise: bool) -> float:
    """Write the vectors in the order of the documents, normalised if requested; returns the longest one's length."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(places), encoded.shape[1])}
    longest = 0.0
    with file.open("wb") as out:  # not mapped: on a full disk, writing to a map kills the process
        np.lib.format.write_array_header_2_0(out, header)
        for start in range(0, len(places), _BLOCK):
            block = encoded[places[start : start + _BLOCK]]
            block = normalised(block) if normalise else block
            longest = max(longest, longest_of(block))
            out.write(np.ascontiguousarray(block, dtype="<f4").tobytes())
    return longest
