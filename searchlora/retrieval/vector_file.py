"""Document vectors on disk: encoded in bounded memory, in parts that a killed build keeps, and memory-mapped."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import DataError
from searchlora.files import atomic_text, parse_json
from searchlora.files.string_table import check_vector, mapped_array
from searchlora.progress import Progress, silent
from searchlora.records import Document
from searchlora.retrieval.encoder import BATCHES_OF_A_WINDOW, TextEncoder, by_length
from searchlora.retrieval.encoding import USUAL_ENCODING, TextEncoding, check_finite, longest_of, normalised
from searchlora.retrieval.shared_model import Vectors

VECTORS = "vectors.npy"
ROWS = "rows.npy"
VECTOR_FILES = (VECTORS, ROWS)
_ENCODED, _DONE = "encoded.f32", "encoded.json"

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


def write_vectors(
    folder: Path,
    documents: Iterable[Document],
    at: Callable[[int], Document],
    encoder: TextEncoder,
    encoding: TextEncoding = USUAL_ENCODING,
    progress: Progress = silent,
) -> float:
    """Encode documents into a folder; an earlier call that was killed is continued.

    What a killed call needs stays in the folder until `remove_parts`.

    Texts are encoded in the order and the batches in which `DenseIndex` encodes them, and equal texts once, so that the
    vectors are the same. In memory are about 100 bytes per document, and the texts of 16 batches.

    Args:
        folder: An existing folder; an earlier call on it must have had the same arguments, apart from the batch size.
        documents: All documents, read once.
        at: The document of a number, from 0 in the order of `documents`.

    Returns:
        The length of the longest vector.

    Raises:
        DataError: if no document contains text, or the encoder returns a vector that is not finite.
        OSError: if a file cannot be written.
    """
    rows, first, lengths = _texts(documents)
    distinct = np.flatnonzero(first == np.arange(len(rows)))
    order = distinct[by_length(lengths[distinct])]

    def forward(places: Sequence[int], shifted: Progress) -> Vectors:
        batch = [at(int(rows[place])) for place in places]
        vectors = encoding.forward(encoder, [document.searchable for document in batch], shifted)
        check_finite(vectors, (f"document {document.id}" for document in batch))
        return vectors

    encoded = _encode(folder, order, forward, encoding.batch_size, progress)
    places = np.empty(len(rows), dtype=np.int64)
    places[order] = np.arange(len(order))
    longest = _in_order(folder / VECTORS, encoded, places[first], encoding.normalise)
    np.save(folder / ROWS, rows, allow_pickle=False)
    return longest


def remove_parts(folder: Path) -> None:
    """Remove what `write_vectors` kept to be continued, once the vectors are noted as complete."""
    for name in (_ENCODED, _DONE):
        (folder / name).unlink(missing_ok=True)


def _texts(documents: Iterable[Document]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each document with text: its number, the first such document with the same text, and the text's length.

    Three arrays of shape (documents with text,); the second has places in these arrays. Texts are compared by 128 bits
    of their hash.
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
    return np.array(rows, dtype=np.int64), first[group], np.array(lengths, dtype=np.int64)


def _encode(
    folder: Path,
    order: NDArray[np.int64],
    forward: Callable[[Sequence[int], Progress], Vectors],
    batch_size: int,
    progress: Progress,
) -> Vectors:
    """Vectors of the texts in `order`, memory-mapped: those that are there, and those that are encoded now."""
    file = folder / _ENCODED
    step = batch_size * BATCHES_OF_A_WINDOW
    done, dimensions = _kept(folder, batch_size)
    with file.open("r+b" if done else "wb") as out:
        out.truncate(done * dimensions * 4)  # of the part at whose end the build was killed
        out.seek(0, os.SEEK_END)
        for start in range(done, len(order), step):
            vectors = forward(order[start : start + step].tolist(), _shifted(progress, start, len(order)))
            out.write(np.ascontiguousarray(vectors, dtype=np.float32).tobytes())
            out.flush()
            os.fsync(out.fileno())
            done, dimensions = start + len(vectors), vectors.shape[1]
            with atomic_text(folder / _DONE) as state:
                json.dump({"texts": done, "dimensions": dimensions, "batch_size": batch_size}, state)
    return np.memmap(file, dtype=np.float32, mode="r", shape=(done, dimensions)).view(np.ndarray)


def _kept(folder: Path, batch_size: int) -> tuple[int, int]:
    """Texts whose vectors a killed build left, and their dimensions; none if it had another batch size."""
    try:
        state = parse_json((folder / _DONE).read_text(encoding="utf-8"))
        done, dimensions = int(state["texts"]), int(state["dimensions"])
        complete = (folder / _ENCODED).stat().st_size >= done * dimensions * 4
        return (done, dimensions) if complete and state["batch_size"] == batch_size else (0, 0)
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0


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


def _shifted(progress: Progress, start: int, of_all: int) -> Progress:
    """Progress of a part as that of the whole."""

    def shifted(done: int, total: int | None, note: str = "") -> None:
        del total
        progress(start + done, of_all, note)

    return shifted
