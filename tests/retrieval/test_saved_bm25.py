"""A saved BM25 index has the hits of the index that was saved, and is memory-mapped."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from searchlora.records import Document
from searchlora.retrieval import Analyzer, BM25Index

WORD = st.sampled_from(["ant", "bee", "cat", "dog", "eel", "跑鞋", "🥾x"])
TEXT = st.lists(WORD, max_size=8).map(" ".join)


def saved(index, folder, analyzer=None):
    index.save(folder)
    return BM25Index.load(folder, index._documents, analyzer or Analyzer())


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=1, max_size=12), queries=st.lists(TEXT, max_size=4))
def test_hits_are_identical_to_those_of_the_index_in_memory(tmp_path, texts, queries):
    documents = [Document(f"d{place}", text) for place, text in enumerate(["ant", *texts])]
    index = BM25Index(documents)
    assert saved(index, tmp_path).search(queries, 5) == index.search(queries, 5)


def test_analyser_and_fields_are_those_of_the_saved_index(tmp_path):
    documents = [Document("d1", "running shoes", "boots"), Document("d2", "boots", "running shoes")]
    analyzer = Analyzer(stemmer="english")
    index = BM25Index(documents, analyzer=analyzer, fields={"title": 3, "text": 1})
    loaded = saved(index, tmp_path, analyzer)
    assert loaded.search(["boot", "runs"], 2) == index.search(["boot", "runs"], 2)
    assert [hit.document for hit in loaded.search(["boot"], 2)[0]] == ["d1", "d2"]


def test_terms_that_wait_on_disk_give_the_same_matrix(tmp_path):
    documents = [Document(f"d{place}", "ant bee " * place) for place in range(1, 9)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    BM25Index(documents).save(tmp_path / "a")
    BM25Index(documents, spool=tmp_path).save(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b"]  # the waiting terms have no name


def test_its_matrix_is_mapped(tmp_path):
    documents = [Document("d1", "ant")]
    loaded = saved(BM25Index(documents), tmp_path)
    for array in loaded._scorer.scores.values():
        if isinstance(array, np.ndarray):
            assert isinstance(array.base, np.memmap) and isinstance(array.base._mmap, mmap.mmap)
