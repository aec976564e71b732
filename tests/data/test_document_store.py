"""Documents read on demand are those that were written, and a faulty collection is refused."""

from __future__ import annotations

import tracemalloc

import pytest

from searchlora.data.collection import read_documents
from searchlora.data.document_store import DocumentStore, write_documents
from searchlora.errors import DataError
from searchlora.records import Document
from searchlora.retrieval.retriever import tie_order

DOCUMENTS = [
    Document("d2", "green tent", "Tent", {"brand": "Acme", "price": "9"}),
    Document("d10", "wool\u2028socks\nwarm"),
    Document("тент", "палатка 🥾"),
    Document("d1", ""),
]


@pytest.fixture
def store(tmp_path):
    assert write_documents(iter(DOCUMENTS), tmp_path) == 4
    return DocumentStore(tmp_path)


def test_it_is_the_mapping_of_the_documents(store):
    assert dict(store) == {document.id: document for document in DOCUMENTS}
    assert list(store) == [document.id for document in DOCUMENTS]
    assert list(store.in_order()) == DOCUMENTS
    assert store.get("d3") is None
    assert "d10" in store and 3 not in store
    with pytest.raises(KeyError, match="d3"):
        store["d3"]


def test_its_lines_are_read_as_a_corpus(store):
    assert list(read_documents(store.folder / "documents.jsonl")) == DOCUMENTS


def test_its_tie_order_is_that_of_retrievers(store):
    assert store.tie_order.tolist() == tie_order([document.id for document in DOCUMENTS]).tolist()


@pytest.mark.parametrize(
    ("documents", "complaint"),
    [
        ([], "no document contains text"),
        ([*DOCUMENTS, Document("d2", "again")], "two documents have the id 'd2'"),
        ([Document("a b", "x")], "cannot be used in a TREC file"),
        ([Document("a", "\ud83d")], "lone surrogate"),
    ],
)
def test_a_collection_that_cannot_be_stored_is_refused(documents, complaint, tmp_path):
    with pytest.raises(DataError, match=complaint):
        write_documents(documents, tmp_path)


def test_texts_are_not_kept_in_memory(tmp_path):
    texts = (chr(97 + number % 26) * 20_000 for number in range(500))
    tracemalloc.start()
    try:
        write_documents((Document(str(number), text) for number, text in enumerate(texts)), tmp_path)
        store = DocumentStore(tmp_path)
        assert sum(len(document.text) for document in store.in_order()) == 10_000_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
