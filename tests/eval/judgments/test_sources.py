"""Sources of grades: `human` only where a card or a user says so, and each file keeps its own."""

from __future__ import annotations

import json

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.card import (
    JudgmentsCard,
    RunCard,
    card_path,
    has_card,
    source_of,
    write_judgments,
    write_run_card,
)
from searchlora.eval.judgments.derived_cards import merged_card
from searchlora.eval.judgments.sources import SOURCES, SourceCounts, merged_source
from searchlora.eval.trec import write_qrels, write_run

QRELS = {"t1": {"d1": 3, "d2": 0}, "t2": {"d1": 1}}
LLM = JudgmentsCard("llm", "2026-07-01", judge="j@1", judge_lineage=("j@1",), counts={"llm": 3})


def test_qrels_without_a_card_are_of_unknown_source(tmp_path):
    write_qrels(tmp_path / "human.txt", QRELS)
    assert source_of(tmp_path / "human.txt") == "unknown"
    assert source_of(tmp_path / "human.txt", "human") == "human"


@pytest.mark.parametrize("declared", [source for source in SOURCES if source != "llm"])
def test_a_declaration_does_not_replace_a_card(tmp_path, declared):
    write_judgments(tmp_path / "q.txt", QRELS, LLM)
    assert source_of(tmp_path / "q.txt", "llm") == "llm"
    with pytest.raises(UsageError, match=f"its card says that the judgments are 'llm', not '{declared}'"):
        source_of(tmp_path / "q.txt", declared)


def test_a_card_of_another_file_is_an_error(tmp_path):
    write_judgments(tmp_path / "human.txt", QRELS, JudgmentsCard("human", ""))
    write_qrels(tmp_path / "llm.txt", {"t1": {"d1": 1}})
    card_path(tmp_path / "human.txt").rename(card_path(tmp_path / "llm.txt"))
    with pytest.raises(DataError, match="was changed since its card was written"):
        source_of(tmp_path / "llm.txt")
    with (tmp_path / "human.txt").open("a") as file:  # human qrels without their card, and an LLM's appended
        file.write("t9 0 d1 1\n")
    assert source_of(tmp_path / "human.txt") == "unknown"


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ({"source": "people"}, "the field 'source': input should be 'human', 'llm'"),
        ({"source": "human"}, "its source is 'human', and it names the judge j@1"),
        ({"source": "human", "judge": None}, "its source is 'human', and it names the judge j@1"),
        ({"source": "human", "judge": None, "judge_lineage": []}, "its source is 'human', and it names grades of llm"),
        ({"source": None}, "the field 'source': "),
    ],
)
def test_a_card_that_was_edited_into_a_human_one_is_an_error(tmp_path, change, reported):
    write_judgments(tmp_path / "q.txt", QRELS, LLM)
    values = json.loads(card_path(tmp_path / "q.txt").read_text())
    card_path(tmp_path / "q.txt").write_text(json.dumps(values | change))
    with pytest.raises(DataError, match=reported):
        source_of(tmp_path / "q.txt")


def test_the_card_of_a_run_is_no_card_of_judgments(tmp_path):
    write_run(tmp_path / "r.trec", {"t1": {"d1": 1.0}}, "r")
    write_run_card(tmp_path / "r.trec", RunCard("r", "2026-07-01"))
    assert not has_card(tmp_path / "r.trec")


@pytest.mark.parametrize(
    ("sources", "word"),
    [
        ({}, "unknown"),
        ({"human": 2}, "human"),
        ({"human": 2, "llm": 1}, "mixed"),
        ({"human": 2, "mixed": 1}, "mixed"),
        ({"human": 999, "unknown": 1}, "unknown"),
        ({"mixed": 9, "unknown": 1}, "unknown"),
        ({"llm": 2, "clicks": 1}, "clicks and llm"),
        ({"human": 2, "synthetic": 1}, "human and synthetic"),
    ],
)
def test_one_word_for_several_sources_never_says_more_than_the_grades(sources, word):
    assert SourceCounts(sources).source == word


def test_merged_grades_are_of_unknown_source_if_one_of_them_is():
    assert merged_source([None, None]) is None
    assert merged_source(["llm", "clicks"]) == merged_source(["human", None]) == "unknown"


def test_a_merged_card_names_every_judge():
    other = JudgmentsCard("llm", "2026-08-01", judge="k@2", judge_lineage=("k@2", "j@1"), judge_queries=None)
    card = merged_card([LLM, other])
    assert (card.judge, card.judge_lineage, card.judge_queries) == ("j@1, k@2", ("j@1", "k@2"), None)
