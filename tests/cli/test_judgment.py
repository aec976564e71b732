"""The judgment task from the command line: build, train, evaluate, judge and rerank."""

from __future__ import annotations

import json
import re

import pytest

from searchlora.adapters.store import Store
from searchlora.eval.formats import read_qrels
from searchlora.eval.judge.labels import read_probabilities
from searchlora.eval.judgments.card import read_card
from searchlora.eval.judgments.lineage import query_hash
from searchlora.eval.trec import ranked, read_run

SHORT = ("optim.max_steps=2", "optim.batch_size=8", "lora.r=4", "precision=fp32", "method=lora")
GUIDE = "Grade as a camper would.\n\n* 0: Useless\n* 1: Useful. It answers.\n"


def written(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def train(cli, source, folder, base, name, *options, settings=SHORT):
    """The folders of the data built of these rows, and of the store with a judge trained on it."""
    data, store = folder / "data", folder / "store"
    given = (part for option in options for part in ("--option", option))
    built = cli("data", "build", "judgment", source, "--format", "native", "--out", data, *given)
    assert built.code == 0, built.err
    given = (part for value in settings for part in ("--set", value))
    trained = cli("train", "judgment", "--data", data, "--name", name, "--base", base.path, "--store", store, *given)
    assert trained.code == 0, trained.err
    return data, store


def pairs(folder, store, *lines):
    """The arguments of `judge` for pairs of two topics and three documents."""
    topics = written(folder / "topics.jsonl", [{"id": "t1", "query": "a tent"}, {"id": "t2", "query": "a boot"}])
    corpus = written(folder / "corpus.jsonl", [{"id": f"d{n}", "text": f"text {n}", "title": ""} for n in range(3)])
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ("--topics", topics, "--corpus", corpus, "--pairs", folder / "pairs.txt", "--store", store)


@pytest.fixture
def judge(cli, tmp_path, tiny_base):
    """A judge of two grades, `camp-judge@1`, and the folder of its data; trained on nothing much."""
    (tmp_path / "guide.md").write_text(GUIDE, encoding="utf-8")
    rows = [
        {"id": f"{n} {m}", "group": f"q{n}", "query": f"stove {n}", "passage": f"burns {m}", "grade": m % 2}
        for n in range(40)
        for m in range(4)
    ]
    source = written(tmp_path / "rows.jsonl", rows)
    return train(cli, source, tmp_path, tiny_base, "camp-judge", f"guideline={tmp_path / 'guide.md'}")


@pytest.mark.slow
def test_build_train_evaluate_and_judge(cli, judge, tmp_path):
    data, store = judge
    manifest = Store(store).get("camp-judge").manifest
    assert [each["name"] for each in manifest.settings["scale"]] == ["Useless", "Useful"]
    assert manifest.settings["guideline"] == "Grade as a camper would."

    # The queries trained and selected on go with the weights, those of the test split do not.
    known = (store / "camp-judge" / "1" / "training_queries.txt").read_text(encoding="utf-8").split()
    seen, test = (
        {query_hash(json.loads(line)["query"]) for split in splits for line in (data / f"{split}.jsonl").open()}
        for splits in (("train", "validation"), ("test",))
    )
    assert known == sorted(seen) and test and not test & seen

    out = tmp_path / "report"
    evaluated = cli("evaluate", "camp-judge", "--data", data, "--store", store, "--out", out)
    assert evaluated.code == 0, evaluated.err
    for system in ("commonest grade", "BM25 score, cut", "base zero-shot", "camp-judge@1"):
        assert system in evaluated.out
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "kappa quadratic" in report and "probability of relevant" in report

    qrels = tmp_path / "qrels.txt"
    asked = pairs(tmp_path, store, "t1 d0", "t1 d2", "t2 d1")
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
    longer = (*SHORT, "optim.max_steps=60", "optim.epochs=99", "optim.learning_rate=1e-2")
    source, out = tmp_path / "rows", tmp_path / "report"
    data, store = train(cli, source, tmp_path, tiny_base, "j", "grades=2", "reason=yes", settings=longer)
    manifest = Store(store).get("j").manifest
    assert manifest.settings["reason"] is True and manifest.recipe["max_new_tokens"] == 80

    evaluated = cli("evaluate", "j", "--data", data, "--store", store, "--out", out)
    assert evaluated.code == 0, evaluated.err
    assert re.search(r"[01] \(probability 0\.\d\d\): \w", (out / "report.html").read_text(encoding="utf-8"))

    judged = cli("judge", "j", *pairs(tmp_path, store, "t1 d0", "t1 d2"), "--out", tmp_path / "q.txt")
    assert judged.code == 0, judged.err
    lines = (tmp_path / "q.txt.probabilities.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(line)["reason"] for line in lines) and len(lines) == 2
    assert set(read_probabilities(tmp_path / "q.txt.probabilities.jsonl")["t1"]) == {"d0", "d2"}
