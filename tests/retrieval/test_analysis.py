"""Tokenisation is the same for documents and queries, in any language."""

from __future__ import annotations

import bm25s
import pytest
from bm25s.stopwords import STOPWORDS_EN
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.errors import UsageError
from searchlora.retrieval import analysis
from searchlora.retrieval.analysis import ENGLISH, Analyzer


def test_tokenisation():
    assert Analyzer()("The Trail-Runner's SIZE 9, for Zürich (東京)!") == ["trail", "runner", "size", "zürich", "東京"]
    assert Analyzer(stopwords=None, shortest=1)("The 9 a") == ["the", "9", "a"]
    assert Analyzer(stemmer="english")("running shoes ran running") == ["run", "shoe", "ran", "run"]
    assert Analyzer()("") == []


def test_stop_words_equal_those_of_bm25s():
    assert frozenset(STOPWORDS_EN) == ENGLISH


#: Text without marks, also in lower case, which bm25s takes for separators, and without what Unicode 14 does not have.
WITHOUT_MARKS = st.text(
    st.characters(exclude_categories=("Mn", "Mc", "Me", "Cn", "Co", "Cs"), exclude_characters="İ"), max_size=60
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(text=WITHOUT_MARKS)
def test_tokens_equal_those_of_bm25s(text):
    assert Analyzer()(text) == bm25s.tokenize(text, return_ids=False, show_progress=False)[0] or not Analyzer()(text)


def test_unknown_options_are_errors():
    with pytest.raises(UsageError, match="no stop list 'klingon'"):
        Analyzer(stopwords="klingon")
    with pytest.raises(UsageError, match="no stemmer 'klingon'"):
        Analyzer(stemmer="klingon")
    with pytest.raises(UsageError, match="at least 1"):
        Analyzer(shortest=0)


def test_stems_that_are_kept_are_bounded(monkeypatch):
    monkeypatch.setattr(analysis, "_MOST_STEMS", 3)
    analyzer = Analyzer(stemmer="english")
    for _ in range(2):
        assert analyzer("boots tents lamps ropes maps") == ["boot", "tent", "lamp", "rope", "map"]
        assert len(analyzer._stems) <= 3


def test_marks_do_not_cut_words():
    assert Analyzer()("दिन में दान x") == ["दिन", "में", "दान"]
    assert Analyzer()("İstanbul") == ["i\u0307stanbul"]
    assert Analyzer()("The m² of a room_é9 x") == ["m²", "room_é9"]
