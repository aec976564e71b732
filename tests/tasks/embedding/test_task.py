"""The embedding task: source formats, records, collections, and evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, f1_score

from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.data.formats import formats_of
from searchlora.data.formats.common import document_id
from searchlora.errors import DataError, RejectedRows, UsageError
from searchlora.eval.judgments.card import read_card
from searchlora.eval.measures import retrieval_values
from searchlora.outputs import InvalidOutput
from searchlora.records import SourceRow
from searchlora.task import EvaluationInput, load_encoder_task
from searchlora.tasks.embedding.dataset import FORMATS
from tests.factories import write_jsonl


def built(source: Path, format: str, out: Path, **options) -> Dataset:
    how = {"split_ratios": (1.0, 0.0, 0.0), **options.pop("how", {})}
    build(load_encoder_task("embedding"), source, format=format, out=out, options=options, **how)
    return load_dataset(out)


def records(source: Path, format: str, **options) -> list:
    read = formats_of(load_encoder_task("embedding"))[format].read
    return [row.data for row in read(source, options) if isinstance(row, SourceRow)]


def test_native_records_use_their_texts_as_collection(tmp_path):
    rows = [
        {"id": "a", "group": "a", "query": "tent", "positives": ["A green tent.", "Shelter"], "negatives": ["Boots"]},
        {"id": "b", "group": "b", "query": "boots", "positives": ["boots!"], "negatives": ["Shelter"]},
    ]
    dataset = built(write_jsonl(tmp_path / "rows.jsonl", rows), "native", tmp_path / "out")
    assert dataset.records("train") == rows
    assert [each.text for each in dataset.documents()] == ["A green tent.", "Shelter", "Boots"]
    tent, shelter, boots = (document_id(text) for text in ("a green tent", "shelter", "boots"))
    assert dataset.qrels() == {"a": {tent: 1, shelter: 1, boots: 0}, "b": {boots: 1, shelter: 0}}


def test_labels_have_no_collection_and_no_warning_about_it(tmp_path):
    rows = [{"id": str(n), "group": str(n), "query": f"text {n}", "label": "xy"[n % 2]} for n in range(4)]
    dataset = built(write_jsonl(tmp_path / "rows.jsonl", rows), "native", tmp_path / "out")
    assert dataset.documents() is None
    assert not any("judgment" in warning for warning in dataset.card.warnings)
    assert not (tmp_path / "out" / "corpus.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "x"}, "valid under"),
        ({"query": "x", "positives": ["y"], "label": "z"}, "valid under"),
        ({"query": " ", "label": "z"}, "query"),
        ({"query": "x", "positives": []}, "valid under|non-empty"),
    ],
)
def test_rows_with_no_or_both_kinds_of_target_are_rejected(row, message, tmp_path):
    with pytest.raises(RejectedRows, match=message):
        built(write_jsonl(tmp_path / "rows.jsonl", [{"id": "a", "group": "a", **row}]), "native", tmp_path / "out")


def test_two_kinds_in_one_dataset_are_refused(tmp_path):
    rows = [
        {"id": "a", "group": "a", "query": "x", "label": "z"},
        {"id": "b", "group": "b", "query": "y", "positives": ["z"]},
    ]
    with pytest.raises(DataError, match="some records have a label"):
        built(write_jsonl(tmp_path / "rows.jsonl", rows), "native", tmp_path / "out")


def test_pairs_of_one_query_become_one_record(tmp_path):
    (tmp_path / "pairs.tsv").write_text(
        "anchor\tpositive\tnegative\nRed tent\tone\tbad\nboots\tthree\t\nred  TENT\ttwo\tbad\n \tx\t\n"
    )
    rows = list(FORMATS["pairs"].read(tmp_path / "pairs.tsv", {"query": "anchor"}))
    tent, boots = (row.data for row in rows if isinstance(row, SourceRow))
    assert (tent["query"], tent["group"]) == ("Red tent", "red tent")
    assert (tent["positives"], tent["negatives"]) == (["one", "two"], ["bad"])
    assert (boots["positives"], boots.get("negatives")) == (["three"], None)
    assert len(rows) == 3  # one row has no query


def test_a_query_in_two_splits_is_removed_from_training(tmp_path):
    write_jsonl(tmp_path / "pairs" / "train.jsonl", [{"query": q, "positive": f"{q}!"} for q in ("red tent", "boots")])
    write_jsonl(tmp_path / "pairs" / "test.jsonl", [{"query": "Red tent", "positive": "A tent in red."}])
    dataset = built(tmp_path / "pairs", "pairs", tmp_path / "out", how={"on_leak": "drop"})
    assert [each["query"] for each in dataset.records("train")] == ["boots"]
    (test,) = dataset.records("test")
    assert test["positives"] == ["A tent in red."]
    assert dataset.qrels()[test["id"]] == {document_id("A tent in red."): 1}


def test_labels_are_read_as_strings(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na tent, shoes \n")
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "a tent", "label": 3}])
    assert [records(tmp_path / f"rows.{end}", "labelled")[0]["label"] for end in ("csv", "jsonl")] == ["shoes", "3"]


def test_faq_and_squad_map_questions_to_answers_and_paragraphs(tmp_path):
    faq = write_jsonl(tmp_path / "faq.jsonl", [{"question": "How?", "answer": "So.", "section": "s"}])
    assert [(r["group"], r["query"], r["positives"]) for r in records(faq, "faq")] == [("s", "How?", ["So."])]
    paragraph = {"context": "The sky is blue.", "qas": [{"id": "1", "question": "Which colour?", "answers": []}]}
    paragraph["qas"][0]["answers"] = [{"text": "blue", "answer_start": 11}]
    paragraph["qas"].append({"id": "2", "question": "Why?", "answers": [], "is_impossible": True})
    squad = tmp_path / "squad.json"
    squad.write_text(json.dumps({"data": [{"title": "Sky", "paragraphs": [paragraph]}]}))
    assert records(squad, "squad") == [
        {"id": "1", "group": "Sky", "query": "Which colour?", "positives": ["The sky is blue."]}
    ]


@pytest.fixture
def beir(tmp_path) -> Path:
    folder = tmp_path / "beir"
    write_jsonl(
        folder / "corpus.jsonl", [{"_id": f"d{n}", "title": "T" * (n == 0), "text": f"text {n}"} for n in range(4)]
    )
    write_jsonl(folder / "queries.jsonl", [{"_id": f"q{n}", "text": f"query {n}"} for n in range(4)])
    (folder / "qrels").mkdir()
    head = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / "train.tsv").write_text(f"{head}q0\td0\t2\nq0\td1\t1\nq0\td2\t0\nq3\td1\t0\n")
    (folder / "qrels" / "test.tsv").write_text(f"{head}q1\td3\t1\n")
    return folder


def test_a_beir_folder_keeps_its_splits_its_collection_and_its_judged_negatives(beir, tmp_path):
    dataset = built(beir, "beir", tmp_path / "out", how={"split_ratios": (0.8, 0.1, 0.1)})
    texts = {"positives": ["T text 0", "text 1"], "negatives": ["text 2"]}
    row = {"id": "q0", "group": "query 0", "query": "query 0", **texts, "split": "train"}
    assert dataset.records("train") == [row]
    assert [record["id"] for record in dataset.records("test")] == ["q1"]
    assert len(dataset.documents()) == 4
    assert dataset.qrels() == {"q0": {"d0": 2, "d1": 1, "d2": 0}, "q1": {"d3": 1}}
    assert dataset.card.report["counts"] == {"topics without relevant": 1}


def test_the_lowest_relevant_grade_is_an_option(beir, tmp_path):
    dataset = built(beir, "beir", tmp_path / "out", relevant="2", how={"allow_rejects": True})
    assert dataset.records("train")[0]["positives"] == ["T text 0"]
    assert dataset.relevant == 2
    with pytest.raises(UsageError, match="--option relevant: '0' is not a whole number of at least 1"):
        built(beir, "beir", tmp_path / "other", relevant="0")


def test_clicks_are_corrected_for_position_and_their_card_says_so(tmp_path):
    documents = write_jsonl(
        tmp_path / "docs.jsonl", [{"id": name, "text": f"text of {name}"} for name in ("up", "down")]
    )
    shown = []
    for n in range(200):  # 'down' is second and clicked as often: more than expected at its position
        shown.append({"query": "Tent", "document": "up", "position": 1, "clicked": int(n % 5 == 0)})
        shown.append({"query": "tent", "document": "down", "position": 2, "clicked": int(n % 5 == 0)})
        shown.append({"query": "boots", "document": "up", "position": 1, "clicked": int(n % 2 == 0)})
        shown.append({"query": "boots", "document": "down", "position": 2, "clicked": 0})
    log = write_jsonl(tmp_path / "log.jsonl", shown)
    with pytest.raises(UsageError, match="--corpus FILE"):
        built(log, "clicks", tmp_path / "none")
    dataset = built(log, "clicks", tmp_path / "out", documents=str(documents))
    found = {record["query"]: record for record in dataset.records("train")}
    assert found["tent"]["positives"] == ["text of down"]
    assert found["boots"]["positives"] == ["text of up"]
    assert found["boots"]["negatives"] == ["text of down"]
    card = read_card(tmp_path / "out" / "qrels.txt")
    assert (card.source, card.counts) == ("clicks", {"clicks": 4})
    assert "expected" in card.rule and dataset.relevant == 2
    given = {"corpus": documents, "relevant": 1}
    assert built(log, "clicks", tmp_path / "lower", how=given).relevant == 1
    with pytest.raises(UsageError, match="reads no topics"):
        built(log, "clicks", tmp_path / "topics", how={**given, "topics": documents})


def test_documents_without_labels_are_asked_for_by_their_titles_and_by_made_queries(tmp_path):
    source = tmp_path / "products.csv"
    rows = ["id,title,text", "1,Red tent,For two.", "2,Red tent,Heavy.", "3,,A lamp of brass for dark evenings."]
    source.write_text("\n".join([*rows, "4,Rope,"]), encoding="utf-8")
    dataset = built(source, "documents", tmp_path / "out", queries="2")
    queries = {record["query"]: record["positives"] for record in dataset.records("train")}
    assert queries["Red tent"] == ["Red tent For two.", "Red tent Heavy."]
    assert queries["rope"] == ["Rope"]  # a title without a text is the text
    assert sum(query.startswith(("a lamp of", "lamp of", "of brass")) for query in queries) == 2
    assert {document.id for document in dataset.documents() or ()} == {"1", "2", "3", "4"}
    card = read_card(dataset.folder / "qrels.txt")
    assert card.source == "synthetic" and "its title, and 2 made of" in card.rule
    with pytest.raises(UsageError, match="synthetic"):
        built(source, "documents", tmp_path / "human", how={"judgments_source": "human"})


def test_rejected_rows_leave_no_texts_in_the_collection(tmp_path):
    rows = [
        {"id": "r0", "group": "a", "query": "tent", "positives": ["good"]},
        {"id": "r0", "group": "b", "query": "boots", "positives": ["good", "wrong"]},
        {"id": "r1", "group": "c", "query": "stove", "positives": ["fine", None]},
    ]
    data = built(write_jsonl(tmp_path / "rows.jsonl", rows), "native", tmp_path / "out", how={"allow_rejects": True})
    assert [document.text for document in data.documents()] == ["good"]
    assert data.qrels() == {"r0": {document_id("good"): 1}}


def test_a_click_log_takes_the_judgments_of_people_for_evaluation(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("query,document,position,clicked\n" + "tent,d1,1,1\ntent,d2,2,0\n" * 20, encoding="utf-8")
    documents = write_jsonl(tmp_path / "c.jsonl", [{"id": "d1", "text": "a tent"}, {"id": "d2", "text": "boots"}])
    judged = tmp_path / "judged.csv"
    judged.write_text("query,document,grade\ntent,d2,3\n", encoding="utf-8")
    data = built(log, "clicks", tmp_path / "out", how={"corpus": documents, "qrels": judged})
    assert list(data.qrels().values()) == [{"d2": 3}]
    assert [record["positives"] for record in data.records("train")] == [["a tent"]]


TASK = load_encoder_task("embedding")
FOUND = [
    {"id": f"q{n}", "group": f"g{n // 2}", "query": "x", "positives": ["y"], "kind": "ab"[n % 2]} for n in range(4)
]
CLASSES = [{"id": f"t{n}", "group": f"t{n}", "query": "x", "label": "abc"[n % 3]} for n in range(9)]


def test_retrieval_is_evaluated_over_every_judged_record():
    qrels = {"q0": {"d": 1}, "q1": {"e": 2, "d": 1}, "q2": {"d": 1}, "other": {"d": 1}}
    run = {"q0": {"d": 1.0, "e": 0.5}, "q1": {"d": 0.4, "e": 0.3}, "q3": {"d": 1.0}}
    found = TASK.evaluate(EvaluationInput(FOUND, [None] * 4, run=run, qrels=qrels))
    own = {topic: grades for topic, grades in qrels.items() if topic != "other"}
    assert found.headline == "nDCG@10"
    assert found.values == retrieval_values(run, own, ["nDCG@10", "MRR@10", "Recall@10", "Recall@100"])
    assert found.values["nDCG@10"]["q2"] == 0.0
    assert (found.clusters["q1"], found.slices["kind"]["q1"]) == ("g0", "b")
    stricter = TASK.evaluate(EvaluationInput(FOUND, [None] * 4, run=run, qrels=qrels, relevant=2))
    assert stricter.values["MRR(rel=2)@10"]["q1"] == 0.5
    assert "nothing is measured" in TASK.evaluate(EvaluationInput(FOUND, [None] * 4)).notes[0]


def test_classification_measures_equal_scikit_learn():
    outputs = ["a", "b", "c", "b", "b", "z", "a", "c", InvalidOutput("?", "no class")]
    gold, predicted = [record["label"] for record in CLASSES], [o if isinstance(o, str) else "invalid" for o in outputs]
    found = TASK.evaluate(EvaluationInput(CLASSES, outputs))
    assert found.headline == "macro-F1"
    assert found.mean("accuracy") == accuracy_score(gold, predicted)
    wanted = f1_score(gold, predicted, average="macro", labels=["a", "b", "c"], zero_division=0)
    assert found.aggregates["macro-F1"].value == pytest.approx(wanted)
    assert found.confusions["Classes"].counts[0] == (2, 1, 0, 0, 0)


def test_the_most_frequent_class_comes_from_training(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"label": "b"}\n{"label": "a"}\n{"label": "b"}\n')
    assert TASK.baselines(CLASSES, tmp_path) == {"commonest class": ["b"] * 9}
    assert TASK.baselines(FOUND, tmp_path) == {}
