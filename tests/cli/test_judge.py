"""Train a judge of a third-party task, judge a pool, refuse circular use, and mix with human qrels."""

from __future__ import annotations

import json

import pytest

from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import JudgmentsCard, read_card, read_run_card, write_judgments
from searchlora.eval.judgments.lineage import query_hash
from tests.experiments.grading_task import build_task, write_collection, write_records

SHORT = ("optim.max_steps=4", "optim.batch_size=8", "lora.r=4", "optim.learning_rate=5e-3")


@pytest.mark.slow
def test_train_judge_and_merge_qrels(cli, refused, tmp_path, tiny_base):
    tasks, store, data = build_task(tmp_path / "tasks"), tmp_path / "store", tmp_path / "data"
    own = ("--store", store, "--tasks", tasks)
    files = write_collection(tmp_path)
    source = write_records(tmp_path / "rows.jsonl")
    assert cli("data", "build", "fit", source, "--format", "native", "--out", data, "--tasks", tasks).code == 0
    trained = cli(
        *("train", "fit", "--data", data, "--name", "fit-judge", "--base", tiny_base.path, *own),
        *(part for pair in SHORT for part in ("--set", pair)),
    )
    assert trained.code == 0, trained.err

    # The queries trained and selected on go with the weights, those of the test split do not.
    known = (store / "fit-judge" / "1" / "training_queries.txt").read_text(encoding="utf-8").split()
    seen, test = (
        {query_hash(json.loads(line)["need"]) for split in splits for line in (data / f"{split}.jsonl").open()}
        for splits in (("train", "validation"), ("test",))
    )
    assert set(known) == seen and test and not test & seen and known == sorted(known)

    # A run names the adapters that took part in it.
    queries, pipeline, ours = tmp_path / "queries.jsonl", tmp_path / "p.yaml", tmp_path / "ours.trec"
    rows = [{"id": f"t{n}", "query": f"a tent of kind {n}", "passage": "", "title": ""} for n in range(3)]
    queries.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    pipeline.write_text("name: p\nstages:\n  - adapter: {name: fit-judge}\n  - bm25: {k: 5}\n", encoding="utf-8")
    corpus = files["corpus.jsonl"]
    ran = cli("run", pipeline, "--queries", queries, "--corpus", corpus, "--out", ours, *own)
    assert ran.code == 0, ran.err
    card = read_run_card(ours)
    assert (card.system, card.adapters, card.lineage) == ("p", ("fit-judge@1",), ("fit-judge@1",))
    assert card.bases == (tiny_base.path.name,) and card.pipeline.startswith("p_fit-judge@1_bm25")

    # The judge is circular for that run: refused, or marked with --allow-circular.
    out = tmp_path / "qrels.txt"
    asked = ("judge", "fit-judge", "--topics", files["topics.jsonl"], "--corpus", corpus, "--depth", 2, *own)
    pools = ("--pool", ours, "--pool", files["a.trec"])
    assert "the judge fit-judge@1 and the system share fit-judge@1" in refused(*asked, *pools, "--out", out)
    assert not out.exists()
    allowed = cli(*asked, *pools, "--out", tmp_path / "circular.txt", "--allow-circular")
    assert f"CIRCULAR: {ours}: the judge fit-judge@1 and the system share" in allowed.out, allowed.err
    judged = cli(*asked, "--pool", files["a.trec"], "--pool", files["b.trec"], "--out", out)
    assert judged.code == 0, judged.err
    assert "Wrote 12 judgments of fit-judge@1" in judged.out
    assert read_card(out).scale == (0, 1, 2)
    assert "Note: It is not known which adapters work in" in judged.out

    # Topics that it was trained on are refused too.
    trained_on = json.loads((data / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])["need"]
    files["topics.jsonl"].write_text(json.dumps({"id": "t0", "query": trained_on.upper()}) + "\n", encoding="utf-8")
    (tmp_path / "pairs.txt").write_text("t0 d01\n", encoding="utf-8")
    reported = refused(*asked, "--pairs", tmp_path / "pairs.txt", "--out", tmp_path / "third.txt")
    assert "was trained on 1 of the 1 topics (t0)" in reported

    # People win.
    qrels = read_qrels(out)
    first = next(iter(qrels["t0"]))
    people = tmp_path / "people.txt"
    people.write_text(f"t0 0 {first} {2 - qrels['t0'][first]}\nt0 0 d10 1\n", encoding="utf-8")
    mixed = cli("merge-qrels", people, out, "--out", tmp_path / "mixed.txt", "--scale", "0,1,2")
    assert mixed.code == 0, mixed.err
    assert (
        "Wrote 2 human and 11 other judgments" in mixed.out and "Pairs with both judgments (1, 1 topics)" in mixed.out
    )
    assert read_qrels(tmp_path / "mixed.txt")["t0"][first] == 2 - qrels["t0"][first]
    card = read_card(tmp_path / "mixed.txt")
    assert (card.source, card.judge, card.counts) == ("mixed", "fit-judge@1", {"human": 2, "llm": 11})
    assert set(card.judge_queries) == seen

    # Changed qrels are refused.
    out.write_text(out.read_text(encoding="utf-8") + "t0 0 d15 2\n", encoding="utf-8")
    assert "was changed since its card was written" in refused("merge-qrels", people, out, "--out", tmp_path / "no.txt")


