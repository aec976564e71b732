"""`prediction-powered` on files: few human topics and many of a judge."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest

from searchlora.eval.formats import read_qrels
from searchlora.eval.judge.prediction_powered import prediction_powered_measure
from searchlora.eval.judgments.card import JudgmentsCard, RunCard, write_card, write_judgments, write_run_card
from searchlora.eval.trec import read_run, write_qrels, write_run


@pytest.fixture
def folder(tmp_path):
    """60 topics judged by a judge that errs now and then, 20 of them by people; run b is a little better than a."""
    rng = random.Random(3)
    human, judged, runs = {}, {}, {"a": {}, "b": {}}
    for number in range(60):
        truth = {f"d{each}": rng.choice([0, 0, 0, 1, 2]) for each in range(12)}
        judged[f"q{number}"] = {
            each: rng.choice([0, 1, 2]) if rng.random() < 0.1 else grade for each, grade in truth.items()
        }
        if number < 20:
            human[f"q{number}"] = truth
        for name, noise in (("a", 2.0), ("b", 1.0)):
            runs[name][f"q{number}"] = {each: grade + noise * rng.random() for each, grade in truth.items()}
    write_qrels(tmp_path / "human.txt", human)
    write_judgments(
        tmp_path / "llm.txt", judged, JudgmentsCard("llm", "2026-01-01", judge="j@1", judge_lineage=("j@1",))
    )
    for name, run in runs.items():
        write_run(tmp_path / f"{name}.trec", run, name)
    return tmp_path


def arguments(folder, human="human.txt"):
    files = [part for name in ("a", "b") for part in ("--run", f"{name}={folder / name}.trec")]
    return ["prediction-powered", "--human", folder / human, "--judged", folder / "llm.txt", *files]


@pytest.mark.slow
def test_figures_equal_those_of_the_python_functions(folder, cli):
    called = cli(*arguments(folder), "--out", folder / "powered.json")
    assert called.code == 0, called.err
    assert "| b − a |" in called.out
    assert "20 topics with human judgments, 60 judged" in called.out
    found = json.loads((folder / "powered.json").read_text())
    people, judge = read_qrels(folder / "human.txt"), read_qrels(folder / "llm.txt")
    a, b = (read_run(folder / f"{name}.trec") for name in ("a", "b"))
    assert found["runs"]["a"]["low"] == prediction_powered_measure(a, people, judge).low
    difference = prediction_powered_measure(b, people, judge, minus=a)
    assert found["differences"]["b"]["value"] == difference.value > 0


@pytest.mark.slow
def test_too_few_topics_and_a_circular_judge_are_refused(folder, cli, refused):
    write_qrels(folder / "few.txt", {"q1": {"d1": 1}, "q2": {"d1": 1}})
    assert "2 topics have a human label" in refused(*arguments(folder, "few.txt"))
    write_run_card(folder / "b.trec", RunCard("b", "2026-01-01", ("j@2",), ("j@2",)))
    assert "the judge j@1 and the system share j@1" in refused(*arguments(folder))
    assert "| b (circular) |" in cli(*arguments(folder), "--allow-circular").out


@pytest.mark.slow
def test_an_invalid_answer_is_unjudged_and_counted(folder, cli, refused):
    """A label of 10 where the scale ends at 3, and an answer without one: neither is a gain (law 2)."""
    card = JudgmentsCard("llm", "2026-01-01", judge="j@1", judge_lineage=("j@1",), judge_queries=None)
    judged = {topic: dict(row) for topic, row in read_qrels(folder / "llm.txt").items()}
    kept = {topic: {each: grade for each, grade in row.items() if each != "d0"} for topic, row in judged.items()}
    kept["q59"] = {}  # on which the judge failed altogether
    odd = {topic: {**row, "d0": 10} for topic, row in judged.items()} | {"q59": dict.fromkeys(judged["q59"], 4)}
    invalid = {"topic": "q60", "document": "d1"}
    (folder / "llm.txt.invalid.jsonl").write_text(json.dumps(invalid) + "\n", encoding="utf-8")
    write_judgments(folder / "llm.txt", odd, dataclasses.replace(card, invalid=1))
    assert "which is assumed" in refused(*arguments(folder))
    called = cli(*arguments(folder), "--scale", "0,1,2,3", "--out", folder / "powered.json")
    assert "Note: 72 of 721 answers of the judge are invalid and count as unjudged." in called.out
    assert "Note: It is not known on which queries the judge j@1 was trained." in called.out
    assert "Note: It is not known which adapters work in a, b (a run without a card)." in called.out
    people, a = read_qrels(folder / "human.txt"), read_run(folder / "a.trec")
    expected = prediction_powered_measure(a, people, {**kept, "q60": {}})
    found = json.loads((folder / "powered.json").read_text())
    assert found["runs"]["a"] == dataclasses.asdict(expected)
    assert expected.n_judged == 61 and len(found["notes"]) == 3
    assert "the human grade 2 is outside the scale 0, 1" in refused(*arguments(folder), "--scale", "0,1")
    assert "not a list of whole numbers" in refused(*arguments(folder), "--scale", "many")


@pytest.mark.slow
def test_llm_judgments_are_not_human_and_a_judge_without_card_is_unknown(folder, cli, refused):
    assert "llm.txt: holds judgments of source 'llm', not human ones" in refused(*arguments(folder, "llm.txt"))
    write_card(folder / "llm.txt", JudgmentsCard("mixed", "2026-01-01", counts={"human": 240, "llm": 480}))
    assert "llm.txt: holds judgments of source 'mixed', not a judge's alone" in refused(*arguments(folder))
    (folder / "llm.txt.card.json").unlink()
    assert "It is not known who the judge is" in cli(*arguments(folder)).out
