"""Candidate rewrites without a model, protected and listed words, and rewards by retrieval."""

from __future__ import annotations

import pytest

from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import DataError, UsageError
from searchlora.experiments.improve.candidates import Rewarder, gather
from searchlora.experiments.improve.selection import MANY, choose
from searchlora.experiments.learned_baselines import learn_baselines
from searchlora.outputs import InvalidOutput
from searchlora.recipe import Improve
from searchlora.records import Document, Hit
from searchlora.retrieval.bm25 import BM25Index
from searchlora.rewards import RewardContext
from searchlora.task import REFERENCE, UNCHANGED
from searchlora.tasks.rewriting import task
from searchlora.tasks.rewriting.candidates import keeps_protected, rule_candidates
from searchlora.tasks.rewriting.listed_words import LISTED, QUERIES, baseline_outputs, listed_words, without
from tests.factories import write_jsonl

FILMS = [Document("1", "insidious chapter two", "Insidious 2"), Document("2", "netflix originals of the year", "List")]
HISTORY = [{"role": "user", "text": "who is Ada?"}, {"role": "assistant", "text": "A countess."}]


def test_a_query_without_conversation_is_reduced_and_gets_the_titles_of_its_documents(tmp_path):
    record = {"id": "q", "group": "q", "query": "insidious 2  netflix"}
    context = RewardContext(qrels={"q": {"1": 1, "2": 0}}, documents={each.id: each for each in FILMS})
    (made,) = rule_candidates([record], tmp_path, context)
    assert made[UNCHANGED] == "insidious 2  netflix"  # as it is
    assert made["without: netflix"] == "insidious 2"
    assert made["without: insidious, 2"] == "netflix"
    assert made["title: 1"] == "Insidious 2"
    assert made["query + title: 1"] == "insidious 2 netflix Insidious 2"
    assert not any("List" in name for name in made)


def test_only_titles_that_the_conversation_names_are_candidates(tmp_path):
    record = {"id": "q", "group": "q", "query": "when born?", "history": HISTORY, "rewrite": "When was Ada born?"}
    films = [Document("1", "text", "Ada (film)"), Document("2", "text", "Charles Babbage")]
    context = RewardContext(qrels={"q": {"1": 1, "2": 1}}, documents={each.id: each for each in films})
    (made,) = rule_candidates([record], tmp_path, context)
    assert made["query + title: 1"] == "when born? Ada"
    assert made["query + title twice: 1"] == "when born? Ada Ada"  # so is the rule's, which is left out
    assert made[f"{REFERENCE} + title: 1"] == "When was Ada born? Ada"
    assert not any("Babbage" in text for text in made.values())


def test_a_title_is_also_written_twice_after_the_query_of_a_conversation(tmp_path):
    history = [{"role": "user", "text": "who taught Ada Mary Somerville?"}]
    record = {"id": "q", "group": "q", "query": "when?", "history": history}
    context = RewardContext(qrels={"q": {"1": 1}}, documents={"1": Document("1", "text", "Mary Somerville (author)")})
    (made,) = rule_candidates([record], tmp_path, context)
    assert made["query + title twice: 1"] == "when? Mary Somerville Mary Somerville"
    assert made["query + first name twice"] == "when? Ada Mary Somerville Ada Mary Somerville"


def test_a_title_that_the_conversation_names_in_part_is_that_part(tmp_path):
    record = {"id": "q", "group": "q", "query": "when born?", "history": HISTORY}
    books = [Document("1", "text", "Ada Lovelace"), Document("2", "text", "Is a World")]
    context = RewardContext(qrels={"q": {"1": 1, "2": 1}}, documents={each.id: each for each in books})
    (made,) = rule_candidates([record], tmp_path, context)
    assert made["query + title: 1"] == "when born? Ada"
    assert made["query + title twice: 1"] == "when born? Ada Ada"
    assert "title: 2" not in made  # stop words alone
    (alone,) = rule_candidates([{**record, "query": "who is Ada?", "history": []}], tmp_path, context)
    assert not any("title" in name for name in alone)


