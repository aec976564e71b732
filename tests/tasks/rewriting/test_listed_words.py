"""The rule that leaves out words whose removal helps, and what `improve` makes of it."""

from __future__ import annotations

import json

import pytest

from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.experiments.improve.candidates import Rewarder, gather
from searchlora.experiments.improve.selection import MANY, choose
from searchlora.experiments.learned_baselines import learn_baselines
from searchlora.recipe import Improve
from searchlora.records import Hit
from searchlora.rewards import RewardContext
from searchlora.tasks.rewriting import task
from searchlora.tasks.rewriting.candidates import rule_candidates
from searchlora.tasks.rewriting.listed_words import LISTED, QUERIES, baseline_outputs, listed_words, without

NOISE = ("netflix", "online", "watch")


def search(queries, k):
    """The tent comes first for a query with `tent`, and a place later for each word of noise."""
    fillers = [Hit(f"filler-{n}", 9.0 - n) for n in range(4)]
    found = []
    for query in queries:
        place = sum(word in query.split() for word in NOISE)
        hits = [*fillers[:place], *([Hit("tent", 5.0)] if "tent" in query.split() else []), *fillers[place:]]
        found.append([Hit(hit.document, float(-n)) for n, hit in enumerate(hits)][:k])
    return found


def records(number=QUERIES + 5):
    return [
        {"id": f"q{n}", "group": f"q{n}", "query": f"watch {'netflix' if n % 2 else 'x'} tent online"}
        for n in range(number)
    ] + [{"id": f"r{n}", "group": f"r{n}", "query": f"netflix tent {n}"} for n in range(number)]


def context(rows, **settings):
    return RewardContext([search], {row["id"]: {"tent": 1} for row in rows}, **settings)


def test_words_are_listed_whose_removal_helps_in_enough_queries():
    rows = records()
    assert set(listed_words(rows, context(rows))) == {"netflix", "online", "watch"}
    few = records(QUERIES // 2 - 2)
    assert listed_words(few, context(few)) == []
    assert listed_words([{**row, "history": [{"role": "user", "text": "hi"}]} for row in rows], context(rows)) == []
    assert listed_words(rows, RewardContext([search])) == []  # nothing is judged


def test_a_query_without_all_listed_words_is_a_candidate():
    rows = records()
    candidates = rule_candidates(rows, task.folder, context(rows))
    assert candidates[1]["without: watch, netflix, online"] == "tent"
    assert "without: watch, x, online" not in candidates[0]
    assert without("watch netflix", NOISE) == "watch netflix"


def test_the_effects_of_words_add_up_so_that_all_of_them_are_left_out():
    rows, settings = records(MANY), Improve(kind_weight=2.0)
    rewarder = Rewarder(task, context(rows))
    odd = {"id": "odd", "group": "odd", "query": "netflix tent online"}
    rewarder.context.qrels["odd"] = {"filler-0": 1}
    gathered = list(
        gather(task, [*rows, odd], task.candidates([*rows, odd], task.folder, rewarder.context), [], rewarder)
    )
    chosen = dict(zip([row.id for row in gathered], choose(gathered, settings), strict=True))
    assert chosen["q1"].text == "tent"
    assert chosen["r3"].text == "tent 3"
    assert chosen["odd"].reward == 2.0  # leaving out both words would lose here


def test_the_rule_is_a_baseline_that_learns_from_training_rows_where_words_are_left_out(tmp_path):
    rows = [{"id": f"q{n}", "query": f"{NOISE[n % 2]} tent {n} red"} for n in range(3 * QUERIES)]
    documents = [{"id": word, "text": word} for word in NOISE]
    documents.append({"id": "tent", "text": f"a tent and {'many more words ' * 9}"})
    lines = {"rows.jsonl": rows, "docs.jsonl": documents}
    for name, objects in lines.items():
        (tmp_path / name).write_text("".join(json.dumps(each) + "\n" for each in objects), encoding="utf-8")
    (tmp_path / "qrels.txt").write_text("".join(f"{row['id']} 0 tent 1\n" for row in rows), encoding="utf-8")

    def built(name: str, *words: str) -> Dataset:
        options = dict(pair.split("=") for pair in words)
        build(
            "rewriting", tmp_path / "rows.jsonl", format="queries", out=tmp_path / name, split_ratios=(0.8, 0.0, 0.2),
            corpus=tmp_path / "docs.jsonl", qrels=tmp_path / "qrels.txt", options=options,
        )  # fmt: skip
        return load_dataset(tmp_path / name)

    data = built("reduced", "words=query")
    bound, records = task.bound(data.settings), data.records("test")
    assert bound.learned_baselines(records) == {LISTED} and task.learned_baselines(records) == frozenset()
    learned = learn_baselines(bound, data, records, "test").outputs
    assert learned["raw query"][0].startswith(NOISE) and learned[LISTED][0].startswith("tent")
    free = built("free")
    assert set(learn_baselines(task.bound(free.settings), free, records, "test").outputs) == {"raw query"}
    few = tmp_path / "few"
    build("rewriting", tmp_path / "rows.jsonl", format="queries", out=few)
    assert baseline_outputs(records, few) == {}  # there are no judgments


def test_the_rewards_of_several_retrievers_are_averaged():
    def nothing(queries, _):
        return [[] for _ in queries]

    both = RewardContext([search, nothing], {"q": {"tent": 1}}, measure="MRR@10")
    assert task.reward([{"id": "q", "query": "tent"}], ["tent online"], both) == [pytest.approx(0.25)]
