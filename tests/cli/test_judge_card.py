"""`judge-card` on files: outputs, refusals, and invalid answers of a judge."""

from __future__ import annotations

import json

import numpy as np
import pytest

from searchlora.eval.judgments.card import JudgmentsCard, write_card, write_judgments
from searchlora.eval.judgments.lineage import query_hash
from searchlora.eval.trec import write_qrels

RNG = np.random.default_rng(1)
HUMAN = {f"q{q}": {f"d{d}": int(RNG.integers(0, 4)) for d in range(10)} for q in range(12)}
DATE = "2026-01-01T00:00:00+00:00"


def noisy(share: float):
    return {
        q: {d: g if RNG.random() > share else int(RNG.integers(0, 4)) for d, g in row.items()}
        for q, row in HUMAN.items()
    }


@pytest.fixture
def files(tmp_path):
    """Human qrels, two judges (one with failed answers beside it), and topics."""
    write_qrels(tmp_path / "human", HUMAN)
    good = noisy(0.2)
    failed = [{"topic": "q0", "document": d, "raw": "well …"} for d in ("d0", "d1")]
    for row in failed:
        del good[row["topic"]][row["document"]]
    write_qrels(tmp_path / "good", good)
    (tmp_path / "good.invalid.jsonl").write_text("\n".join(map(json.dumps, failed)), encoding="utf-8")
    write_qrels(tmp_path / "poor", noisy(0.8))
    rows = [json.dumps({"id": q, "query": f"words of {q}"}) for q in HUMAN]
    (tmp_path / "topics.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def asked(files, *more, judges=("good", "poor"), human="human", out="out"):
    named = (part for judge in judges for part in ("--judge", f"{judge}={files / judge}"))
    return ("judge-card", "--human", files / human, *named, "--resamples", 200, "--out", files / out, *more)


@pytest.mark.slow
def test_card_with_all_options(cli, files):
    done = cli(*asked(files, "--rater", f"a={files / 'human'}", "--rater", f"b={files / 'good'}"))
    assert done.code == 0, done.err
    found = json.loads((files / "out" / "judge_card.json").read_text(encoding="utf-8"))
    good, poor = found["cards"]
    assert good["invalid"] == {"none": 2} and good["figures"]["kappa"]["n"] == 120
    assert not poor["invalid"]
    assert good["people"]["pairs"][0]["kappa"]["n"] == 118
    assert found["comparison"]["differences"][0]["a"] == "good"
    assert len(found["inputs"]) == 4 and any(name.endswith("good.invalid.jsonl") for name in found["inputs"])
    assert all(len(sha256) == 64 for sha256 in found["inputs"].values())
    text = (files / "out" / "judge_card.md").read_text(encoding="utf-8")
    assert "No card names the scale: the grades 0, 1, 2, 3 are assumed." in text
    assert text.index("| good |") < text.index("| poor |") and "1 of 1 pairs of judges are shown to differ" in text
    assert f"good: kappa {good['figures']['kappa']['value']:.3f}" in done.out


@pytest.mark.slow
def test_a_circular_judge_is_refused_or_marked(cli, refused, files):
    judge = {"judge": "j@1", "judge_lineage": ("j@1",)}
    write_card(files / "poor", JudgmentsCard("llm", DATE, judge_queries=(query_hash("words of q1"),), **judge))
    topics = ("--topics", files / "topics.jsonl")
    assert "judge poor: the card would be circular: the judge j@1 was trained on 1 of the 12 topics" in refused(
        *asked(files, *topics)
    )
    assert not (files / "out").exists()
    done = cli(*asked(files, *topics, "--allow-circular"))
    assert done.code == 0 and "CIRCULAR: poor: the judge j@1 was trained on" in done.out
    assert "poor (circular)" in (files / "out" / "judge_card.md").read_text(encoding="utf-8")
    assert "no topics file was given" in cli(*asked(files)).out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--scale", "0,one"), "the scale '0,one' is not a list of whole numbers"),
        (("--scale", "0,1"), "is outside the scale 0, 1"),
        (("--relevant", 4), "the relevance threshold 4 does not divide the scale"),
        (("--correction", "none"), "there is no correction 'none'"),
        (("--judge", "nameless"), "'nameless' is not NAME=FILE"),
        (("--judge", "good=x"), "two judges have one name"),
    ],
)
def test_impossible_requests_are_errors(refused, files, monkeypatch, more, says):
    monkeypatch.chdir(files)
    assert says in refused(*asked(files, *more))
    assert not (files / "out").exists()