@pytest.mark.slow
def test_merging_qrels_without_a_card_needs_a_source(cli, refused, tmp_path):
    people, other = tmp_path / "people.txt", tmp_path / "other.txt"
    people.write_text("t0 0 d1 1\nt0 0 d2 0\n", encoding="utf-8")
    other.write_text("t0 0 d1 9\nt0 0 d3 9\nt1 0 d1 4\n", encoding="utf-8")
    command = ("merge-qrels", people, other, "--out", tmp_path / "mixed.txt")
    assert "has no card that names its source" in refused(*command)
    assert "the grade 4 does not occur among the human grades (0, 1)" in refused(*command, "--source", "llm")
    called = cli(*command, "--source", "llm", "--grades", "4=1,3=0", "--scale", "0,1")
    assert "1 of the other judgments have a grade outside the scale and were left out" in called.out, called.err
    assert read_qrels(tmp_path / "mixed.txt") == {"t0": {"d1": 1, "d2": 0}, "t1": {"d1": 1}}
    assert read_card(tmp_path / "mixed.txt").judge_queries is None
    assert "already exists" in refused(*command, "--source", "llm")
    assert "too few to calibrate" in refused(
        *command[:-1], tmp_path / "n.txt", "--source", "llm", "--calibrate", "isotonic"
    )
    for wrong in (
        ("--source", "me"),
        ("--scale", "a"),
        ("--grades", "1"),
        ("--grades", "4=1,4=0"),
        ("--calibrate", "magic"),
    ):
        assert cli(*command[:-1], tmp_path / "n.txt", *wrong).code == 2


@pytest.mark.slow
def test_invalid_answers_count_in_the_agreement_of_mixed_qrels(cli, refused, tmp_path):
    people, other = tmp_path / "people.txt", tmp_path / "other.txt"
    people.write_text("".join(f"t{n} 0 d1 {n % 2}\n" for n in range(6)), encoding="utf-8")
    reported = {f"t{n}": {"d1": n % 2} for n in range(4)}
    write_judgments(other, reported, JudgmentsCard("llm", "2026-07-01", judge="j@1", judge_lineage=("j@1",), invalid=2))
    command = ("merge-qrels", people, other, "--out", tmp_path / "mixed.txt")
    assert "has 0 invalid answers, but the card of the qrels counts 2" in refused(*command)
    rows = [json.dumps({"topic": topic, "document": "d1", "raw": "well"}) for topic in ("t4", "t5")]
    (tmp_path / "other.txt.invalid.jsonl").write_text("\n".join(rows), encoding="utf-8")
    called = cli(*command)
    assert "Pairs with both judgments (6, 6 topics): the same grade in 0.667" in called.out, called.err
