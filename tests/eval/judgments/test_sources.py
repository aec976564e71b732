"""Sources of grades: `human` only where a card or a user says so, and each file keeps its own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.eval.judge.labels import read_labels
from searchlora.eval.judgments.card import (
    JudgmentsCard,
    RunCard,
    card_path,
    has_card,
    invalid_path,
    read_card,
    source_of,
    write_card,
    write_judgments,
    write_run_card,
)
from searchlora.eval.judgments.converting import convert_qrels
from searchlora.eval.judgments.derived_cards import merged_card
from searchlora.eval.judgments.sources import SOURCES, SourceCounts, merged_source
from searchlora.eval.trec import write_qrels, write_run

QRELS = {"t1": {"d1": 3, "d2": 0}, "t2": {"d1": 1}}
LLM = JudgmentsCard("llm", "2026-07-01", judge="j@1", judge_lineage=("j@1",), counts={"llm": 3})


def test_qrels_without_a_card_are_of_unknown_source(tmp_path):
    write_qrels(tmp_path / "human.txt", QRELS)
    assert source_of(tmp_path / "human.txt") == "unknown"
    assert source_of(tmp_path / "human.txt", "human") == "human"
    write_run(tmp_path / "r.trec", {"t1": {"d1": 1.0}}, "r")
    write_run_card(tmp_path / "r.trec", RunCard("r", "2026-07-01"))
    assert not has_card(tmp_path / "r.trec")  # the card of a run is none of judgments


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


def test_a_merged_card_names_every_judge():
    other = JudgmentsCard("llm", "2026-08-01", judge="k@2", judge_lineage=("k@2", "j@1"), judge_queries=None)
    card = merged_card([LLM, other])
    assert (card.judge, card.judge_lineage, card.judge_queries) == ("j@1, k@2", ("j@1", "k@2"), None)
    assert merged_source([None, None]) is None
    assert merged_source(["llm", "clicks"]) == merged_source(["human", None]) == "unknown"


# Converted files keep their cards: conversion never turns LLM grades into human ones

TOPICS = {"t1": {"query": "a tent"}, "t2": {"query": "a stove"}}
CARD = JudgmentsCard(
    "llm", "2026-07-01", judge="j@1", judge_lineage=("j@1", "i@1"), judge_queries=("0123456789abcdef",)
)


def test_converted_judgments_keep_their_card_and_invalid_answers(tmp_path):
    source, target = tmp_path / "llm.txt", tmp_path / "copy.txt"
    write_judgments(source, QRELS, replace(CARD, invalid=1, probabilities="llm.txt.probabilities.jsonl"))
    invalid_path(source).write_text(
        json.dumps({"topic": "t2", "document": "d9", "raw": "well"}) + "\n", encoding="utf-8"
    )
    assert convert_qrels(source, target) == QRELS
    assert replace(read_card(target), qrels_sha256="") == replace(CARD, invalid=1)
    assert read_labels(target) == {"t1": {"d1": 3, "d2": 0}, "t2": {"d1": 1, "d9": None}}
    with pytest.raises(UsageError, match="1 invalid answers of the judge are stored by topic id"):
        convert_qrels(source, tmp_path / "q.json", to_opensearch=True, topics=TOPICS)
    assert not (tmp_path / "q.json").exists()
    source.write_text("t1 0 d1 0\n", encoding="utf-8")
    with pytest.raises(DataError, match="was changed since its card"):
        convert_qrels(source, tmp_path / "q.txt")


def test_judgments_by_query_keep_their_card(tmp_path):
    write_judgments(tmp_path / "llm.txt", QRELS, CARD)
    convert_qrels(tmp_path / "llm.txt", tmp_path / "q.json", to_opensearch=True, topics=TOPICS)
    assert read_card(tmp_path / "q.json").judge_lineage == ("j@1", "i@1")
    convert_qrels(tmp_path / "q.json", tmp_path / "back.txt", topics=TOPICS)
    assert (tmp_path / "back.txt").read_bytes() == (tmp_path / "llm.txt").read_bytes()
    assert read_card(tmp_path / "back.txt").judge_queries == CARD.judge_queries


def test_a_beir_folder_has_the_card_of_its_judgments(tmp_path):
    (tmp_path / "qrels").mkdir()
    file = tmp_path / "qrels" / "test.tsv"
    file.write_text("query-id\tcorpus-id\tscore\nt1\td1\t3\n")
    written = write_card(file, CARD)
    assert read_card(tmp_path) == written
    convert_qrels(tmp_path, tmp_path / "q.txt")
    assert read_card(tmp_path / "q.txt").source == "llm"


def test_judgments_without_a_card_are_declared_once(tmp_path):
    write_qrels(tmp_path / "q.txt", QRELS)
    convert_qrels(tmp_path / "q.txt", tmp_path / "plain.txt")
    assert not has_card(tmp_path / "plain.txt")
    convert_qrels(tmp_path / "q.txt", tmp_path / "declared.txt", declared="human")
    assert source_of(tmp_path / "declared.txt") == "human"
    write_card(tmp_path / "q.txt", CARD)
    with pytest.raises(UsageError, match="its card says"):
        convert_qrels(tmp_path / "q.txt", tmp_path / "other.txt", declared="human")
