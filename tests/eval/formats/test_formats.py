"""Public formats as written by their own tools, and format detection."""

from __future__ import annotations

import json

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats import format_of_file, read_qrels, read_run, read_topics
from searchlora.eval.formats.opensearch import write_judgment_list

TOPICS = {"7": {"query": "red dress"}, "8": {"query": "=SUM(1,2) jeans"}}

# The body of the OpenSearch documentation, "Importing judgments", shortened to three ratings.
IMPORTED = {
    "name": "Imported Judgments",
    "description": "Judgments generated outside SRW",
    "type": "IMPORT_JUDGMENT",
    "judgmentRatings": [
        {
            "query": "red dress",
            "ratings": [{"docId": "B077ZJXCTS", "rating": "3.000"}, {"docId": "B07QRCGL3G", "rating": "0.000"}],
        },
        {"query": "blue jeans", "ratings": [{"docId": "B07L9V4Y98", "rating": 1}]},
    ],
}
JUDGED = {"red dress": {"B077ZJXCTS": 3, "B07QRCGL3G": 0}, "blue jeans": {"B07L9V4Y98": 1}}


def test_opensearch_import_and_fetch_formats_are_read(tmp_path):
    (tmp_path / "in.json").write_text(json.dumps(IMPORTED))
    source = {"id": "b54f", "status": "COMPLETED", "metadata": {}, **IMPORTED}
    fetched = {"took": 36, "_shards": {"total": 1}, "hits": {"total": {"value": 1}, "hits": [{"_source": source}]}}
    (tmp_path / "got.json").write_text(json.dumps(fetched, indent=2))
    assert read_qrels(tmp_path / "in.json") == JUDGED
    assert read_qrels(tmp_path / "got.json") == JUDGED


def test_opensearch_import_format_is_written(tmp_path):
    write_judgment_list(tmp_path / "shop.json", {"7": JUDGED["red dress"]}, TOPICS)
    body = json.loads((tmp_path / "shop.json").read_text())
    assert {key: body[key] for key in ("name", "type")} == {"name": "shop", "type": "IMPORT_JUDGMENT"}
    assert body["judgmentRatings"][0] == IMPORTED["judgmentRatings"][0]


def test_quepid_basic_export(tmp_path):
    # As written by Quepid's show.basic.csv.erb: an unrated query on its own line, and a blank before formula-like text.
    (tmp_path / "case.csv").write_text('query,docid,rating\nred dress,a,3.0\nunrated\n" =SUM(1,2) jeans",b,0.0\nx,c,\n')
    assert read_qrels(tmp_path / "case.csv") == {"red dress": {"a": 3}, "=SUM(1,2) jeans": {"b": 0}}
    assert read_qrels(tmp_path / "case.csv", topics=TOPICS) == {"7": {"a": 3}, "8": {"b": 0}}


def test_quepid_detailed_export(tmp_path):
    (tmp_path / "case.csv").write_text(
        "Team Name,Case Name,Case ID,Query Text,Doc ID,Doc Position,Title,Rating,brand\n"
        "Shop,Tents,5,red dress,a,1,,2,\n"
        "Shop,Tents,5,nobody rated this,,,,,\n"
    )
    assert read_qrels(tmp_path / "case.csv") == {"red dress": {"a": 2}}


CASE = {
    "case_name": "Tents",
    "scorer": {"name": "nDCG@10"},
    "queries": [
        {"arranged_at": 0, "query_text": "red dress", "notes": None, "ratings": {"a": 2.0, "b": None}},
        {"query_text": "=SUM(1,2) jeans", "ratings": [{"doc_id": "b", "rating": "1", "user_email": "a@b.org"}]},
        {"query_text": "nobody rated this", "ratings": None},
    ],
}


def test_quepid_case_as_json(tmp_path):
    (tmp_path / "case.json").write_text(json.dumps(CASE, indent=1))
    assert format_of_file(tmp_path / "case.json", "qrels").name == "quepid"
    assert read_qrels(tmp_path / "case.json", topics=TOPICS) == {"7": {"a": 2}, "8": {"b": 1}}
    ratings = {"queries": [{"query": query["query_text"], "ratings": query["ratings"]} for query in CASE["queries"]]}
    (tmp_path / "ratings.json").write_text(json.dumps(ratings))
    assert read_qrels(tmp_path / "ratings.json") == read_qrels(tmp_path / "case.json")


@pytest.mark.parametrize(
    ("queries", "where", "says"),
    [
        (["red"], "query 1", "is not a JSON object"),
        ([{"query": "red", "ratings": "a"}], "query 1", "has no ratings by document"),
        (
            [{"query": "red", "ratings": {"a": "good"}}],
            "query 1, document a",
            "the grade 'good' is not a finite number",
        ),
        ([{"ratings": {"a": 1}}], "query 1, document a", "the topic is missing"),
        ([], None, "holds no judgment"),
    ],
)
def test_faults_of_a_quepid_case_have_their_place(tmp_path, queries, where, says):
    path = tmp_path / "case.json"
    path.write_text(json.dumps({"queries": queries, "note": '"ratings"', "ratings": 1}))
    with pytest.raises(DataError, match=says) as caught:
        read_qrels(path)
    assert caught.value.where == (f"{path}, {where}" if where else str(path))


