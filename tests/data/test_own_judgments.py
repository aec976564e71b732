"""A user's own judgments: columns by a map, several raters, letters as grades, a corpus."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from searchlora.data import build, load_dataset
from searchlora.data.collection import read_documents
from searchlora.data.formats.common import pair_id
from searchlora.errors import DataError, RejectedRows, UsageError
from searchlora.eval.formats import read_qrels
from searchlora.files import parse_field_map

TRAIN = (1.0, 0.0, 0.0)
QUERIES = ("green tent", "warm boots")


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def records(source: Path, out: Path, *columns: str, format: str = "judgments", task: str = "judgment", **given: Any):
    fields = parse_field_map(columns)
    build(task, source, format=format, out=out, fields=fields, **{"split_ratios": TRAIN, **given})
    return {record["id"]: record for record in load_dataset(out).records("train")}


def ids(*pairs: str) -> list[str]:
    return [f"{pair_id(query)} {document}" for query, document in (pair.split("/") for pair in pairs)]


def corpus(folder: Path) -> Path:
    rows = [
        {"sku": 1, "title": "Dome", "short_description": "a green tent", "price": 90},
        {"sku": 2, "title": "Boot", "short_description": "warm", "price": 50},
        {"sku": 3, "title": "Stove", "short_description": "", "price": 20},
    ]
    with gzip.open(folder / "products.jsonl.gz", "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    return folder / "products.jsonl.gz"


def test_cases_of_quepid_are_read_as_exported(tmp_path):
    given = {"corpus": corpus(tmp_path), "thresholds": "0.5,1.5,2.5"}
    texts = ("text=short_description", "id=sku")
    detailed = "Team Name,Case Name,Case ID,Query Text,Doc ID,Doc Position,Title,Rating\nShop,Tents,5,"
    rated = f'{detailed}"green tent",1,1,Dome,3.0\nShop,Tents,5,green tent,2,2,Boot,0.4\nShop,Tents,5,unrated,,,,\n'
    case = {"case_name": "Tents", "queries": [{"query_text": "green tent", "ratings": {"1": 3.0, "2": 0.4}}]}
    grades = dict(zip(ids("green tent/1", "green tent/2"), (3, 0), strict=True))
    for name, text in (
        ("d.csv", rated),
        ("c.json", json.dumps(case)),
        ("b.csv", "query,docid,rating\ngreen tent,1,3\n"),
    ):
        found = records(written(tmp_path / name, text), tmp_path / name[0], *texts, **given)
        assert grades.items() >= {id_: record["grade"] for id_, record in found.items()}.items()
        assert len(found) == (1 if name == "b.csv" else 2)
    found = records(written(tmp_path / "d.csv", rated), tmp_path / "titles", thresholds="0.5,1.5,2.5")
    assert [(row["passage"], row["grade"]) for row in found.values()] == [("Dome", 3), ("Boot", 0)]
    with pytest.raises(UsageError, match="the judgments have no texts"):
        records(written(tmp_path / "c.json", json.dumps(case)), tmp_path / "none", thresholds="1")


def test_exports_of_quepid_are_read_by_a_map_of_their_columns(tmp_path):
    given = {"corpus": corpus(tmp_path)}
    texts = ("text=short_description", "id=sku")
    ratings = "query,docid,rating\ngreen tent,1,3\ngreen tent,2,0\n"
    found = records(
        written(tmp_path / "r.csv", ratings), tmp_path / "r", "document=docid", "grade=rating", *texts, **given
    )
    assert {id_: record["grade"] for id_, record in found.items()} == dict(
        zip(ids("green tent/1", "green tent/2"), (3, 0), strict=True)
    )
    book = "query,docid,ann@x.org,Ben\ngreen tent,1,3,\ngreen tent,2,0,1\n"
    columns = ("document=docid", "grade=ann@x.org,Ben", *texts)
    found = records(written(tmp_path / "b.csv", book), tmp_path / "b", *columns, **given)
    assert [record["votes"] for record in found.values()] == [{"3": 1}, {"0": 1, "1": 1}]


def test_a_title_alone_is_the_passage_and_its_hash_the_id(tmp_path):
    source = written(tmp_path / "j.csv", "query,title,grade\ngreen tent,Dome,3\ngreen tent,Boot,0\n")
    found = records(source, tmp_path / "out")
    assert [(record["passage"], "title" in record) for record in found.values()] == [("Dome", False), ("Boot", False)]
    assert len(found) == 2


def test_texts_come_from_a_corpus_by_id(tmp_path):
    source = written(tmp_path / "j.csv", "query,document,grade\ngreen tent,1,3\ngreen tent,2,0\nwarm stove,3,1\n")
    columns = ("text=short_description", "id=sku")
    found = records(source, tmp_path / "out", *columns, corpus=corpus(tmp_path))
    texts = [(record.get("title"), record["passage"]) for record in found.values()]
    assert texts == [("Dome", "a green tent"), ("Boot", "warm"), (None, "Stove")]


def test_ids_of_queries_are_looked_up_in_the_topics(tmp_path):
    source = written(tmp_path / "j.csv", "query,document,grade\nq1,1,3\nq1,2,0\n")
    topics = written(tmp_path / "topics.tsv", "q1\tgreen tent\n")
    columns = ("corpus.text=short_description", "corpus.id=sku")
    found = records(source, tmp_path / "out", *columns, corpus=corpus(tmp_path), topics=topics)
    assert {id_: record["query"] for id_, record in found.items()} == {"q1 1": "green tent", "q1 2": "green tent"}


def test_letters_are_grades_by_a_map(tmp_path):
    source = written(tmp_path / "j.csv", "query,passage,grade\ntent,a,E\ntent,b,s\ntent,c,C\ntent,d,I\n")
    found = records(source, tmp_path / "out", grades="E=3,S=2,C=1,I=0", options={"guideline": "products"})
    assert [record["grade"] for record in found.values()] == [3, 2, 1, 0]
    with pytest.raises(RejectedRows, match=r"j\.csv, line 2: field 'grade': 'E' is not a whole .*--grades E=NUMBER"):
        records(source, tmp_path / "other")


def test_a_rating_with_decimals_is_the_number_of_thresholds_it_reaches(tmp_path, cli):
    source = written(tmp_path / "j.csv", "query,passage,grade\ntent,a,2.5\ntent,b,2.33\ntent,c,1\ntent,d,-0.5\n")
    found = records(source, tmp_path / "out", thresholds="0.5,1.5,2.5")
    assert [record["grade"] for record in found.values()] == [3, 2, 1, 0]
    arguments = ("data", "build", "judgment", source, "--format", "judgments", "--split-ratios", "1,0,0", "--out")
    refused = cli(*arguments, tmp_path / "refused")
    assert "'2.5' is not a whole number; give thresholds, as --thresholds 0.5,1.5,2.5" in refused.err
    assert cli(*arguments, tmp_path / "built", "--thresholds", "0.5,1.5,2.5").code == 0
    assert (tmp_path / "built" / "train.jsonl").read_bytes() == (tmp_path / "out" / "train.jsonl").read_bytes()
    with pytest.raises(RejectedRows, match="line 2: field 'grade': 'good' is not a number"):
        records(written(tmp_path / "k.csv", "query,passage,grade\ntent,a,good\n"), tmp_path / "k", thresholds="1")


def test_means_of_raters_are_graded_by_thresholds(tmp_path):
    source = written(tmp_path / "j.csv", "query,passage,ann,ben\ntent,a,2.5,3\ntent,b,0.4,0\n")
    found = records(source, tmp_path / "out", "grade=ann,ben", thresholds="0.5,1.5,2.5")
    assert [(record["grade"], record["votes"]) for record in found.values()] == [(3, {"3": 2}), (0, {"0": 2})]


@pytest.mark.parametrize("name", ["graded.csv", "qrels.txt"])
def test_thresholds_grade_the_judgments_beside_the_records(tmp_path, name):
    source = written(tmp_path / "rows.jsonl", json.dumps({"id": "r0", "group": "g", "query": "tent", "rewrite": "d"}))
    texts = {
        "graded.csv": "query,document,grade\ntent,d0,1.7\ntent,d1,0.2\n",
        "qrels.txt": "r0 0 d0 1.7\nr0 0 d1 0.2\n",
    }
    given = {
        "corpus": written(tmp_path / "c.csv", "id,text\nd0,x\nd1,x\n"),
        "qrels": written(tmp_path / name, texts[name]),
        "split_ratios": TRAIN,
    }
    build("rewriting", source, format="native", out=tmp_path / "data", thresholds="0.5,1.5", **given)
    assert load_dataset(tmp_path / "data").qrels() == {"r0": {"d0": 2, "d1": 0}}
    with pytest.raises(DataError, match=r"1\.7"):
        build("rewriting", source, format="native", out=tmp_path / "other", **given)


def test_the_files_of_a_build_may_have_another_encoding(tmp_path, cli):
    source = tmp_path / "j.csv"
    source.write_bytes("query,document,grade\ncafé,1,3\ncafé,2,0\n".encode("latin-1"))
    products = tmp_path / "c.csv.gz"
    products.write_bytes(gzip.compress("id,text\n1,crème brûlée\n2,tea\n".encode("latin-1")))
    arguments = ("data", "build", "judgment", source, "--format", "judgments", "--split-ratios", "1,0,0", "--corpus")
    refused = cli(*arguments, products, "--out", tmp_path / "refused").err
    assert "c.csv.gz, line 2: the document is not UTF-8 text. Give the encoding, as --encoding cp1252, or" in refused
    refused = cli(*arguments, written(tmp_path / "d.csv", "id,text\n1,tea\n"), "--out", tmp_path / "refused").err
    assert "j.csv, line 2: is not UTF-8 text" in refused and "Give the encoding, as --encoding cp1252, or" in refused
    found = records(source, tmp_path / "out", corpus=products, encoding="latin-1")
    assert [(row["query"], row["passage"]) for row in found.values()] == [("café", "crème brûlée"), ("café", "tea")]
    assert load_dataset(tmp_path / "out").card.options["encoding"] == "latin-1"
    unknown = cli(*arguments, products, "--out", tmp_path / "unknown", "--encoding", "base64")
    assert "--encoding: there is no encoding 'base64'. For example cp1252" in unknown.err
    wrong = cli(*arguments, products, "--out", tmp_path / "wrong", "--encoding", "utf-16")
    assert "j.csv: is not utf-16 text" in wrong.err and not (tmp_path / "wrong").exists()


def test_letters_are_grades_of_native_records_too(tmp_path):
    source = written(tmp_path / "rows.csv", "query,passage,grade,price\ntent,a,yes,3\ntent,b,no,4\n")
    options = {"grades": "2"}
    found = records(source, tmp_path / "out", format="native", grades="yes=3,no=0", options=options)
    assert [(id_, record["grade"]) for id_, record in found.items()] == [("row-1", 1), ("row-2", 0)]
    notes = load_dataset(tmp_path / "out").card.report["notes"]
    assert notes == ["columns that are no field of the task were ignored: price"]


RATED = (
    "query,document,passage,ann,ben,eve\ntent,1,dome,3,3,2\ntent,2,boot,0,1,\ntent,3,peg,2,0,0\nstove,1,dome,0,0,0\n"
)


def test_several_raters_as_columns_keep_their_votes_and_agreement(tmp_path):
    found = records(written(tmp_path / "j.csv", RATED), tmp_path / "out", "grade=ann,ben,eve")
    assert [(record["grade"], record["votes"]) for record in found.values()] == [
        (3, {"2": 1, "3": 2}),
        (0, {"0": 1, "1": 1}),
        (0, {"0": 2, "2": 1}),
        (0, {"0": 3}),
    ]
    notes = load_dataset(tmp_path / "out").card.report["notes"]
    assert notes[0].startswith("agreement of 3 raters: Krippendorff's alpha ")
    assert notes[1].startswith("ann and ben: weighted kappa ") and notes[1].endswith("n = 4 pairs")
    agreement = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert (agreement["pairs"], agreement["shared"], agreement["rule"]) == (4, 4, "majority")
    assert "agreement.md" in load_dataset(tmp_path / "out").card.files


@pytest.mark.slow
def test_each_raters_grades_are_written_for_the_judge_card(tmp_path, cli):
    out = tmp_path / "out"
    records(written(tmp_path / "j.csv", RATED.replace("eve", "eve m")), out, "grade=ann,ben,eve m")
    assert read_qrels(out / "qrels.ben.txt") == {
        pair_id("tent"): {"1": 3, "2": 1, "3": 0},
        pair_id("stove"): {"1": 0},
    }
    assert read_qrels(out / "qrels.eve_m.txt")[pair_id("tent")] == {"1": 2, "3": 0}
    assert {"qrels.ann.txt", "qrels.ben.txt", "qrels.eve_m.txt"} <= set(load_dataset(out).card.files)
    called = cli(
        *("judge-card", "--human", out / "qrels.ann.txt", "--judge", f"ben={out / 'qrels.ben.txt'}"),
        *("--rater", f"ann={out / 'qrels.ann.txt'}", "--rater", f"eve={out / 'qrels.eve_m.txt'}"),
        *("--out", tmp_path / "card"),
    )
    assert called.code == 0, called.err


@pytest.mark.slow
def test_raters_grades_are_folded_with_the_guideline(tmp_path):
    found = records(written(tmp_path / "j.csv", RATED), tmp_path / "out", "grade=ann,ben,eve", options={"grades": "2"})
    assert [record["votes"] for record in found.values()] == [{"1": 3}, {"0": 2}, {"0": 2, "1": 1}, {"0": 3}]
    assert read_qrels(tmp_path / "out" / "qrels.ann.txt")[pair_id("tent")] == {"1": 1, "2": 0, "3": 1}


@pytest.mark.slow
def test_a_limit_of_rows_keeps_the_agreement_of_the_raters(tmp_path):
    found = records(written(tmp_path / "j.csv", RATED), tmp_path / "out", "grade=ann,ben,eve", limit=2)
    assert len(found) == 2
    agreement = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert agreement["pairs"] == 4
    assert load_dataset(tmp_path / "out").card.report["notes"][0].startswith("agreement of 3 raters")
    assert len(read_qrels(tmp_path / "out" / "qrels.ann.txt")) == 2


def test_several_raters_as_rows_give_the_same_dataset(tmp_path):
    header, *lines = RATED.splitlines()
    rows = ["query,document,passage,rater,grade"]
    for line in lines:
        query, document, passage, *grades = line.split(",")
        rows += [f"{query},{document},{passage},{rater},{grade}" for rater, grade in zip(
            header.split(",")[3:], grades, strict=True)]  # fmt: skip
    by_row = records(written(tmp_path / "rows.csv", "\n".join(rows)), tmp_path / "rows")
    by_column = records(written(tmp_path / "columns.csv", RATED), tmp_path / "columns", "grade=ann,ben,eve")
    assert by_row == by_column
    agreements = [(tmp_path / name / "agreement.json").read_text() for name in ("rows", "columns")]
    assert agreements[0] == agreements[1]


@pytest.mark.parametrize(("rule", "grades"), [("highest", [3, 1, 2, 0]), ("lowest", [2, 0, 0, 0])])
def test_grades_are_merged_by_the_rule(tmp_path, rule, grades):
    source = written(tmp_path / "j.csv", RATED)
    found = records(source, tmp_path / "out", "grade=ann,ben,eve", options={"rule": rule})
    assert [record["grade"] for record in found.values()] == grades


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "query,document,passage,grade\ntent,1,dome,2\ntent,1,dome,0\n",
            r"line 3: .*grade 0 here and 2 .*--map rater=",
        ),
        ("query,document,passage,rater,grade\nt,1,d,ann,2\nt,1,d,ann,0\n", r"line 3: rater 'ann' graded this pair"),
        ("query,document,passage,grade\nt,a b,d,2\n", r"line 2: field 'document': 'a b' is not one word"),
        ("query,document,passage,grade\n ,1,d,2\n", r"line 2: field 'query': is empty"),
        ("query,document,passage,grade\nt,1,,2\n", r"line 2: field 'passage': is empty"),
        ("query,document,passage,grade\nt,1,d,2.5\n", r"line 2: field 'grade': '2.5' is not a whole number"),
        ("query,document,passage,grade\nt,1,d,7\n", r"line 2: field 'grade': 7 is not one of the guideline's"),
        ("query,topic,document,passage,grade\na,1,1,d,2\nb,1,2,d,2\n", r"line 3: the topic '1' has another query"),
        ("query,document,passage,grade\nt\0,1,d,2\n", r"line 2: .*NUL"),
        (f"query,document,passage,grade\nt,1,d,{'9' * 400}\n", r"line 2: field 'grade': .* is not a whole number"),
        ("query,document,passage,rater,grade\nt,1,d,\u2028,1e300\n", r"line 2: .*not a whole number"),
    ],
)
def test_a_row_that_is_no_judgment_is_rejected_with_its_place(tmp_path, text, message):
    with pytest.raises(RejectedRows, match=message):
        records(written(tmp_path / "j.csv", text), tmp_path / "out")


def test_unrated_rows_are_counted_and_repeated_ones_left_out(tmp_path):
    text = "query,document,grade\ngreen tent,1,3\ngreen tent,1,3\ngreen tent,2,\nwarm boots,2,0\n"
    columns = ("text=short_description", "id=sku")
    found = records(written(tmp_path / "j.csv", text), tmp_path / "out", *columns, corpus=corpus(tmp_path))
    assert len(found) == 2
    counts = load_dataset(tmp_path / "out").card.report["counts"]
    assert counts == {"repeated judgments left out": 1, "rows without a grade": 1}


def test_judged_documents_that_the_corpus_lacks_are_rejected_and_named(tmp_path):
    source = written(tmp_path / "j.csv", "query,document,grade\ntent,1,3\ntent,9,0\n")
    with pytest.raises(RejectedRows, match=r"line 3: the document 9 is not in the corpus"):
        records(source, tmp_path / "out", "text=short_description", "id=sku", corpus=corpus(tmp_path))
    with pytest.raises(DataError, match=r"'1' is judged, 'Dome' is in the corpus.*--map corpus\.id=COLUMN"):
        records(source, tmp_path / "out", "text=short_description", "corpus.id=title", corpus=corpus(tmp_path))


def test_judgments_without_texts_name_the_options_that_give_them(tmp_path):
    source = written(tmp_path / "j.csv", "query,document,grade\ntent,1,3\n")
    with pytest.raises(UsageError, match=r"--map passage=title,description, or give the documents: --corpus FILE"):
        records(source, tmp_path / "out")


def test_a_split_column_is_the_official_split(tmp_path):
    text = "query,passage,grade,fold\ntent,a,3,train\ntent,b,0,train\nboot,c,1,dev\nstove,d,2,test\n"
    source = written(tmp_path / "j.csv", text)
    build("judgment", source, format="judgments", out=tmp_path / "out", fields={"split": ("fold",)})
    assert dict(load_dataset(tmp_path / "out").card.rows) == {"train": 2, "validation": 1, "test": 1}
    source = written(tmp_path / "j.csv", text.replace("dev", "7"))
    with pytest.raises(RejectedRows, match=r"line 4: field 'split': '7' is not train, dev or test"):
        build("judgment", source, format="judgments", out=tmp_path / "other", fields={"split": ("fold",)})


def test_judgments_become_training_pairs_and_a_collection_for_embedding(tmp_path):
    source = written(tmp_path / "j.csv", "query,document,grade\ngreen tent,1,3\ngreen tent,2,0\nwarm boots,2,2\n")
    columns = ("text=short_description", "id=sku")
    found = records(source, tmp_path / "out", *columns, task="embedding", corpus=corpus(tmp_path), relevant=2)
    tent = found[pair_id("green tent")]
    assert (tent["positives"], tent["negatives"]) == (["Dome a green tent"], ["Boot warm"])
    dataset = load_dataset(tmp_path / "out")
    assert [document.id for document in dataset.documents()] == ["1", "2", "3"]
    assert dataset.documents()[0].metadata["price"] == "90"
    assert dataset.qrels()[pair_id("green tent")] == {"1": 3, "2": 0} and dataset.relevant == 2


def test_a_pair_without_a_relevant_document_is_counted(tmp_path):
    source = written(tmp_path / "j.csv", "query,passage,grade\ntent,a,1\ntent,b,0\nstove,a,0\n")
    records(source, tmp_path / "out", task="embedding")
    assert load_dataset(tmp_path / "out").card.report["counts"] == {"topics without relevant": 1}


def test_grades_without_a_training_row_are_warned_about(tmp_path):
    source = written(tmp_path / "j.csv", "query,passage,grade\ntent,a,3\ntent,b,0\n")
    records(source, tmp_path / "out")
    warnings = load_dataset(tmp_path / "out").card.warnings
    assert "no training row has the grade 1, 2 of the scale 0, 1, 2, 3" in warnings


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        (("colour=c",), {}, r"--map: format 'judgments' has no field 'colour'.*Its fields: query, document, passage"),
        (("document=a,b",), {}, r"the field 'document' is read from one column"),
        ((), {"format": "trec", "grades": "E=3"}, r"--grades: format 'trec' maps no grades.*judgments, native"),
        ((), {"format": "trec", "thresholds": "1"}, r"--thresholds: format 'trec' reads no ratings with .*judgments"),
        ((), {"grades": "1=1", "thresholds": "1"}, r"--grades and --thresholds both say what a grade is"),
        ((), {"thresholds": "2,1"}, r"the thresholds 2.0, 1.0 do not rise"),
        ((), {"thresholds": "a"}, r"--thresholds: 'a' is not a list of numbers"),
        ((), {"grades": "E"}, r"'E' gives no grade its number.*--grades E=3,S=2"),
        ((), {"grades": "E=3,e=2"}, r"the grade 'e' has two numbers"),
        ((), {"options": {"rule": "mean"}}, r"the rule is 'mean'.*majority, median"),
        ((), {"format": "native", "topics": "x"}, r"--topics: format 'native' reads no topics.*judgments"),
        ((), {"task": "intent", "format": "csv", "grades": "a=1"}, r"'csv' maps no grades.*has no format with it"),
        (("query=q",), {"task": "embedding", "format": "squad"}, r"has no field 'query'.*none, its layout is fixed"),
    ],
)
def test_a_wrong_map_or_option_says_what_there_is(tmp_path, columns, given, message):
    source = written(tmp_path / "j.csv", "query,passage,grade\ntent,a,3\n")
    with pytest.raises(UsageError, match=message):
        records(source, tmp_path / "out", *columns, **given)


def test_a_mapped_column_that_is_missing_is_named(tmp_path):
    source = written(tmp_path / "j.csv", "query,passage,grade\ntent,a,3\n")
    with pytest.raises(DataError, match=r"no column 'q'; the columns are query, passage, grade.*--map FIELD=COLUMN"):
        records(source, tmp_path / "out", "query=q")
    with pytest.raises(DataError, match=r"no row has the column 'body', which --map names"):
        records(source, tmp_path / "out", "passage=passage,body")


@pytest.mark.slow
def test_chorus_judgments_and_its_three_raters(tmp_path, real_data):
    columns = ("document=docid", "grade=rating", "text=short_description")
    source, products = real_data / "chorus" / "rated.csv", real_data / "chorus" / "products.jsonl.gz"
    fields = parse_field_map(columns)
    card = build("judgment", source, format="judgments", out=tmp_path / "rated", fields=fields, corpus=products)
    assert sum(card.rows.values()) == 3668 and not card.rejected
    fields = parse_field_map(
        ["document=docid", "title=name", "passage=description", "grade=agent_1_rating,agent_2_rating,agent_3_rating"]
    )
    source = real_data / "chorus" / "individual_ratings.csv"
    card = build("judgment", source, format="judgments", out=tmp_path / "raters", fields=fields)
    assert sum(card.rows.values()) == 3188
    pairs = json.loads((tmp_path / "raters" / "agreement.json").read_text())["rater_pairs"]
    assert [round(pair["weighted"]["value"], 2) for pair in pairs] == [0.8, 0.78, 0.74]


def test_grades_of_a_query_in_two_spellings_are_one_and_other_queries_are_counted(tmp_path: Path) -> None:
    rows = [{"id": f"r{n}", "group": str(n), "query": f"tent {n}", "rewrite": "dome"} for n in range(3)]
    source = written(tmp_path / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    documents = written(tmp_path / "c.csv", "id,text\nd0,x\nd1,x\nd2,x\n")
    graded = "query,document,grade\nTent 0,d0,1\ntent 0!,d1,2\nstove,d2,1\n"
    given = {"corpus": documents, "qrels": written(tmp_path / "graded.csv", graded), "split_ratios": TRAIN}
    card = build("rewriting", source, format="native", out=tmp_path / "data", **given)
    assert load_dataset(tmp_path / "data").qrels() == {"r0": {"d0": 1, "d1": 2}}
    assert card.collection is not None and card.collection["judgments of other topics"] == 1
    written(tmp_path / "graded.csv", graded + "TENT 0,d0,3\n")
    with pytest.raises(DataError, match="the grade 3 here and 1"):
        build("rewriting", source, format="native", out=tmp_path / "again", **given)


def test_a_judged_record_needs_an_id_for_trec_files(tmp_path: Path) -> None:
    source = written(tmp_path / "rows.csv", "id,group,query,passage,grade\na b,g,tent,x,1\n")
    documents = written(tmp_path / "c.csv", "id,text\nd0,x\n")
    qrels = written(tmp_path / "graded.csv", "query,document,grade\ntent,d0,1\n")
    with pytest.raises(DataError, match="record 'a b': the record id cannot be used in a TREC file"):
        build(
            "judgment", source, format="native", out=tmp_path / "d", corpus=documents, qrels=qrels, split_ratios=TRAIN
        )


def test_decimals_of_parquet_files_are_numbers(tmp_path: Path) -> None:
    columns = {"id": ["d0", "d1"], "text": ["x", "y"], "price": pyarrow.array([Decimal("19.90"), Decimal("5.00")])}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "c.parquet")
    found = list(read_documents(tmp_path / "c.parquet"))
    assert [document.field("price") for document in found] == ["19.9", "5"]


def test_products_of_one_title_are_kept_apart_by_their_id_and_both_causes_are_named(tmp_path):
    rows = [f"tent,{n},Dome tent,{n % 3}" for n in range(6)] + [f"boot,b{n},Boot {n},{n % 3}" for n in range(6)]
    source = written(tmp_path / "j.csv", "\n".join(["query,uid,title,grade", *rows]) + "\n")
    with pytest.raises(RejectedRows, match=r"--map document=COLUMN.*--map rater=COLUMN"):
        records(source, tmp_path / "out")
    found = records(source, tmp_path / "out", "document=uid")
    assert len(found) == 12 and {row["grade"] for row in found.values() if row["query"] == "tent"} == {0, 1, 2}


@pytest.mark.parametrize("task", ["judgment", "embedding"])
def test_a_column_of_text_where_the_id_is_asked_is_named(tmp_path, task):
    source = written(tmp_path / "j.csv", "query,title,grade\ntent,Dome tent,1\nboot,Warm boot,0\n")
    with pytest.raises(DataError, match=r"line 2: .*field 'document': 'Dome tent' is not one word.*id") as told:
        build(task, source, format="judgments", out=tmp_path / "out", fields=parse_field_map(["document=title"]))
    assert "topics and qrels" not in str(told.value)
