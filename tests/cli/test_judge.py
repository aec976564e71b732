"""Train a judge of a third-party task, judge a pool, and refuse circular use."""

from __future__ import annotations

import json

import pytest

from searchlora.eval.judgments.card import read_card, read_run_card
from searchlora.eval.judgments.lineage import query_hash
from tests.experiments.grading_task import build_task, write_collection, write_records

SHORT = ("optim.max_steps=4", "optim.batch_size=8", "lora.r=4", "optim.learning_rate=5e-3")


@pytest.mark.slow
def test_train_a_judge_and_grade_a_pool(cli, refused, tmp_path, tiny_base):
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
