"""Converted files keep their cards: conversion never turns LLM grades into human ones."""

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
    invalid_path,
    read_card,
    read_run_card,
    write_judgments,
    write_run_card,
)
from searchlora.eval.judgments.converting import convert_qrels, convert_run
from searchlora.eval.trec import write_qrels, write_run

QRELS = {"t1": {"d1": 3, "d2": 0}, "t2": {"d1": 1}}
CARD = JudgmentsCard(
    "llm", "2026-07-01", judge="j@1", judge_lineage=("j@1", "i@1"), judge_queries=("0123456789abcdef",)
)


def test_converted_judgments_keep_their_card_and_invalid_answers(tmp_path):
    source, target = tmp_path / "llm.txt", tmp_path / "llm.parquet"
    write_judgments(source, QRELS, replace(CARD, invalid=1, probabilities="llm.txt.probabilities.jsonl"))
    invalid_path(source).write_text(
        json.dumps({"topic": "t2", "document": "d9", "raw": "well"}) + "\n", encoding="utf-8"
    )
    assert convert_qrels(source, target, "trec", "parquet") == QRELS
    card = read_card(target)
    assert replace(card, qrels_sha256="") == replace(CARD, invalid=1)
    assert read_labels(target) == {"t1": {"d1": 3, "d2": 0}, "t2": {"d1": 1, "d9": None}}
    with pytest.raises(UsageError, match="1 invalid answers of the judge are stored by topic id"):
        convert_qrels(source, tmp_path / "q.csv", "trec", "quepid", topics={"t1": {"query": "a"}, "t2": {"query": "b"}})
    assert not (tmp_path / "q.csv").exists()
    source.write_text("t1 0 d1 0\n", encoding="utf-8")
    with pytest.raises(DataError, match="was changed since its card"):
        convert_qrels(source, tmp_path / "q.jsonl", "trec", "jsonl")


def test_converted_judgments_by_query_keep_their_card(tmp_path):
    write_judgments(tmp_path / "llm.txt", QRELS, CARD)
    topics = {"t1": {"query": "a tent"}, "t2": {"query": "a stove"}}
    convert_qrels(tmp_path / "llm.txt", tmp_path / "q.csv", "trec", "quepid", topics=topics)
    assert read_card(tmp_path / "q.csv").judge_lineage == ("j@1", "i@1")
    convert_qrels(tmp_path / "q.csv", tmp_path / "back.txt", "quepid", "trec", topics=topics)
    assert (tmp_path / "back.txt").read_bytes() == (tmp_path / "llm.txt").read_bytes()
    assert read_card(tmp_path / "back.txt").judge_queries == CARD.judge_queries


def test_qrels_without_a_card_get_none(tmp_path):
    write_qrels(tmp_path / "q.txt", QRELS)
    write_run(tmp_path / "r.trec", {"t1": {"d1": 1.0}}, "r")
    convert_qrels(tmp_path / "q.txt", tmp_path / "q.json", "trec", "ranx")
    convert_run(tmp_path / "r.trec", tmp_path / "r.json", "trec", "ranx", tag="r")
    assert not card_path(tmp_path / "q.json").exists() and not card_path(tmp_path / "r.json").exists()


def test_a_converted_run_keeps_its_card(tmp_path):
    write_run(tmp_path / "r.trec", {"t1": {"d1": 1.0}}, "r")
    write_run_card(tmp_path / "r.trec", RunCard("rewritten", "2026-07-01", lineage=("j@1",)))
    convert_run(tmp_path / "r.trec", tmp_path / "r.json", "trec", "ranx", tag="r")
    assert read_run_card(tmp_path / "r.json").lineage == ("j@1",)


def test_a_beir_folder_has_the_card_of_its_judgments(tmp_path):
    (tmp_path / "qrels").mkdir()
    written = write_judgments(tmp_path / "qrels" / "test.tsv", QRELS, CARD)
    assert read_card(tmp_path) == written
    convert_qrels(tmp_path, tmp_path / "q.txt", "beir", "trec")
    assert read_card(tmp_path / "q.txt").source == "llm"
