"""Provenance cards of qrels and runs, valid only for the file that they were written for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from searchlora.errors import DataError
from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import (
    JudgmentsCard,
    RunCard,
    card_path,
    read_card,
    read_run_card,
    write_judgments,
    write_run_card,
)
from searchlora.eval.trec import write_run

QRELS = {"t1": {"d1": 3, "d2": 0}, "t2": {"d1": 1}}
CARD = JudgmentsCard(
    "llm",
    "2026-07-01T12:00:00+00:00",
    judge="shop-judge@3",
    judge_lineage=("shop-judge@3", "first-judge@1"),
    base="tiny",
    prompt_hash="ab" * 32,
    judge_queries=("0123456789abcdef", "fedcba9876543210"),
    counts={"llm": 3},
    probabilities="qrels.txt.probabilities.jsonl",
    made_from={"run.trec": "cd" * 32},
    scale=(0, 1, 2, 3),
    relevant=2,
)


def test_a_card_round_trips(tmp_path):
    path = tmp_path / "made" / "qrels.txt"
    written = write_judgments(path, QRELS, CARD)
    assert read_card(path) == written
    assert replace(written, qrels_sha256="") == CARD
    assert read_qrels(path) == QRELS
    assert read_card(tmp_path / "other.txt") is None
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "qrels.txt",
        "qrels.txt.card.json",
        "qrels.txt.judge-queries.txt",
    ]


@pytest.mark.parametrize("queries", [(), None])
def test_no_queries_and_unknown_queries_differ(tmp_path, queries):
    write_judgments(tmp_path / "qrels.txt.gz", QRELS, CARD)
    write_judgments(tmp_path / "qrels.txt.gz", QRELS, replace(CARD, judge_queries=queries))
    assert read_card(tmp_path / "qrels.txt.gz").judge_queries == queries
    assert len(list(tmp_path.iterdir())) == 2


def test_changed_qrels_and_judge_queries_are_refused(tmp_path):
    path = tmp_path / "qrels.txt"
    write_judgments(path, QRELS, CARD)
    path.write_text(path.read_text(encoding="utf-8").replace("d2 0", "d2 2"), encoding="utf-8")
    with pytest.raises(DataError, match=r"qrels\.txt: was changed since its card was written"):
        read_card(path)
    write_judgments(path, QRELS, CARD)
    (tmp_path / "qrels.txt.judge-queries.txt").write_text("0123456789abcdef\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"judge-queries\.txt does not match its sha256"):
        read_card(path)


def test_a_kill_between_card_and_qrels_leaves_refused_qrels(tmp_path, monkeypatch):
    path = tmp_path / "qrels.txt"
    path.write_text("t1 0 d1 0\n", encoding="utf-8")

    def killed_before_the_qrels(self, target):
        if self.name.startswith(".new-"):
            raise KeyboardInterrupt
        return rename(self, target)

    rename = Path.replace
    monkeypatch.setattr(Path, "replace", killed_before_the_qrels)
    with pytest.raises(KeyboardInterrupt):
        write_judgments(path, QRELS, CARD)
    assert path.read_text(encoding="utf-8") == "t1 0 d1 0\n"
    with pytest.raises(DataError, match="was changed since its card"):
        read_card(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values | {"more": 1}, "the field 'more': unexpected"),
        (lambda values: {key: value for key, value in values.items() if key != "rule"}, "the field 'rule' is missing"),
        (lambda values: values | {"source": "a friend"}, "the field 'source': input should be 'human', 'llm'"),
        (lambda values: values | {"schema_version": 2}, "schema version is not 1"),
        (lambda values: [values], "schema version is not 1"),
        (lambda values: values | {"judge_lineage": "shop-judge@3"}, "the field 'judge_lineage': "),
        (lambda values: values | {"judge_lineage": [3]}, "the field 'judge_lineage': "),
        (lambda values: values | {"judge_queries": 5}, "the field 'judge_queries': "),
        (lambda values: values | {"judge_queries": {"count": 2, "sha256": None}}, "does not match its sha256"),
        (lambda values: values | {"invalid": True}, "the field 'invalid': "),
    ],
)
def test_a_damaged_card_is_an_error_that_names_the_fault(tmp_path, change, message):
    path = tmp_path / "qrels.txt"
    write_judgments(path, QRELS, CARD)
    values = json.loads(card_path(path).read_text(encoding="utf-8"))
    card_path(path).write_text(json.dumps(change(values)), encoding="utf-8")
    with pytest.raises(DataError, match=message) as refused:
        read_card(path)
    assert refused.value.where == str(card_path(path))


def test_a_card_of_a_run_round_trips(tmp_path):
    path = tmp_path / "run.trec"
    write_run(path, {"t1": {"d1": 2.0}}, "tag")
    assert read_run_card(path) is None
    card = RunCard("rewritten", "2026-07-01", ("shop-rewriter@3",), ("shop-rewriter@3", "old@1"), ("tiny",), "a_b")
    written = write_run_card(path, card)
    assert read_run_card(path) == written
    write_run(path, {"t1": {"d1": 1.0}}, "tag")
    with pytest.raises(DataError, match=r"run\.trec: was changed since its card"):
        read_run_card(path)


@pytest.mark.parametrize("lineage", ["old@1", [1], None])
def test_a_damaged_card_of_a_run_is_an_error_that_names_the_fault(tmp_path, lineage):
    """Letters of a text would be adapters that no judge shares."""
    path = tmp_path / "run.trec"
    write_run(path, {"t1": {"d1": 2.0}}, "tag")
    write_run_card(path, RunCard("rewritten", "2026-07-01"))
    values = json.loads(card_path(path).read_text(encoding="utf-8"))
    card_path(path).write_text(json.dumps(values | {"lineage": lineage}), encoding="utf-8")
    with pytest.raises(DataError, match="the field 'lineage': "):
        read_run_card(path)


def test_a_failed_write_names_the_requested_file(tmp_path):
    (tmp_path / "folder").write_text("a file", encoding="utf-8")
    path = tmp_path / "folder" / "qrels.txt"
    with pytest.raises(DataError) as refused:
        write_judgments(path, QRELS, CARD)
    assert refused.value.where == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]
