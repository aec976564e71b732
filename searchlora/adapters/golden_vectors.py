"""Golden vectors: a few made texts whose vectors an encoder's adapter must reproduce for ever."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from searchlora.adapters.attach import attach
from searchlora.adapters.manifest import Golden, GoldenVector
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import GoldenVectorsMismatch
from searchlora.models.encoder import load_encoder
from searchlora.models.resolve import BaseModel
from searchlora.task import EncoderTask

#: How far a number of a vector may be from the one stored, as a share of the largest one.
#:
#: Measured on all-MiniLM-L6-v2 in float32: the same text alone, beside others and with another number of threads moves
#: a number by at most 4e-7 (3e-6 of the largest). A factor of 30 is left for other machines.
TOLERANCE = 1e-4


def golden_vectors(task: EncoderTask, base: BaseModel, folder: Path) -> Golden:
    """What the manifest of a PEFT folder holds, from the task's examples, on a copy of the base loaded for it."""
    encoder = load_encoder(base, device="cpu")
    texts = _texts(task)
    adapted = attach(encoder, folder)
    rows = encoded(encoder, texts)
    with adapted.disable_adapter():
        plain = encoded(encoder, texts)
    vectors = [
        GoldenVector(text=text, vector=row.tolist(), base_difference=float(abs(row - base_row).max()))
        for text, row, base_row in zip(texts, rows, plain, strict=True)
    ]
    return Golden(vectors=vectors, precision="fp32", tolerance=TOLERANCE)


def check_vectors(stored: StoredAdapter, base: BaseModel) -> None:
    """Compute the golden vectors again on a copy of the base loaded for it.

    Raises:
        MissingKey, UnexpectedKey: see `attach`.
        GoldenVectorsMismatch: naming the text and the largest difference.
    """
    golden = stored.manifest.golden
    texts = [each.text for each in golden.vectors]
    encoder = load_encoder(base, device="cpu")
    adapted = attach(encoder, stored)
    if not texts:
        return
    rows = encoded(encoder, texts)
    with adapted.disable_adapter():
        distance = abs(rows - encoded(encoder, texts)).max()
    if not distance > 0:  # so that NaN fails too
        raise GoldenVectorsMismatch(
            "the vectors of all golden texts equal the base's", where=stored.reference, fix="Was it trained?"
        )
    for row, then in zip(rows, golden.vectors, strict=True):
        allowed = golden.tolerance * max(map(abs, then.vector))
        same_length = len(row) == len(then.vector)
        largest = float(abs(row - then.vector).max()) if same_length else float("inf")
        if not largest <= allowed:
            raise GoldenVectorsMismatch(
                f"the vector of the golden text {then.text[:40]!r} is {largest:.3g} off, over {allowed:.3g}",
                where=stored.reference,
                fix="Check the versions of torch, transformers and sentence-transformers against the manifest's.",
            )


def _texts(task: EncoderTask) -> list[str]:
    """The texts of the task's examples, each once."""
    found: dict[str, None] = {}
    for record in task.examples:
        found |= dict.fromkeys([task.query(record), *task.positives(record)])
    return list(found)


def encoded(encoder: Any, texts: Sequence[str]) -> Any:
    """Float32 array (texts, dimensions); each text by itself, so that no padding disturbs it."""
    import numpy as np

    options = {"prompt": "", "show_progress_bar": False, "convert_to_numpy": True}
    return np.concatenate([encoder.encode([text], **options) for text in texts])
