"""Graded pairs from TREC, BEIR, Cranfield and ESCI: published layouts with synthetic texts."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from benchmarks.readers import trecdl
from searchlora.data.collection import CorpusFile
from searchlora.data.formats import judged_collections
from searchlora.data.formats.esci import read_esci
from searchlora.data.formats.judged_collections import Judged, graded_pairs, trec_documents
from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.card import card_path
from searchlora.records import Document, RejectedRow, SourceReport, SourceRow
from tests.data.layouts import layout


def rows(found) -> list:
    return [each.data for each in found if isinstance(each, SourceRow)]


# Test collections


def collection(qrels, *, never=frozenset(), documents=10) -> Judged:
    made = [Document(f"d{n}", f"text {n}" if n else " ") for n in range(documents)]
    return Judged("made", {"q": "a query"}, lambda: iter(made), {None: qrels}, never)


def test_trecdl_yields_graded_pairs_and_adds_the_lowest_ranked_unjudged(tmp_path):
    found = rows(trecdl.read_trecdl(layout("trecdl", tmp_path)))
    assert [(each["document"], each["grade"], each["score"]) for each in found] == [("d1", 3, 9.5), ("d3", 0, 7.5)]
    assert {each["topic"] for each in found} == {"7"}
    drawn = rows(trecdl.read_trecdl(tmp_path, unjudged=1))
    assert [(each["document"], each["grade"]) for each in drawn] == [("d1", 3), ("d3", 0), ("d4", 0)]


def test_trecdl_names_missing_and_malformed_files(tmp_path):
    layout("trecdl", tmp_path)
    (tmp_path / "bm25.json").write_text('[{"query": "q", "hits": [{"docid": "d1"}]}]', encoding="utf-8")
    (refused,) = trecdl.read_trecdl(tmp_path)
    assert (
        isinstance(refused, RejectedRow)
        and "not a list of objects with qid, docid, content and score" in refused.reason
    )
    hit = {"qid": 7, "docid": "d1", "score": 9.5, "content": "A shelter."}
    for broken in ([{**hit, "score": "n/a"}], [{**hit, "content": None}], [hit, {**hit, "qid": 8, "docid": "d2"}]):
        (tmp_path / "bm25.json").write_text(json.dumps([{"query": "q", "hits": broken}]), encoding="utf-8")
        (refused,) = trecdl.read_trecdl(tmp_path)
        assert isinstance(refused, RejectedRow) and "field 'hits'" in refused.reason
    (tmp_path / "more.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match=r"has 2 files like '\*\.json'"):
        list(trecdl.read_trecdl(tmp_path))


def test_pairs_follow_the_order_of_the_judgments_and_missing_texts_are_reported():
    found = list(graded_pairs(collection({"q": {"d2": 1, "d1": 0, "d99": 1, "d0": 1}, "other": {"d1": 1}})))
    assert [(each["document"], each["grade"], each["passage"]) for each in rows(found)] == [
        ("d2", 1, "text 2"),
        ("d1", 0, "text 1"),
    ]
    reported = {each.where: each.reason for each in found if isinstance(each, RejectedRow)}
    assert reported == {
        "made, topic q, document d99": "the document is not in the collection",
        "made, topic other, document d1": "the topic has no query",
    }
    (report,) = [each for each in found if isinstance(each, SourceReport)]
    assert report.counts == {"pairs with an empty document": 1}


def test_unjudged_passages_are_sampled_reproducibly_and_never_judged():
    made = collection({"q": {"d1": 2, "d2": 1}}, never=frozenset({("q", "d3")}))
    first, again = (rows(graded_pairs(made, unjudged=5)) for _ in range(2))
    assert first == again
    drawn = [each["document"] for each in first if each["grade"] == 0]
    assert len(drawn) == len(set(drawn)) <= 5 and not set(drawn) & {"d1", "d2", "d3"}
    with pytest.raises(DataError, match=r"has 10 documents, too few to draw 8"):
        list(graded_pairs(made, unjudged=8))


def test_judgments_of_unknown_topics_are_an_error():
    with pytest.raises(DataError, match=r"no topic of the judgments has a query.*Do topics and qrels belong"):
        list(graded_pairs(collection({"x": {"d1": 1}})))


def test_beir_folders_are_read(tmp_path):
    corpus = layout("beir", tmp_path) / "corpus.jsonl"
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.read_bytes()))
    corpus.unlink()
    beir = judged_collections.read_beir(tmp_path)
    assert beir.queries == {"q1": "tents", "q2": "pegs"}
    assert list(beir.documents()) == [Document("d1", "A tent is a shelter.", "Tents"), Document("d2", "", "Pegs")]
    assert beir.qrels == {"test": {"q2": {"d2": 2}}, "train": {"q1": {"d1": 1}}}
    found = rows(graded_pairs(beir))
    assert ("pegs", "", "Pegs", "test") in [
        (each["query"], each["title"], each["passage"], each["split"]) for each in found
    ]
    (tmp_path / "qrels" / "extra.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"extra.tsv: is not named train, dev or test"):
        judged_collections.read_beir(tmp_path)
    with pytest.raises(DataError, match=r"holds no qrels/\*\.tsv"):
        judged_collections.read_beir(tmp_path / "qrels")


@pytest.mark.parametrize(
    ("name", "corpus"),
    [
        ("collection.tsv", "d1\tA tent.\nd2\tPegs, idle.\n"),
        ("corpus.tsv", "id\ttitle\ttext\nd1\tx\tA tent.\nd2\ty\tPegs, idle.\n"),
        ("documents.jsonl", '{"id": "d1", "text": "A tent."}\n{"id": "d2", "text": "Pegs, idle."}\n'),
    ],
)
def test_a_trec_folder_is_read(tmp_path, name, corpus):
    (tmp_path / name).write_text(corpus, encoding="utf-8")
    (tmp_path / "topics.tsv").write_text("5\twhat is a tent\n", encoding="utf-8")
    (tmp_path / "qrels.txt").write_text("5 0 d1 3\n5 0 d2 0\n", encoding="utf-8")
    found = rows(graded_pairs(judged_collections.read_trec(tmp_path, {})))
    assert [(each["query"], each["passage"], each["grade"]) for each in found] == [
        ("what is a tent", "A tent.", 3),
        ("what is a tent", "Pegs, idle.", 0),
    ]


def test_files_of_a_trec_folder_can_be_given_as_options(tmp_path):
    (tmp_path / "t.tsv").write_text("5\twhat\n", encoding="utf-8")
    (tmp_path / "q.txt").write_text("5 0 d1 3\n", encoding="utf-8")
    (tmp_path / "c.tsv").write_text("d1\tA tent.\td2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"has 0 files whose name begins with topics or queries.*--option topics=FILE"):
        judged_collections.read_trec(tmp_path, {})
    named = judged_collections.read_trec(
        tmp_path, {"topics": "t.tsv", "qrels": str(tmp_path / "q.txt"), "corpus": "c.tsv"}
    )
    with pytest.raises(DataError, match=r"c.tsv, line 1: has 3 fields where 2 are needed"):
        list(graded_pairs(named))


# ESCI


ESCI_HEADER = ["query_id", "query", "query_locale", "product_id", "esci_label", "product_title", "product_description",
               "product_locale", "split"]  # fmt: skip
ESCI_ROWS = [
    ["7.0", "tent", "us", "P1", "exact", "Dome tent", "<b>For</b> two", "us", "train"],
    ["", "boots", "us", "P2", "Irrelevant", "Stove", "", "us", "test"],
    ["", "zelt", "es", "P3", "S", "Tienda", "", "es", "train"],
    ["", "zelt", "us", "P3", "S", "Tienda", "", "es", "train"],
    ["", "boots", "us", "P2", "Irrelevant", "Stove", "", "us", "test"],
]


def esci_pairs(folder: Path, kind: str, rows_: list[list[str]] = ESCI_ROWS) -> Path:
    path = folder / f"pairs.{kind}"
    if kind == "parquet":
        columns = dict(zip(ESCI_HEADER, map(list, zip(*rows_, strict=True)), strict=True))
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    else:
        text = "\n".join(",".join(row) for row in [ESCI_HEADER, *rows_]) + "\n"
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    return path


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_one_file_of_esci_pairs_is_read(tmp_path, kind):
    found = list(read_esci(esci_pairs(tmp_path, kind), {}))
    assert [
        (each["document"], each["grade"], each["title"], each["passage"], each["split"]) for each in rows(found)
    ] == [
        ("P1", 3, "Dome tent", "For two", "train"),
        ("P2", 0, "", "Stove", "test"),
    ]
    assert rows(found)[0]["topic"] == "7" and len(rows(found)[1]["topic"]) == 16
    (report,) = [each for each in found if isinstance(each, SourceReport)]
    assert report.counts == {"pairs of other locales left out": 2, "repeated pairs left out": 1}
    everything = list(read_esci(esci_pairs(tmp_path, kind), {"locale": "all"}))
    assert [each["document"] for each in rows(everything)] == ["P1", "P2", "P3"]
    (report,) = [each for each in everything if isinstance(each, SourceReport)]
    assert report.counts["pairs of a query and a product of two locales left out"] == 1


def test_a_label_that_contradicts_an_earlier_row_is_rejected(tmp_path):
    other = [
        *ESCI_ROWS[:1],
        [*ESCI_ROWS[0][:4], "I", *ESCI_ROWS[0][5:]],
        [*ESCI_ROWS[1][:4], "good", *ESCI_ROWS[1][5:]],
    ]
    found = list(read_esci(esci_pairs(tmp_path, "csv", other), {}))
    assert [(each.where, each.reason) for each in found if isinstance(each, RejectedRow)] == [
        ("pairs.csv, line 3", "the pair has the label 'exact' in an earlier row"),
        ("pairs.csv, line 4", "field 'esci_label': 'good' is none of E, S, C, I"),
    ]
    with pytest.raises(DataError, match=r"has no pair of the locale 'de'"):
        list(read_esci(tmp_path / "pairs.csv", {"locale": "de"}))


@pytest.mark.slow
def test_the_published_esci_pairs_are_read(real_data):
    source = real_data / "esci_pairs" / "pairs.csv.gz"
    found = {locale: list(read_esci(source, {"locale": locale})) for locale in ("us", "es", "jp")}
    assert {locale: len(rows(each)) for locale, each in found.items()} == {"us": 1695, "es": 412, "jp": 511}
    assert not [each for of_locale in found.values() for each in of_locale if isinstance(each, RejectedRow)]


# TREC pools


def trec_pool(folder: Path) -> Path:
    (folder / "passages.jsonl").write_text(
        "".join(json.dumps({"id": f"d{n}", "text": f"text {n}"}) + "\n" for n in range(1, 6)), encoding="utf-8"
    )
    (folder / "topics.tsv").write_text("5\ttents\n", encoding="utf-8")
    (folder / "qrels.txt").write_text("5 0 d1 3\n5 0 d2 0\n5 0 d9 2\n", encoding="utf-8")
    (folder / "runs").mkdir()
    (folder / "runs" / "a.trec").write_text("5 Q0 d1 1 9 a\n5 Q0 d3 2 8 a\n5 Q0 d2 3 7 a\n", encoding="utf-8")
    (folder / "runs" / "b.trec").write_text("5 Q0 d4 1 9 b\n", encoding="utf-8")
    return folder


def test_a_card_beside_judgments_and_runs_is_no_file_of_its_own(tmp_path):
    source = trec_pool(tmp_path)
    before = list(graded_pairs(judged_collections.read_trec(source, {"runs": "runs"})))
    for file in (source / "qrels.txt", source / "runs" / "a.trec"):
        card_path(file).write_text('{"run_sha256": ""}')
    assert list(graded_pairs(judged_collections.read_trec(source, {"runs": "runs"}))) == before


def test_judgments_outside_the_pool_of_the_runs_are_left_out(tmp_path):
    trec_pool(tmp_path)
    found = list(graded_pairs(judged_collections.read_trec(tmp_path, {"runs": "runs"})))
    assert [(each["document"], each["grade"]) for each in rows(found)] == [("d1", 3), ("d2", 0)]
    (report,) = [each for each in found if isinstance(each, SourceReport)]
    assert report.counts == {"judgments outside the pool": 1}
    shallow = judged_collections.read_trec(tmp_path, {"runs": "runs/a.trec,runs/b.trec", "depth": "2"})
    assert [each["document"] for each in rows(graded_pairs(shallow))] == ["d1"]


def test_unjudged_documents_are_drawn_from_the_pool(tmp_path):
    pooled = judged_collections.read_trec(trec_pool(tmp_path), {"runs": "runs"})
    drawn = rows(graded_pairs(pooled, unjudged=2))
    assert {each["document"] for each in drawn if each["grade"] == 0} == {"d2", "d3", "d4"}
    with pytest.raises(DataError, match=r"topic 5: has 4 documents, too few to draw 3"):
        list(graded_pairs(pooled, unjudged=3))


def test_pairs_have_the_score_of_a_teacher_and_documents_without_a_judgment_are_added(tmp_path):
    source = trec_pool(tmp_path)
    options = {"teacher": "runs", "ungraded": "1"}
    found = rows(graded_pairs(judged_collections.read_trec(source, options)))
    assert [(each["document"], each.get("grade")) for each in found] == [("d1", 3), ("d2", 0), ("d3", None)]
    assert found[0]["teacher"] > found[2]["teacher"] > found[1]["teacher"]
    every = rows(graded_pairs(judged_collections.read_trec(source, {**options, "ungraded": "9"})))
    assert [each["document"] for each in every if "grade" not in each] == ["d3", "d4"]
    (source / "qrels.txt").unlink()
    alone = rows(graded_pairs(judged_collections.read_trec(source, {**options, "ungraded": "9"})))
    assert {each["document"] for each in alone} == {"d1", "d2", "d3", "d4"} and "grade" not in alone[0]
    with pytest.raises(UsageError, match=r"need a teacher.*--option teacher=RUNS"):
        judged_collections.read_trec(source, {"ungraded": "1"})


@pytest.mark.parametrize("depth", ["0", "few"])
def test_a_depth_is_a_positive_number(tmp_path, depth):
    with pytest.raises(UsageError, match=r"--option depth: .*at least 1"):
        judged_collections.read_trec(trec_pool(tmp_path), {"runs": "runs", "depth": depth})


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "corpus", "pairs"), [("trecdl19", "pool_passages.jsonl.gz", 4333),
                                                         ("trecdl20", "passages.jsonl.gz", 4999)])  # fmt: skip
def test_the_published_pools_are_read(real_data, folder, corpus, pairs):
    judged = judged_collections.read_trec(real_data / folder, {"runs": "runs", "corpus": corpus})
    found = list(graded_pairs(judged))
    assert len(rows(found)) == pairs and not [each for each in found if isinstance(each, RejectedRow)]


def test_a_judged_topic_that_no_run_has_gets_no_unjudged_documents():
    judged = collection({"t1": {"d1": 1}, "t2": {"d2": 1}})
    judged = replace(judged, queries={"t1": "tent", "t2": "boots"}, pool={"t1": ["d1", "d3", "d4"]})
    found = rows(graded_pairs(judged, unjudged=1))
    assert [(row["topic"], row["grade"]) for row in found] == [("t1", 1), ("t1", 0), ("t2", 1)]


@pytest.mark.parametrize("first", ["\ufeffid\ttext", "docid\ttext"])
def test_a_header_of_a_tab_separated_corpus_is_no_document(tmp_path, first):
    (tmp_path / "collection.tsv").write_text(f"{first}\nd1\ta tent\n", encoding="utf-8")
    corpus = CorpusFile(tmp_path / "collection.tsv", {} if "docid" not in first else {"id": ("docid",)})
    assert [document.id for document in trec_documents(corpus)] == ["d1"]
    if "docid" in first:
        with pytest.raises(DataError, match="id"):
            list(trec_documents(CorpusFile(tmp_path / "collection.tsv", {})))
