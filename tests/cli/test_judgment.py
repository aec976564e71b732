"""The judgment task from the command line: build, train, evaluate, judge and rerank."""

from __future__ import annotations

import json
import re

import pytest

from searchlora.adapters.store import Store
from searchlora.eval.formats import read_qrels
from searchlora.eval.judge.labels import read_probabilities
from searchlora.eval.judgments.card import read_card, read_run_card
from searchlora.eval.judgments.lineage import query_hash
from searchlora.eval.trec import ranked, read_run
from tests.experiments.grading_task import build_task, write_collection, write_records

SHORT = ("optim.max_steps=2", "optim.batch_size=8", "lora.r=4", "precision=fp32", "method=lora")
GUIDE = "Grade as a camper would.\n\n* 0: Useless\n* 1: Useful. It answers.\n"


def written(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def judge(cli, tmp_path, tiny_base):
    """A judge of two grades, `camp-judge@1`, and the folder of its data; trained on nothing much."""
    (tmp_path / "guide.md").write_text(GUIDE, encoding="utf-8")
    rows = [
        {"id": f"{n} {m}", "group": f"q{n}", "query": f"stove {n}", "passage": f"burns {m}", "grade": m % 2}
        for n in range(40)
        for m in range(4)
    ]
    source, data, store = written(tmp_path / "rows.jsonl", rows), tmp_path / "data", tmp_path / "store"
    options = ("--option", f"guideline={tmp_path / 'guide.md'}")
    built = cli("data", "build", "judgment", source, "--format", "native", "--out", data, *options)
    assert built.code == 0, built.err
    settings = (part for value in SHORT for part in ("--set", value))
    reported = ("--data", data, "--name", "camp-judge", "--base", tiny_base.path, "--store", store)
    trained = cli("train", "judgment", *reported, *settings)
    assert trained.code == 0, trained.err
    return data, store


@pytest.mark.slow
def test_build_train_evaluate_and_judge(cli, judge, tmp_path):
    data, store = judge
    manifest = Store(store).get("camp-judge").manifest
    assert [each["name"] for each in manifest.settings["scale"]] == ["Useless", "Useful"]
    assert manifest.settings["guideline"] == "Grade as a camper would."

    out = tmp_path / "report"
    evaluated = cli("evaluate", "camp-judge", "--data", data, "--store", store, "--out", out)
    assert evaluated.code == 0, evaluated.err
    for system in ("commonest grade", "BM25 score, cut", "base zero-shot", "camp-judge@1"):
        assert system in evaluated.out
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "kappa quadratic" in report and "probability of relevant" in report

    topics = written(tmp_path / "topics.jsonl", [{"id": "t1", "query": "a tent"}, {"id": "t2", "query": "a boot"}])
    corpus = written(tmp_path / "corpus.jsonl", [{"id": f"d{n}", "text": f"text {n}", "title": ""} for n in range(3)])
    (tmp_path / "pairs.txt").write_text("t1 d0\nt1 d2\nt2 d1\n", encoding="utf-8")
    qrels = tmp_path / "qrels.txt"
    asked = ("--topics", topics, "--corpus", corpus, "--pairs", tmp_path / "pairs.txt", "--store", store)
    judged = cli("judge", "camp-judge", *asked, "--out", qrels)
    assert judged.code == 0, judged.err
    grades, chances = read_qrels(qrels), read_probabilities(tmp_path / "qrels.txt.probabilities.jsonl")
    assert {topic: set(row) for topic, row in grades.items()} == {"t1": {"d0", "d2"}, "t2": {"d1"}}
    assert set(chances["t1"]["d0"]) == {0, 1} and sum(chances["t1"]["d0"].values()) == pytest.approx(1)
    card = read_card(qrels)
    assert card.judge == "camp-judge@1" and card.prompt_hash == manifest.prompt_hash

    base = ("judge", "--base", manifest.base.name, "--task", "judgment", *asked)
    assert cli(*base, "--settings", data, "--out", tmp_path / "base.txt").code == 0
    assert set(read_probabilities(tmp_path / "base.txt.probabilities.jsonl")["t1"]["d0"]) == {0, 1}
    assert read_card(tmp_path / "base.txt").prompt_hash == manifest.prompt_hash
    both = cli("judge", "camp-judge", *asked, "--settings", data, "--out", tmp_path / "both.txt")
    assert "camp-judge: an adapter has its own settings" in both.err

    written_out = cli("judge", "camp-judge", *asked, "--out", tmp_path / "generated.txt", "--generate")
    assert "none of the 3 answers is a grade" in written_out.err or written_out.code == 0


@pytest.mark.slow
def test_rerank_pipeline_with_a_judge(cli, judge, tmp_path):
    _, store = judge
    texts = [f"a tent for {n} people" for n in range(2, 9)]
    corpus = written(tmp_path / "corpus.jsonl", [{"id": f"d{n}", "text": text} for n, text in enumerate(texts)])
    queries = written(
        tmp_path / "queries.jsonl", [{"id": "q", "query": "a tent"}, {"id": "none", "query": "xylophone"}]
    )
    out = tmp_path / "run.trec"
    reported = ("--set", "adapter=camp-judge", "--set", "depth=4", "--store", store)
    ran = cli("run", "rerank", "--queries", queries, "--corpus", corpus, "--out", out, *reported)
    assert ran.code == 0, ran.err
    scores = read_run(out)["q"]
    order = ranked(scores)
    # BM25 finds all seven alike, and trec_eval puts the greater id first.
    assert set(order[:4]) == {"d6", "d5", "d4", "d3"} and list(order[4:]) == ["d2", "d1", "d0"]
    assert all(0 <= scores[document] <= 1 for document in order[:4])
    assert [scores[document] for document in order[4:]] == [-1, -2, -3]


@pytest.mark.slow
def test_a_judge_with_reasons(cli, tmp_path, tiny_base):
    words = ("No, not this.", "Yes, this.")
    rows = [
        {"id": f"{n} {m}", "group": f"q{n}", "query": f"stove {n}", "passage": f"burns {m}", "grade": 3 * m}
        for n in range(40)
        for m in range(2)
    ]
    (tmp_path / "rows").mkdir()
    for split, part, known in (
        ("train", rows[:60], True),
        ("validation", rows[60:70], True),
        ("test", rows[70:], False),
    ):
        reported = [{**row, "reason": words[row["grade"] > 0]} if known else row for row in part]
        written(tmp_path / "rows" / f"{split}.jsonl", reported)
    data, store, out = tmp_path / "data", tmp_path / "store", tmp_path / "report"
    options = ("--option", "grades=2", "--option", "reason=yes")
    built = cli("data", "build", "judgment", tmp_path / "rows", "--format", "native", "--out", data, *options)
    assert built.code == 0, built.err
    longer = (*SHORT, "optim.max_steps=60", "optim.epochs=99", "optim.learning_rate=1e-2")
    reported = ("--data", data, "--name", "j", "--base", tiny_base.path, "--store", store)
    trained = cli("train", "judgment", *reported, *(part for value in longer for part in ("--set", value)))
    assert trained.code == 0, trained.err
    manifest = Store(store).get("j").manifest
    assert manifest.settings["reason"] is True and manifest.recipe["max_new_tokens"] == 80

    evaluated = cli("evaluate", "j", "--data", data, "--store", store, "--out", out)
    assert evaluated.code == 0, evaluated.err
    assert re.search(r"[01] \(probability 0\.\d\d\): \w", (out / "report.html").read_text(encoding="utf-8"))

    topics = written(tmp_path / "topics.jsonl", [{"id": "t1", "query": "a tent"}])
    corpus = written(tmp_path / "corpus.jsonl", [{"id": f"d{n}", "text": f"text {n}", "title": ""} for n in range(3)])
    (tmp_path / "pairs.txt").write_text("t1 d0\nt1 d2\n", encoding="utf-8")
    asked = ("--topics", topics, "--corpus", corpus, "--pairs", tmp_path / "pairs.txt", "--store", store)
    judged = cli("judge", "j", *asked, "--out", tmp_path / "q.txt")
    assert judged.code == 0, judged.err
    lines = (tmp_path / "q.txt.probabilities.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(line)["reason"] for line in lines) and len(lines) == 2
    assert set(read_probabilities(tmp_path / "q.txt.probabilities.jsonl")["t1"]) == {"d0", "d2"}


# Train a judge of a third-party task, judge a pool, and refuse circular use

FIT = ("optim.max_steps=4", "optim.batch_size=8", "lora.r=4", "optim.learning_rate=5e-3")


@pytest.mark.slow
def test_train_a_judge_and_grade_a_pool(cli, refused, tmp_path, tiny_base):
    tasks, store, data = build_task(tmp_path / "tasks"), tmp_path / "store", tmp_path / "data"
    own = ("--store", store, "--tasks", tasks)
    files = write_collection(tmp_path)
    source = write_records(tmp_path / "rows.jsonl")
    assert cli("data", "build", "fit", source, "--format", "native", "--out", data, "--tasks", tasks).code == 0
    trained = cli(
        *("train", "fit", "--data", data, "--name", "fit-judge", "--base", tiny_base.path, *own),
        *(part for pair in FIT for part in ("--set", pair)),
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