def test_titles_that_the_conversation_finds_count_as_named(tmp_path):
    record = {"id": "q", "group": "q", "query": "when?", "history": HISTORY, "titles": ["Charles Babbage", "Turing"]}
    context = RewardContext(qrels={"q": {"1": 1}}, documents={"1": Document("1", "text", "Charles Babbage (inventor)")})
    (made,) = rule_candidates([record], tmp_path, context)
    assert made["query + title twice: 1"] == "when? Charles Babbage Charles Babbage"
    assert "query + found title twice" not in made  # it is the title
    (other,) = rule_candidates([{**record, "titles": ["Turing"]}], tmp_path, context)
    assert other["query + found title twice"] == "when? Turing Turing"


def test_a_record_that_needs_no_rewrite_is_settled():
    assert task.settled({"id": "q", "query": "who is Ada?", "needs_rewrite": False}) == "who is Ada?"
    assert task.settled({"id": "q", "query": "when?", "needs_rewrite": True}) is None
    assert task.settled({"id": "q", "query": "when?"}) is None


def test_a_conversation_gets_the_rules_and_the_first_question(tmp_path):
    record = {"id": "q", "group": "q", "query": "when was she born?", "history": HISTORY, "rewrite": "Ada born when"}
    (made,) = rule_candidates([record], tmp_path, RewardContext())
    assert made[REFERENCE] == "Ada born when"
    assert made[f"first turn + {REFERENCE}"] == "who is Ada? Ada born when"
    assert "who is Ada? A countess. when was she born?" in made.values()
    assert not any(name.startswith("without") for name in made)
    assert task.variants(record, "Ada born") == {"first turn + rewrite": "who is Ada? Ada born"}
    assert task.variants({"query": "tent"}, "tents") == {}


def test_equal_candidates_are_one_and_the_unchanged_query_keeps_its_name(tmp_path):
    (made,) = rule_candidates(
        [{"id": "1", "group": "1", "query": "tent", "rewrite": "tent"}], tmp_path, RewardContext()
    )
    assert made == {UNCHANGED: "tent"}


def test_protected_words_and_numbers_are_kept():
    record = {"query": "Acme tnt 500x manual", "protected": ["acme tnt"]}
    assert keeps_protected(record, "500x acme TNT")
    assert not keeps_protected(record, "acme tnt 500")
    assert not keeps_protected(record, "acme 500x tnt")


def test_rewrites_are_rewarded_by_what_they_retrieve():
    records = [{"id": "q", "group": "q", "query": "insidious netflix"}] * 3
    context = RewardContext([BM25Index(FILMS).search], {"q": {"1": 1}})
    assert task.reward(records, ["netflix insidious", "netflix", InvalidOutput("", "")], context) == [2.0, 0.0, -0.1]
    with pytest.raises(UsageError, match="no documents"):
        task.reward(records, ["a", "b", "c"], RewardContext())


def test_a_record_without_rewrite_has_no_target():
    record = {"id": "q7", "group": "q", "query": "tent"}
    assert not task.has_target(record) and task.queries(record) == ["tent"]
    with pytest.raises(DataError, match=r"record q7: has no rewrite to train on.*improve"):
        task.target(record)
    assert task.completion({**record, "completion": "tents"}) == "tents"


def test_queries_with_judgments_alone_are_a_dataset(cli, tmp_path):
    rows = ["query,document,grade", *(f"tent {n},d{n % 3},{n % 2}" for n in range(30)), "tent 1,d2,1"]
    (tmp_path / "rated.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "products.csv").write_text("id,text\nd0,a tent\nd1,a stove\nd2,a lamp\n", encoding="utf-8")
    called = cli(
        *("data", "build", "rewriting", tmp_path / "rated.csv", "--format", "queries", "--out", tmp_path / "out"),
        *("--corpus", tmp_path / "products.csv", "--qrels", tmp_path / "rated.csv"),
    )
    assert called.code == 0, called.err
    dataset = load_dataset(tmp_path / "out")
    assert sum(dataset.card.rows.values()) == 30 and len(dataset.qrels() or {}) == 30
    assert not any("rewrite" in record for record in dataset.records("train"))


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
    write_jsonl(tmp_path / "rows.jsonl", rows)
    write_jsonl(tmp_path / "docs.jsonl", documents)
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
