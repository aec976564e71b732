"""Vectors on disk are those of the index in memory, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from searchlora.errors import DataError
from searchlora.records import Document
from searchlora.retrieval import DenseIndex
from searchlora.retrieval.encoding import TextEncoding
from searchlora.retrieval.vector_file import open_vectors
from tests.factories import encode_to

TEXTS = [f"{'tent ' * (number % 7)}{number}" for number in range(90)] + ["tent", "tent", "", "  ", "палатка", "tent"]
DOCUMENTS = [Document(f"d{number}", text) for number, text in enumerate(TEXTS)]


class Counting:
    """An encoder that counts its texts."""

    def __init__(self, encoder):
        self.encoder, self.texts = encoder, 0

    def encode_documents(self, texts, **options):
        self.texts += len(texts)
        return self.encoder.encode_documents(texts, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"normalise": False, "document_prefix": "text: "}, {"batch_size": 3}, {"batch_size": 3, "precision": "bf16"}],
)
def test_vectors_equal_those_of_the_index_in_memory(tmp_path, encoder, options):
    longest = encode_to(tmp_path, DOCUMENTS, encoder, **options)
    (vectors, rows), index = open_vectors(tmp_path), DenseIndex(DOCUMENTS, encoder, TextEncoding(**options))
    assert (vectors == index.vectors).all()
    assert vectors.dtype == np.float32
    assert (rows == index._rows).all()
    assert longest == pytest.approx(np.linalg.norm(index.vectors, axis=1).max(), rel=1e-6)


def test_only_the_texts_of_one_part_are_read_at_a_time(tmp_path, encoder):
    read = []

    class Watching(Counting):
        def encode_documents(self, texts, **options):
            assert len(read) == len(texts) <= 16
            read.clear()
            return super().encode_documents(texts, **options)

    class Documents(list):
        def __getitem__(self, number):
            read.append(number)
            return super().__getitem__(number)

    reported, watching = [], Watching(encoder)
    encode_to(tmp_path, Documents(DOCUMENTS), watching, lambda *each: reported.append(each), batch_size=1)
    distinct = len({text for text in TEXTS if text.strip()})
    assert watching.texts == distinct and reported[-1] == (distinct, distinct)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rows.npy", "vectors.npy"]


def test_bf16_is_close_to_fp32_and_not_equal(encoder, monkeypatch):
    monkeypatch.setattr("searchlora.models.load.multiplies_bf16", lambda: True)
    texts = [text for text in TEXTS if text.strip()]
    fp32, bf16 = (encoder.encode_documents(texts, precision=precision) for precision in ("fp32", "bf16"))
    difference = abs(fp32 - bf16).max() / abs(fp32).max()
    assert 0 < difference < 0.05
    assert bf16.dtype == np.float32
    assert (encoder.encode(texts) == fp32).all()  # queries stay in fp32
    monkeypatch.setattr("searchlora.models.load.multiplies_bf16", lambda: False)
    assert (encoder.encode_documents(texts, precision="bf16") == fp32).all()  # the processor would be slower in bf16


def test_a_vector_that_is_not_finite_names_its_document(tmp_path):
    class Broken:
        def encode_documents(self, texts, **_options):
            return np.array([[np.nan] if text == "bad" else [1.0] for text in texts], dtype=np.float32)

    with pytest.raises(DataError, match="d1: the encoder returns a vector that is not finite"):
        encode_to(tmp_path, [Document("d0", "good"), Document("d1", "bad")], Broken())
