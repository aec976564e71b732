"""Converted files keep their cards: conversion never turns LLM grades into human ones."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.eval.judge.labels import read_labels
from searchlora.eval.judgments.card import (
    JudgmentsCard,
    has_card,
    invalid_path,
    read_card,
    source_of,
    write_card,
    write_judgments,
)
from searchlora.eval.judgments.converting import convert_qrels
from searchlora.eval.trec import write_qrels

QRELS = {"t1": {"d1": 3, "d2": 0}, "t2": {"d1": 1}}
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