@pytest.mark.slow
def test_a_damaged_list_of_failed_answers_names_its_line(refused, files):
    (files / "good.invalid.jsonl").write_text('{"topic": "q0", "document": "d0"}\n{"topic": "q0"}\n', encoding="utf-8")
    assert "good.invalid.jsonl, line 2: has no topic and document" in refused(*asked(files))
    (files / "good.invalid.jsonl").write_text('{"topic": "q0", "document": "d5"}\n', encoding="utf-8")
    assert "document d5 of topic q0 has a grade or is repeated" in refused(*asked(files))


def test_human_grades_are_of_people_and_a_judges_are_not(refused, files):
    raters = ("--rater", f"a={files / 'human'}", "--rater", f"b={files / 'poor'}")
    write_card(files / "poor", JudgmentsCard("llm", DATE, judge="j@1", judge_lineage=("j@1",)))
    assert "poor: holds judgments of source 'llm', not human ones" in refused(*asked(files, *raters))
    (files / "odd").write_text("q0 0 d0 7\n", encoding="utf-8")
    raters = ("--rater", f"a={files / 'human'}", "--rater", f"b={files / 'odd'}")
    assert "rater b, topic q0, document d0: the human grade 7 is outside the scale" in refused(*asked(files, *raters))
    for source, counts in (("human", {"human": 120}), ("mixed", {"human": 60, "llm": 60})):
        write_card(files / "poor", JudgmentsCard(source, DATE, counts=counts))
        assert f"poor: holds judgments of source '{source}', not a judge's alone" in refused(*asked(files))
    write_card(files / "human", JudgmentsCard("llm", DATE, judge="j@1", judge_lineage=("j@1",)))
    assert "human: holds judgments of source 'llm', not human ones" in refused(*asked(files))
    assert not (files / "out").exists()


@pytest.mark.slow
def test_a_judge_without_a_grade_has_invalid_answers_only(cli, refused, files):
    write_qrels(files / "failed", {q: dict.fromkeys(row, 9) for q, row in HUMAN.items()})
    ask = asked(files, judges=("failed",))
    assert "the grade 9 is outside the scale 0, 1, 2, 3, which is assumed" in refused(*ask)
    ask += ("--scale", "0,1,2,3")
    assert "there is no correction 'none'" in refused(*ask, "--correction", "none")  # for one judge, too
    done = cli(*ask)
    assert done.code == 0 and "120 of 120 answers are invalid" in done.out
    write_qrels(files / "one", {"q0": HUMAN["q0"]})
    alone = cli(*asked(files, human="one", judges=("one",)))
    assert "one: kappa 1.000 (no interval), 10 pairs of 1 queries" in alone.out and "nan" not in alone.out


def scaled(path, grades, scale, relevant=None):
    """Qrels of a judge whose card names its scale."""
    card = JudgmentsCard("llm", DATE, judge="j@1", judge_lineage=("j@1",), scale=scale, relevant=relevant)
    write_judgments(path, grades, card)


@pytest.mark.slow
def test_the_scale_is_that_of_the_judges_card(cli, refused, files):
    two = {q: {d: int(g > 1) for d, g in row.items()} for q, row in HUMAN.items()}
    write_qrels(files / "human", two)
    scaled(files / "binary", two, (0, 1), relevant=1)
    ask = asked(files, judges=("binary",))
    assert cli(*ask).code == 0
    (card,) = json.loads((files / "out" / "judge_card.json").read_text())["cards"]
    assert (card["scale"], card["relevant"]) == ([0, 1], 1)
    assert "are assumed" not in (files / "out" / "judge_card.md").read_text()
    assert cli(*ask, "--scale", "0,1").code == 0
    assert "names the grades 0, 1, --scale gives 0, 1, 2" in refused(*ask, "--scale", "0,1,2")
    scaled(files / "four", HUMAN, (0, 1, 2, 3), relevant=2)
    assert "names the grades 0, 1, 2, 3, that of" in refused(*ask, "--judge", f"y={files / 'four'}")
    scaled(files / "strict", two, (0, 1), relevant=0)
    assert "the cards count as relevant from grade 0 and 1" in refused(*ask, "--judge", f"y={files / 'strict'}")


def test_fresh_labels_are_compared_with_an_earlier_card(cli, refused, files):
    assert cli(*asked(files, judges=("good",), out="then")).code == 0
    since = ("--since", files / "then" / "judge_card.json")
    same = cli(*asked(files, *since, judges=("good",)))
    assert same.code == 0 and "+0.000 (-" in same.out
    assert "no card of these judges" in refused(*asked(files, *since, judges=("poor",)))
    (files / "good.invalid.jsonl").unlink()
    (files / "poor").rename(files / "good")
    worse = cli(*asked(files, *since, judges=("good",)))
    assert worse.code == 1 and "has fallen" in worse.err
