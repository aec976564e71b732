"""A user's own corpus and qrels for a source that has none."""

from __future__ import annotations

import json

import pytest

from searchlora.data import build, load_dataset
from searchlora.data.formats.common import pair_id
from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.card import read_card
from searchlora.files import parse_field_map
from searchlora.task import load_task


@pytest.fixture
def source(tmp_path):
    rows = [{"id": f"r{n}", "group": str(n), "query": f"kicks {n}", "rewrite": f"shoes {n}"} for n in range(20)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_the_dataset_can_be_evaluated_by_retrieval(source, tmp_path):
    corpus = written(tmp_path / "products.csv", "id,title,text\np1,Shoe,a running shoe\np2,Tent,green\n")
    qrels = written(tmp_path / "q.txt", "r1 0 p1 3\nr2 0 p2 1\nelse 0 p1 1\n")
    out = tmp_path / "data"
    card = build(load_task("rewriting"), source, format="native", out=out, corpus=corpus, qrels=qrels)
    dataset = load_dataset(out)
    assert [document.id for document in dataset.documents()] == ["p1", "p2"]
    assert dataset.qrels() == {"r1": {"p1": 3}, "r2": {"p2": 1}}
    assert card.collection["judgments"] == 2
    assert card.collection["judgments of other topics"] == 1


def built(source, tmp_path, topics):
    corpus = written(tmp_path / "products.csv", "id,text\np1,a running shoe\n")
    qrels = written(tmp_path / "q.txt", "".join(f"{topic} 0 p1 1\n" for topic in topics))
    shares = (0.4, 0.3, 0.3)
    return build(
        "rewriting", source, format="native", out=tmp_path / "d", corpus=corpus, qrels=qrels, split_ratios=shares
    )


def test_a_collection_without_judgments_of_the_records_gives_a_warning(source, tmp_path):
    card = built(source, tmp_path, ["pair-1", "pair-2"])
    assert card.collection["judgments of other topics"] == 2
    assert "no judgment is for a record of this dataset; it cannot be evaluated by retrieval" in card.warnings


def test_unjudged_test_records_give_a_warning(source, tmp_path):
    build("rewriting", source, format="native", out=tmp_path / "plain", split_ratios=(0.4, 0.3, 0.3))
    test = [record["id"] for record in load_dataset(tmp_path / "plain").records("test")]
    assert len(test) > 1
    card = built(source, tmp_path, test[1:])
    assert f"{len(test) - 1} of {len(test)} test records are judged" in card.warnings


def test_no_warning_when_all_test_records_are_judged(source, tmp_path):
    assert not any("judg" in warning for warning in built(source, tmp_path, [f"r{n}" for n in range(20)]).warnings)


@pytest.mark.parametrize("form", ["pairs", "querylog"])
def test_judgments_can_be_written_before_the_dataset_is_built(form, tmp_path):
    if form == "pairs":
        text, topic = "query,rewrite\nRed kicks,red shoes\n", pair_id("red kicks")
    else:
        rows = "".join(f"s{n},0,Red kicks,0\ns{n},9,red shoes,1\n" for n in range(3))
        text, topic = f"session,time,query,clicks\n{rows}", pair_id("red kicks", "red shoes")
    source = written(tmp_path / "source.csv", text)
    corpus = written(tmp_path / "products.csv", "id,text\np1,a running shoe\n")
    qrels = written(tmp_path / "q.txt", f"{topic} 0 p1 3\n")
    out = tmp_path / "data"
    build("rewriting", source, format=form, out=out, corpus=corpus, qrels=qrels, split_ratios=(1.0, 0.0, 0.0))
    assert load_dataset(out).qrels() == {topic: {"p1": 3}}


QUERY_LOG = "session,time,query,clicks\n" + "".join(
    f"s{n},0,Red kicks,0\ns{n},9,red shoes,1\nt{n},0,green tent,1\n" for n in range(3)
)


@pytest.mark.parametrize(
    ("name", "judged", "columns"),
    [
        ("j.csv", "query,document,grade\nRed shoes!,p1,3\nelse,p2,1\n", []),
        ("j.jsonl", '{"query": "red shoes", "document": "p1", "grade": 3}\n', []),
        ("j.csv", "query,docid,rating\nred shoes,p1,3\n", []),
        ("j.csv", "q,product,ann,ben\nred shoes,p1,3,3\nred shoes,p1x,,\n",
         ["qrels.query=q", "qrels.document=product", "qrels.grade=ann,ben"]),
        ("j.json", '{"judgmentRatings": [{"query": "red shoes", "ratings": [{"docId": "p1", "rating": "3"}]}]}', []),
    ],
)  # fmt: skip
def test_a_query_log_is_built_with_judgments_by_query(tmp_path, name, judged, columns):
    log = written(tmp_path / "log.csv", QUERY_LOG)
    corpus = written(tmp_path / "products.csv", "sku,text\np1,a running shoe\np2,a tent\n")
    qrels = written(tmp_path / name, judged)
    fields = parse_field_map(["corpus.id=sku", *columns])
    card = build("rewriting", log, format="querylog", out=tmp_path / "out", corpus=corpus, qrels=qrels, fields=fields,
                 split_ratios=(1.0, 0.0, 0.0))  # fmt: skip
    # A record is judged by its own query or by its rewrite, which have one information need.
    assert load_dataset(tmp_path / "out").qrels() == {pair_id("red kicks", "red shoes"): {"p1": 3}}
    assert card.collection["documents"] == 2


CLICKED = "session,time,query,ids\n" + "".join(
    f"s{n},0,Red kicks,\ns{n},9,red shoes,{'7 8' if n else '7'}\nt{n},0,green tent,9\n" for n in range(3)
)


def clicked(tmp_path, out="out", **options):
    corpus = written(tmp_path / "products.csv", "sku,name\n7,a running shoe\n8,a boot\n9,a tent\n")
    fields = parse_field_map(["clicked=ids", "id=sku", "text=name"])
    return build("rewriting", written(tmp_path / "log.csv", CLICKED), format="querylog", out=tmp_path / out,
                 corpus=corpus, fields=fields, options=options, split_ratios=(1.0, 0.0, 0.0))  # fmt: skip


def test_a_query_log_with_clicked_ids_is_built_with_its_judgments(tmp_path):
    card = clicked(tmp_path)
    kicks, tent = pair_id("red kicks", "red shoes"), pair_id("green tent", "green tent")
    assert load_dataset(tmp_path / "out").qrels() == {tent: {"9": 1}, kicks: {"7": 1, "8": 1}}
    assert card.collection["documents"] == 3
    judged_by = read_card(tmp_path / "out" / "qrels.txt")
    assert judged_by.source == "clicks" and judged_by.counts == {"clicks": 3}
    assert "not corrected for positions" in judged_by.rule


def test_documents_that_few_sessions_clicked_are_not_judged(tmp_path):
    clicked(tmp_path, clicked_sessions="3")
    kicks = pair_id("red kicks", "red shoes")
    assert load_dataset(tmp_path / "out").qrels()[kicks] == {"7": 1}
    with pytest.raises(UsageError, match=r"--option clicked_sessions: '0' is not a whole number of at least 1"):
        clicked(tmp_path, "other", clicked_sessions="0")


def test_clicked_ids_count_as_clicks_without_documents(tmp_path):
    log = written(tmp_path / "log.csv", CLICKED)
    build(
        "rewriting",
        log,
        format="querylog",
        out=tmp_path / "out",
        fields={"clicked": ("ids",)},
        split_ratios=(1.0, 0.0, 0.0),
    )
    dataset = load_dataset(tmp_path / "out")
    assert {record["query"] for record in dataset.records("train")} == {"Red kicks", "green tent"}
    assert dataset.documents() is None


def test_a_judgment_of_the_query_itself_precedes_that_of_its_rewrite(tmp_path):
    pairs = written(tmp_path / "pairs.csv", "query,rewrite\nred kicks,red shoes\n")
    corpus = written(tmp_path / "products.csv", "id,text\np1,a shoe\np2,a kick\n")
    qrels = written(tmp_path / "j.csv", "query,document,grade\nred kicks,p2,1\nred shoes,p1,3\n")
    build(
        "rewriting",
        pairs,
        format="pairs",
        out=tmp_path / "out",
        corpus=corpus,
        qrels=qrels,
        split_ratios=(1.0, 0.0, 0.0),
    )
    assert load_dataset(tmp_path / "out").qrels() == {pair_id("red kicks"): {"p2": 1}}


def test_corpus_and_qrels_are_only_accepted_together(source, tmp_path):
    qrels = written(tmp_path / "q.txt", "r1 0 p1 3\n")
    with pytest.raises(UsageError, match="judgments need a corpus"):
        build(load_task("rewriting"), source, format="native", out=tmp_path / "data", qrels=qrels)


@pytest.mark.parametrize(
    ("documents", "name", "judged", "message"),
    [
        (
            '"boots"',
            "j.csv",
            "query,document,grade\nred kicks,p1,good\n",
            r"j\.csv, line 2: field 'grade': 'good'",
        ),
        ('"boots"', "q.txt", "r1 0 p1 3\nr2 p1 3\n", r"q\.txt, line 2"),
        ('"boots"', "q.txt", "r1 0 p1 1\nr1 0 p1 1\n", "topic r1: document p1 is judged twice"),
        ('"boots \\ud83d"', "q.txt", "r1 0 p1 3\n", r"products\.jsonl, line 1: .*a lone surrogate"),
    ],
)
def test_a_malformed_line_is_an_error_that_names_its_place(source, tmp_path, documents, name, judged, message):
    corpus = written(tmp_path / "products.jsonl", f'{{"id": "p1", "text": {documents}}}')
    qrels = written(tmp_path / name, judged)
    with pytest.raises(DataError, match=message):
        build("rewriting", source, format="native", out=tmp_path / "data", corpus=corpus, qrels=qrels)
    assert not (tmp_path / "data").exists()
