"""Reduced queries: what the grammar admits is what parses, and datasets whose rewrites only leave words out."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.errors import UsageError
from searchlora.outputs import FreeText, InvalidOutput
from searchlora.tasks.rewriting import task
from searchlora.tasks.rewriting.reduction import ReducedQuery
from tests.factories import admission, write_jsonl

QUERY = 'the "road"  the movie 映画 it\'s\\n'
WORDS = QUERY.split()
FORM = ReducedQuery(QUERY)


@pytest.fixture(scope="module")
def admits(tiny_base):
    return admission(tiny_base, FORM)


def test_every_reduction_is_admitted_and_parses(admits):
    for size in range(1, len(WORDS) + 1):
        for kept in combinations(WORDS, size):
            assert admits(" ".join(kept)), kept
            assert FORM.parse(" ".join(kept)) == " ".join(kept)


@pytest.mark.parametrize("text", ["", " ", "movie the", "the the the", "road", "The", "the  movie", "the movie more"])
def test_other_text_is_not_admitted(admits, text):
    assert not admits(text)


@given(st.lists(st.sampled_from([*WORDS, "else"]), max_size=7))
def test_a_text_parses_if_it_is_a_subsequence(words):
    is_one = tuple(words) in {kept for size in range(1, 7) for kept in combinations(WORDS, size)}
    assert isinstance(FORM.parse(" ".join(words)), str) == is_one


def test_a_blank_query_has_no_grammar_and_no_valid_answer():
    form = ReducedQuery("  ")
    assert form.grammar is None
    assert isinstance(form.parse("tent"), InvalidOutput)


@pytest.mark.parametrize("words", [["a"] * 4000, [f"w{number}" for number in range(4000)]], ids=["equal", "different"])
def test_a_query_of_any_length_has_a_grammar_that_can_be_compiled(tiny_base, words):
    form = ReducedQuery(" ".join(words))
    assert admission(tiny_base, form)(" ".join(words[:20:2]))
    assert not admission(tiny_base, form)("b")
    assert form.parse(words[-1]) == words[-1]


@pytest.fixture
def pairs(tmp_path):
    rows = [("red tent movie", "red tent"), ("blue tent cheap", "azure tent"), ("green sofa", "green sofa")]
    return write_jsonl(tmp_path / "pairs.jsonl", [{"query": query, "rewrite": rewrite} for query, rewrite in rows])


def test_rewrites_with_other_words_are_rejected(pairs, tmp_path):
    how = {"options": {"words": "query"}, "split_ratios": (1.0, 0.0, 0.0), "allow_rejects": True}
    build(task, pairs, format="pairs", out=tmp_path / "out", **how)
    dataset = load_dataset(tmp_path / "out")
    assert {record["rewrite"] for record in dataset.records("train")} == {"red tent", "green sofa"}
    (rejected,) = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert "field 'rewrite': not words of the query in their order (--option words=query)" in rejected
    bound = task.bound(dataset.settings)
    assert bound.output({"query": "red tent"}) == ReducedQuery("red tent")
    assert isinstance(bound.parse("a red tent", {"query": "red tent"}), InvalidOutput)


def test_other_datasets_admit_any_words(pairs, tmp_path):
    build(task, pairs, format="pairs", out=tmp_path / "out", split_ratios=(1.0, 0.0, 0.0))
    dataset = load_dataset(tmp_path / "out")
    assert len(dataset.records("train")) == 3
    assert isinstance(task.bound(dataset.settings).output({"query": "red tent"}), FreeText)


def test_another_value_of_the_option_is_refused(pairs, tmp_path):
    with pytest.raises(UsageError, match="'document' is neither any nor query"):
        build(task, pairs, format="pairs", out=tmp_path / "out", options={"words": "document"})
    assert not (tmp_path / "out").exists()