SNAPSHOT = "Snapshot Name,Snapshot Time,Case ID,Query Text,Doc ID,Doc Position,title\n"


def test_a_quepid_snapshot_is_a_run(tmp_path):
    path = tmp_path / "snapshot.csv"
    path.write_text(SNAPSHOT + 'May,2026-05-01,5,red dress,b,2,"Blue, not red"\nMay,2026-05-01,5,red dress,a,1,Red\n')
    assert read_run(path) == {"red dress": {"b": 0.5, "a": 1.0}}
    assert read_run(path, topics=TOPICS) == {"7": {"b": 0.5, "a": 1.0}}
    with pytest.raises(DataError, match="no topic has the query 'red dress'"):
        read_run(path, topics={"8": TOPICS["8"]})
    for row, says in (
        (",,,red,a,0\n", "the position '0' is not a number from 1"),
        (",,,red,,1\n", "document is missing"),
    ):
        path.write_text(SNAPSHOT + row)
        with pytest.raises(DataError, match=says) as caught:
            read_run(path)
        assert caught.value.where == f"{path}, line 2"
    path.write_text("query,docid\nred,a\n")
    with pytest.raises(DataError, match="no column 'snapshot name'"):
        read_run(path, "quepid")


def test_query_texts_are_mapped_to_topics(tmp_path):
    qrels = {"7": {"a": 3}, "8": {"b": 0}}
    write_judgment_list(tmp_path / "q", qrels, TOPICS)
    assert read_qrels(tmp_path / "q", topics=TOPICS) == qrels
    assert set(read_qrels(tmp_path / "q")) == {"red dress", "=SUM(1,2) jeans"}
    with pytest.raises(DataError, match="no topic has the query '=SUM"):
        read_qrels(tmp_path / "q", topics={"7": {"query": "red dress"}})
    twins = {**TOPICS, "9": {"query": "red dress "}}
    with pytest.raises(UsageError, match="topics 7 and 9 have the same query 'red dress'"):
        read_qrels(tmp_path / "q", topics=twins)
    with pytest.raises(DataError, match="topic 6 is judged but is not among the topics"):
        write_judgment_list(tmp_path / "q", {"6": {"a": 1}}, TOPICS)


