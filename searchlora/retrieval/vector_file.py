"""Document vectors on disk: encoded in bounded memory, and memory-mapped."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import DataError
from searchlora.files.string_table import mapped_array
from searchlora.progress import Progress, silent
from searchlora.records import Document
from searchlora.retrieval.encoder import BATCHES_OF_A_WINDOW, TextEncoder, by_length
from searchlora.retrieval.encoding import TextEncoding, check_finite, longest_of, normalised
from searchlora.retrieval.shared_model import Vectors

VECTORS = "vectors.npy"
ROWS = "rows.npy"
_ENCODED = "encoded.f32"

#: Vectors that are normalised and written at once.
_BLOCK = 8_192


def open_vectors(folder: Path) -> tuple[Vectors, NDArray[np.int64]]:
    """Open what `write_vectors` wrote, memory-mapped.

    Returns the vectors of the documents with text, shape (documents with text, dimensions), and the number of the
    document of each, ascending.
    """
    return mapped_array(folder / VECTORS), mapped_array(folder / ROWS)


@dataclass(frozen=True)
class DistinctTexts:
    """The texts of documents, equal ones once, in the order in which `DenseIndex` encodes them."""

    rows: NDArray[np.int64]  # number of each document with text, ascending, shape (documents with text,)
    encoded: NDArray[np.int64]  # number of the first document with each text, the longest text first, shape (texts,)
    places: NDArray[np.int64]

    @classmethod
    def of(cls, documents: Iterable[Document]) -> DistinctTexts:
        """Read documents once, in about 100 bytes of memory each. Texts are compared by 128 bits of their hash."""
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


def write_vectors(
    folder: Path,
    texts: DistinctTexts,
    at: Callable[[int], Document],
    encoder: TextEncoder,
    encoding: TextEncoding,
    progress: Progress = silent,
) -> float:
    """Encode texts into a folder, in the order of the documents, in memory for 16 batches at a time.

    Vectors have the bytes of those in `DenseIndex`.
    """
    file, size = folder / _ENCODED, encoding.batch_size * BATCHES_OF_A_WINDOW
    with file.open("wb") as out:
        for start in range(0, len(texts.encoded), size):
            documents = [at(int(number)) for number in texts.encoded[start : start + size]]
            vectors = encoding.forward(encoder, [document.searchable for document in documents])
            check_finite(vectors, (f"document {document.id}" for document in documents))
            out.write(vectors.astype("<f4").tobytes())
            progress(start + len(documents), len(texts.encoded))
    encoded = np.memmap(file, dtype="<f4", mode="r").reshape(len(texts.encoded), -1).view(np.ndarray)
    longest = _in_order(folder / VECTORS, encoded, texts.places, encoding.normalise)
    np.save(folder / ROWS, texts.rows, allow_pickle=False)
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
