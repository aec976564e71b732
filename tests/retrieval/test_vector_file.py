"""Vectors on disk are those of the index in memory, bit for bit, however often their computation is interrupted."""

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
    """An encoder that counts its texts, and fails after some."""

    def __init__(self, encoder, fails_after=10**6):
        self.encoder, self.left, self.texts = encoder, fails_after, 0

    def encode_documents(self, texts, **options):
        if self.left <= 0:
            raise KeyboardInterrupt
        self.left -= len(texts)
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


def test_an_interrupted_call_is_continued_to_the_same_bytes(tmp_path, encoder):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    counting = Counting(encoder)
    encode_to(whole, DOCUMENTS, counting, batch_size=1)
    distinct = len({text for text in TEXTS if text.strip()})
    assert counting.texts == distinct  # equal texts once
    encoded = 0
    for fails_after in (1, 1, 40):
        failing = Counting(encoder, fails_after)
        with pytest.raises(KeyboardInterrupt):
            encode_to(parts, DOCUMENTS, failing, batch_size=1)
        encoded += failing.texts
        assert not (parts / "vectors.npy").exists()
    reported = []
    last = Counting(encoder)
    encode_to(parts, DOCUMENTS, last, batch_size=1, progress=lambda done, total, *_: reported.append((done, total)))
    assert encoded + last.texts == distinct and 0 < last.texts < encoded
    assert reported[-1] == (distinct, distinct)
    for name in ("vectors.npy", "rows.npy"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(file.name for file in parts.iterdir() if file.is_file()) == ["rows.npy", "vectors.npy"]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [8, 32])
def test_any_number_of_shards_gives_the_same_bytes(tmp_path, encoder, batch_size):
    documents = [Document(f"d{number}", f"{'tent ' * (number % 11)}{number}") for number in range(1_200)]
    expected = DenseIndex(documents, encoder, TextEncoding(batch_size=batch_size)).vectors
    for shards in (1, 2, 5):
        folder = tmp_path / str(shards)
        folder.mkdir()
        encode_to(folder, documents, encoder, shards=shards, batch_size=batch_size)
        assert (folder / "vectors.npy").read_bytes() == (tmp_path / "1" / "vectors.npy").read_bytes()
        assert (open_vectors(folder)[0] == expected).all()


def test_a_changed_document_is_encoded_with_the_texts_of_its_part_only(tmp_path, encoder):
    encode_to(tmp_path, DOCUMENTS, encoder, batch_size=1)
    changed = [*DOCUMENTS[:40], Document("d40", DOCUMENTS[40].text.replace("tent", "rope")), *DOCUMENTS[41:]]
    counting = Counting(encoder)
    encode_to(tmp_path, changed, counting, batch_size=1)
    assert counting.texts == 16
    assert (open_vectors(tmp_path)[0] == DenseIndex(changed, encoder, TextEncoding(batch_size=1)).vectors).all()


def test_parts_of_another_batch_size_are_encoded_again(tmp_path, encoder):
    with pytest.raises(KeyboardInterrupt):
        encode_to(tmp_path, DOCUMENTS, Counting(encoder, 1), batch_size=1)
    counting = Counting(encoder)
    encode_to(tmp_path, DOCUMENTS, counting, batch_size=2)
    assert counting.texts == len({text for text in TEXTS if text.strip()})


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

    encode_to(tmp_path, Documents(DOCUMENTS), Watching(encoder), batch_size=1)


def test_vectors_of_different_dimensions_are_refused(tmp_path):
    class Growing:
        def encode_documents(self, texts, **_options):
            return np.ones((len(texts), max(map(len, texts))), dtype=np.float32)

    with pytest.raises(DataError, match=r"vectors of .* and of .* dimensions"):
        encode_to(tmp_path, DOCUMENTS, Growing(), batch_size=1)


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


def test_a_collection_without_text_is_refused(tmp_path, encoder):
    with pytest.raises(DataError, match="no document contains text"):
        encode_to(tmp_path, [Document("a", " ")], encoder)


def test_a_vector_that_is_not_finite_names_its_document(tmp_path):
    class Broken:
        def encode_documents(self, texts, **_options):
            return np.array([[np.nan] if text == "bad" else [1.0] for text in texts], dtype=np.float32)

    with pytest.raises(DataError, match="d1: the encoder returns a vector that is not finite"):
        encode_to(tmp_path, [Document("d0", "good"), Document("d1", "bad")], Broken())