def test_a_beir_folder_is_read(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t2\n")
    query = {"_id": "1", "text": "origin", "metadata": {"query": "covid origin", "narrative": "n", "2": [1]}}
    (tmp_path / "queries.jsonl").write_text(json.dumps(query) + "\n" + '{"_id": 2, "text": "b", "metadata": {}}\n')
    assert read_qrels(tmp_path) == {"1": {"a": 2}}
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n")
    assert read_qrels(tmp_path) == {"1": {"a": 1}}
    topics = read_topics(tmp_path)
    assert topics == {"1": {"query": "origin", "metadata.query": "covid origin", "narrative": "n"}, "2": {"query": "b"}}


def test_a_beir_folder_with_several_qrels_files_is_an_error(tmp_path):
    (tmp_path / "qrels").mkdir()
    for names in ((), ("dev", "train")):
        for name in names:
            (tmp_path / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t2\n")
        with pytest.raises(DataError, match="dev.tsv, train.tsv" if names else "none"):
            read_qrels(tmp_path)
    with pytest.raises(DataError, match=r"queries\.jsonl: there is no such file"):
        read_topics(tmp_path)


def test_classic_trec_topics(tmp_path):
    (tmp_path / "topics.301-302").write_text(
        "<top>\n\n<num> Number: 301 \n<title> International Organized Crime \n\n<desc> Description: \n"
        "Identify organizations that\nparticipate.\n\n<narr> Narrative: \nA relevant document: one.\n\n</top>\n\n"
        "<top>\n<num> 302 </num>\n<title>Poliomyelitis: a <i>history</i> </title>\n<con>polio, virus</con>\n</top>\n"
    )
    assert read_topics(tmp_path / "topics.301-302") == {
        "301": {
            "query": "International Organized Crime",
            "description": "Identify organizations that participate.",
            "narrative": "A relevant document: one.",
        },
        "302": {"query": "Poliomyelitis: a history", "con": "polio, virus"},
    }


def test_jsonl_accepts_numeric_ids_and_ignores_other_keys(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"topic": 1, "document": 22, "grade": "2", "rater": "ann"}\n')
    (tmp_path / "t.jsonl").write_text('{"id": 1, "query": "a", "voice": true, "none": null, "n": 3, "f": 0.5}\n')
    assert read_qrels(tmp_path / "q.jsonl") == {"1": {"22": 2}}
    assert read_topics(tmp_path / "t.jsonl") == {"1": {"query": "a", "voice": "true", "n": 3, "f": 0.5}}


def test_a_rating_becomes_the_number_of_thresholds_it_reaches(tmp_path):
    ratings = {"a": 0.0, "b": 0.249, "c": 0.25, "d": 0.6, "e": "0.750", "f": 2, "g": -1}
    grades = {"a": 0, "b": 0, "c": 1, "d": 2, "e": 3, "f": 3, "g": 0}
    (tmp_path / "q.txt").write_text("".join(f"1 0 {document} {rating}\n" for document, rating in ratings.items()))
    assert read_qrels(tmp_path / "q.txt", thresholds=(0.25, 0.5, 0.75)) == {"1": grades}
    (tmp_path / "coec.json").write_text(
        json.dumps({"judgmentRatings": [{"query": "red", "ratings": [{"docId": "a", "rating": "1.667"}]}]})
    )
    assert read_qrels(tmp_path / "coec.json", thresholds=[0.5, 1, 2]) == {"red": {"a": 2}}
    for thresholds in ((0.5, 0.25), (0.5, 0.5), (float("nan"),)):
        with pytest.raises(UsageError, match="do not rise"):
            read_qrels(tmp_path / "q.txt", thresholds=thresholds)
    (tmp_path / "bad.txt").write_text("1 0 a nan\n")
    with pytest.raises(DataError, match="not a finite number"):
        read_qrels(tmp_path / "bad.txt", thresholds=(0.5,))


@pytest.mark.parametrize("name", ["beir", "opensearch", "csv"])
def test_unknown_formats_and_those_without_runs_are_errors_that_say_so(tmp_path, name):
    (tmp_path / "r").write_text("")
    with pytest.raises(UsageError, match=f"the format '{name}' has no form for runs") as caught:
        read_run(tmp_path / "r", name)
    assert caught.value.fix == "Formats of runs: trec, jsonl, quepid."
    with pytest.raises(UsageError, match="there is no format 'excel'"):
        read_qrels(tmp_path / "q", "excel")
    with pytest.raises(UsageError, match="has no form for topics"):
        read_topics(tmp_path / "q", "quepid")


def test_an_undetectable_file_lists_the_formats_tried(tmp_path):
    (tmp_path / "a.docx").write_text("some words\n")
    with pytest.raises(DataError, match="has an unknown format of qrels") as caught:
        read_qrels(tmp_path / "a.docx")
    for tried in ("trec (topic iteration document grade)", "beir", "jsonl", "opensearch", "quepid"):
        assert tried in str(caught.value)


def test_the_content_decides_the_format_and_the_extension_that_of_a_malformed_first_line(tmp_path):
    for name, content in {"a.jsonl": "{", "a.txt": "1 0 d", "a.csv": "a;b", "a.tsv": "a"}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError) as caught:
            read_qrels(tmp_path / name)
        assert caught.value.where == f"{tmp_path / name}, line 1"
    for name, content, form in (
        ("q.json", "1 0 a 1\n", "trec"), ("q.txt", '{"topic": "1", "document": "a", "grade": 1}', "jsonl"),
    ):  # fmt: skip
        (tmp_path / name).write_text(content)
        assert format_of_file(tmp_path / name, "qrels").name == form


def test_quotes_of_a_tab_separated_table_belong_to_the_query(tmp_path):
    (tmp_path / "topics.tsv").write_text('id\tquery\nq1\t"foo\nq2\tbar"\nq3\t"red" tent\n', encoding="utf-8")
    found = {topic: fields["query"] for topic, fields in read_topics(tmp_path / "topics.tsv").items()}
    assert found == {"q1": '"foo', "q2": 'bar"', "q3": '"red" tent'}


def test_a_tab_separated_table_of_topics_has_a_header(tmp_path):
    path = tmp_path / "queries.tsv"
    path.write_text("\ufeffid\tquery\tmarket\nq1\ta tent\tus\n", encoding="utf-8")
    assert read_topics(path) == {"q1": {"query": "a tent", "market": "us"}}
    for head in ("id", "qid"):
        path.write_text(f"{head}\tquery\nq1\ta tent\n", encoding="utf-8")
        assert read_topics(path) == {"q1": {"query": "a tent"}}


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("120\n-3", [120, -3]),
        ("0.25\n1e-05", [0.25, 1e-05]),
        ("007\n7", ["007", "7"]),
        ("nan\n1_0", ["nan", "1_0"]),
        ("\n4", [None, 4]),
    ],
)
def test_a_column_of_csv_topics_is_numbers_or_text(tmp_path, column, values):
    rows = "".join(f"{n},q,{cell}\n" for n, cell in enumerate(column.split("\n")))
    (tmp_path / "t.csv").write_text("id,query,field\n" + rows)
    assert [fields.get("field") for fields in read_topics(tmp_path / "t.csv").values()] == values
