"""`searchlora data inspect`: what it says of a file, and that the commands it proposes run as they are."""

from __future__ import annotations

import gzip
import json
import shlex
import time
from functools import partial
from itertools import islice
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
import pytest

from searchlora.data.inspection import profile, propose
from searchlora.errors import DataError
from searchlora.task import load_tasks
from tests.data.layouts import layout
from tests.data.test_judged_formats import esci_folder, esci_pairs, trec_pool
from tests.data.test_own_judgments import corpus
from tests.docs.blocks import ROOT, blocks


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def commands(path: Path) -> list[str]:
    return [str(each) for each in propose(profile(path), list(load_tasks().values())) if each.complete]


def builds(path: Path) -> list[tuple[str, str]]:
    """Task and format of each proposed build."""
    words = [shlex.split(command) for command in commands(path)]
    return [(each[3], each[each.index("--format") + 1]) for each in words if each[1:3] == ["data", "build"]]


def run_all(cli, path: Path, *more: str) -> int:
    """Run every proposed command; their number."""
    proposed = commands(path)
    for command in proposed:
        words = shlex.split(command)[1:]
        limited = [*words, *more] if words[:2] == ["data", "build"] else words
        called = cli(*limited)
        assert called.code == 0, (command, called.err)
    return len(proposed)


def test_a_table_is_described_by_its_columns_and_faults(tmp_path):
    path = written(tmp_path / "t.csv", 'query,grade,"note"\ntent,3,\nboot,0,x\n"stove,1\nmug,2,y,z\n')
    found = profile(path)
    assert (found.kind, found.rows, found.faulty) == ("table", 2, 2)
    assert [(c.name, c.type, c.filled, c.distinct, c.example) for c in found.columns.values()] == [
        ("query", "text", 2, 2, "tent"),
        ("grade", "number", 2, 2, "3"),
        ("note", "text", 1, 1, "x"),
    ]
    assert [fault.where for fault in found.faults] == ["t.csv, line 4", "t.csv, line 5"]
    assert "4 fields where the header has 3" in found.faults[1].reason


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "jsonl.gz"])
def test_types_of_values_are_told(tmp_path, kind):
    rows = [{"n": 1, "f": 2.5, "b": True, "l": ["a", "b"], "t": "x", "o": {"k": 1}}, {"n": 2, "t": "y"}]
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        text = json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows))
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    types = {name: column.type for name, column in profile(path).columns.items()}
    assert types == {"n": "number", "f": "number", "b": "yes or no", "l": "list", "t": "text", "o": "object"}


def test_many_distinct_values_and_columns_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("searchlora.data.inspection.profiling.MAX_DISTINCT", 10)
    rows = "".join(json.dumps({"a": n, **{f"c{n}": 1}}) + "\n" for n in range(600))
    found = profile(written(tmp_path / "wide.jsonl", rows))
    assert len(found.columns) == 500 and found.columns["a"].distinct == 10 and not found.columns["a"].values


@pytest.mark.parametrize(
    ("name", "text", "kind", "description"),
    [
        ("q.txt", "q1 0 d1 3\nq1 0 d2 0\n", "qrels", "TREC qrels: 2 judgments of 1 topic, grades 0, 3"),
        ("r.trec", "q1 Q0 d1 1 9.5 a\n", "run", "TREC run: 1 document for 1 topic"),
        ("t.tsv", "q1\tgreen tent\n", "topics", "TREC topics: 1 query"),
        ("README", "Some words.\n", "other", "text of 1 line, not rows"),
        ("x.bin", "a\0b", "other", "not text, and no kind of file that is read by rows"),
    ],
)
def test_other_files_are_told_by_their_content(tmp_path, name, text, kind, description):
    found = profile(written(tmp_path / name, text))
    assert (found.kind, found.description) == (kind, description)


def test_a_fault_in_a_trec_file_is_reported_with_its_place(tmp_path):
    found = profile(written(tmp_path / "q.txt", "q1 0 d1 3\nq1 0 d1 0\n"))
    assert found.faulty == 1 and found.faults[0].where.endswith("q.txt, line 2")
    assert commands(tmp_path / "q.txt") == []


def test_the_sample_of_a_large_file_is_stated(cli, tmp_path, monkeypatch):
    path = written(tmp_path / "t.csv", "query,rewrite\n" + "sofa,couch\n" * 50)
    assert profile(path).sample_of == "" and "sample:" not in cli("data", "inspect", path).out
    monkeypatch.setattr("searchlora.data.inspection.profiling.MAX_ROWS", 20)
    found = profile(path)
    assert (found.rows, found.faulty, found.sample_of) == (20, 0, "the first 20 rows")
    told = cli("data", "inspect", path)
    assert "sample: the first 20 rows; columns, faults and commands are of this part" in told.out
    assert json.loads(cli("data", "inspect", path, "--json").out)["sample"] == "the first 20 rows"
    monkeypatch.setattr("searchlora.data.inspection.profiling.MAX_CELLS", 10)
    assert profile(path).sample_of == "the first 5 rows"


def test_a_grade_of_very_many_digits_is_no_number(tmp_path):
    path = written(tmp_path / "t.csv", f"query,passage,grade\ntent,a tent,{'9' * 5000}\nboot,a boot,1\n")
    assert not any(each.complete for each in propose(profile(path), [load_tasks()["judgment"]]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "qrels.txt", "run.trec", "topics.tsv"]
)
def test_inspection_ends_when_its_time_or_its_bytes_are_used_up(cli, tmp_path, monkeypatch, name):
    lines = {"a.json": "{}", "a.jsonl": "{}", "qrels.txt": "q1 0 d% 1", "run.trec": "q1 Q0 d% 1 1.5 tag"}
    line = lines.get(name, "q%\ta green tent")
    path = written(tmp_path / f"{name}.gz", "")
    path.write_bytes(gzip.compress("".join(line.replace("%", str(n)) + "\n" for n in range(50_000)).encode()))
    monkeypatch.setattr("searchlora.data.inspection.profiling.MAX_BYTES", 100_000)
    assert profile(path).sample_of == "the first 100,000 bytes"
    assert cli("data", "inspect", path).code == 0
    monkeypatch.setattr("searchlora.data.inspection.profiling.MAX_SECONDS", -1.0)
    called = cli("data", "inspect", path)
    assert called.code in (0, 1) and "-1 seconds" in called.out + called.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["jsonl.gz", "one line.jsonl.gz", "csv.gz", "txt.gz", "zeros.parquet", "dictionary.parquet"]
)
def test_a_small_file_that_unpacks_to_very_much_is_inspected_in_bounded_time(tmp_path, kind):
    path = tmp_path / f"bomb.{kind}"
    if kind.endswith("parquet"):
        zeros = numpy.zeros(20_000_000, numpy.int8)
        texts = pyarrow.DictionaryArray.from_arrays(zeros[:100_000].astype(numpy.int32), ["x" * 5000])
        column = pyarrow.array(zeros) if kind.startswith("zeros") else texts
        pyarrow.parquet.write_table(pyarrow.table({"query": column}), path, compression="zstd")
    else:
        line = b'{"query": "a", "rewrite": "b"}\n' if kind == "jsonl.gz" else b"a" * 30
        with gzip.open(path, "wb", 1) as file:
            for _ in range(300):
                file.write(line * 32_768)
    assert path.stat().st_size < 5_000_000
    started = time.process_time()
    found = profile(path)
    propose(found, list(load_tasks().values()))
    assert found.sample_of or found.faults or found.rows == 100_000
    assert time.process_time() - started < 30


def test_a_file_beside_that_unpacks_to_very_much_does_not_hold_up_the_inspection(tmp_path, monkeypatch):
    monkeypatch.setattr("searchlora.data.inspection.profiling.MAX_BYTES", 200_000)
    judged = written(
        tmp_path / "j.csv", "query,document,grade\n" + "".join(f"tent {n},d{n},{n % 3}\n" for n in range(9))
    )
    beside = gzip.compress(b'{"id": "none"}\n' * 100_000)
    (tmp_path / "documents.jsonl.gz").write_bytes(beside)
    assert "--corpus" in str(propose(profile(judged), list(load_tasks().values())))


def test_a_missing_or_empty_file_is_an_error(tmp_path):
    with pytest.raises(DataError):
        profile(tmp_path / "none.csv")
    with pytest.raises(DataError):
        profile(written(tmp_path / "empty.csv", ""))


#: Name, text, and the builds that are proposed.
OWN_FILES = [
    ("j.csv", "Search Term,sku,body,stars\ntent,1,a dome,5\ntent,2,a boot,1\nmug,3,tin,3\n", ["embedding", "judgment"]),
    ("j.tsv", "q\tdoc_id\tname\trelevance\ntent\t1\tdome\tyes\ntent\t2\tboot\tno\n", ["embedding", "judgment"]),
    ("r.csv", "query,text,rater_1,rater_2,final_rating\ntent,dome,3,3,3\ntent,boot,0,1,0\n", ["embedding", "judgment"]),
    ("l.csv", "utterance,intent\nwhere is my parcel,track\nsend it back,return\n", ["embedding", "intent"]),
    ("p.csv", "keyword,rewritten_query\ntelly,television\nsofa,couch\n", ["rewriting"]),
    (
        "faq.csv",
        "Frage,Antwort\n" + "".join(f"Wo ist Nummer {n}?,Sie ist in Raum {n}.\n" for n in range(12)),
        ["embedding", "rag_answer"],
    ),
    ("t.csv", "query,positive,negative\ntent,dome,boot\nmug,tin cup,peg\n", ["embedding"]),
    ("e.csv", "query,passage,grade\ntent,dome,E\ntent,boot,I\ntent,peg,C\n", ["embedding", "judgment"]),
    (
        "log.csv",
        "session_id,timestamp,query,num_clicks\n"
        + "".join(f"s{n},{1e9 + n},telly,0\ns{n},{1e9 + n + 9},television,1\n" for n in range(4)),
        ["rewriting"],
    ),
]


@pytest.mark.parametrize(("name", "text", "tasks"), OWN_FILES, ids=[name for name, _, _ in OWN_FILES])
def test_commands_for_own_files_run_as_they_are(cli, tmp_path, monkeypatch, name, text, tasks):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / name, text)
    assert sorted({task for task, _ in builds(path)}) == tasks
    assert run_all(cli, path, "--split-ratios", "1,0,0") >= len(tasks)


@pytest.mark.slow
def test_documents_beside_the_judgments_are_found_and_mapped(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path)
    path = written(tmp_path / "j.csv", "query,document,grade\ntent,1,3\ntent,2,0\ntent,9,1\n")
    (command, *_) = commands(path)
    assert "--map corpus.id=sku --map corpus.text=short_description --allow-rejects" in command
    (proposed, *_) = propose(profile(path), list(load_tasks().values()))
    assert proposed.notes == ("1 of the 3 judged documents are not in products.jsonl.gz; their rows are rejected",)
    assert run_all(cli, path, "--split-ratios", "1,0,0") == 2


def test_columns_that_are_mostly_empty_are_not_proposed(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    products = [{"id": f"p{n}", "name": f"Tent {n}", "overview": f"for {n}"} for n in range(9)]
    products[0] |= {"packaging_content": "pegs", "description": "A tent."}
    found = written(tmp_path / "products.jsonl", "\n".join(map(json.dumps, products)))
    assert commands(found) == [f"searchlora search bm25 'Tent 0' --corpus {found} --map title=name --map text=overview"]
    judged = "query,document,name,description,grade\n" + "".join(f"tent,p{n},Tent {n},,{n % 4}\n" for n in range(9))
    path = written(tmp_path / "judged.csv", judged.replace("Tent 3,", "Tent 3,A tent."))
    proposed = [command for command in commands(path) if " build " in command]
    assert len(proposed) == 2
    assert all("passage" not in command and "--map title=name" in command for command in proposed)
    assert run_all(cli, path, "--split-ratios", "1,0,0") >= 2


def test_judgments_without_documents_say_what_is_missing(tmp_path):
    path = written(tmp_path / "j.csv", "query,document,grade\ntent,1,3\ntent,2,0\n")
    proposed = propose(profile(path), list(load_tasks().values()))
    assert proposed and not any(command.complete for command in proposed)
    assert "--corpus FILE" in str(proposed[0]) and "which is not beside this one" in proposed[0].notes[0]


def test_a_single_grade_is_noted(tmp_path):
    path = written(tmp_path / "j.csv", "query,passage,grade\ntent,dome,3\nboot,warm,3\n")
    notes = [note for command in propose(profile(path), list(load_tasks().values())) for note in command.notes]
    assert notes and all(note.startswith("all rows have one grade") for note in notes)


def test_unknown_grades_are_left_to_the_user(tmp_path):
    path = written(tmp_path / "j.csv", "query,passage,grade\ntent,dome,blue\ntent,boot,red\n")
    (command,) = (c for c in propose(profile(path), list(load_tasks().values())) if "judgment" in c.arguments)
    assert "--grades blue=NUMBER,red=NUMBER" in str(command) and not command.complete


@pytest.mark.parametrize(
    ("make", "file", "formats"),
    [
        (partial(layout, "trecdl"), "bm25.json", {("judgment", "trecdl")}),
        (partial(layout, "beir"), "", {("judgment", "beir"), ("embedding", "beir")}),
        (partial(layout, "cranfield"), "cran.qry", {("judgment", "cranfield"), ("embedding", "cranfield")}),
        (esci_folder, "", {("judgment", "esci")}),
        (trec_pool, "qrels.txt", {("judgment", "trec"), ("embedding", "trec")}),
        (trec_pool, "", {("judgment", "trec"), ("embedding", "trec")}),
    ],
)
def test_published_layouts_are_recognised_by_one_of_their_files(tmp_path, make, file, formats):
    make(tmp_path)
    assert set(builds(tmp_path / file)) == formats


def test_one_file_of_esci_is_recognised(tmp_path):
    assert ("judgment", "esci") in builds(esci_pairs(tmp_path, "csv"))


@pytest.mark.slow
def test_the_synthetic_shop_is_recognised(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("data", "shop", "--out", "shop", "--products", "600", "--queries", "100").code == 0
    assert {task for task, _ in builds(tmp_path / "shop")} == {
        "embedding", "intent", "judgment", "rag_answer", "rewriting",
    }  # fmt: skip


@pytest.mark.slow
def test_the_command_line_prints_profile_and_commands(cli, tmp_path):
    path = written(tmp_path / "j.csv", "query,passage,grade\ntent,dome,3\ntent,boot,0\ntent,peg\n")
    printed = cli("data", "inspect", path).out
    assert f"{path}: CSV: 2 rows" in printed
    assert "fault: j.csv, line 4: has 2 fields where the header has 3" in printed
    assert f"\nsearchlora data build judgment {path} --format judgments --out data/judgment\n" in printed
    described = json.loads(cli("data", "inspect", path, "--json").out)
    assert described["rows"] == 2 and described["columns"][2]["example"] == "3"
    assert [each["complete"] for each in described["commands"]] == [True, True]
    assert "No command builds from it." in cli("data", "inspect", written(tmp_path / "LICENSE", "Words.\n")).out


#: Files of the real data that hold nothing to build from: texts, a list, an index of tags, topics without rewrites, and
#: judgments of which one contradicts another.
NOTHING = {"LICENSE", "LICENSE.md", "README.md", "categories.json", "tags.json.gz", "train_topics_v1.0.json",
           "train_topics_mod.qrel"}  # fmt: skip
REAL_FILES = [
    "arxiv_tags/arxiv.json", "arxiv_tags/tags.json.gz", "banking77/test.csv", "banking77/categories.json",
    "banking77/train.csv", "canard/dev.json", "cast/2019/data/2019qrels.txt",
    "cast/2019/data/evaluation/evaluation_topics_annotated_resolved_v1.0.tsv",
    "cast/2019/data/evaluation/evaluation_topics_v1.0.json", "cast/2019/data/training/train_topics_mod.qrel",
    "cast/2019/data/training/train_topics_v1.0.json", "cast/2020/2020_manual_evaluation_topics_v1.0.json",
    "cast/2020/2020qrels.txt", "cast/2020/automatic_evaluation_topics_annotated_v1.1.json",
    "chorus/individual_ratings.csv", "chorus/products.jsonl.gz", "chorus/rated.csv", "cranfield/cran.all.1400",
    "cranfield/cran.qry", "cranfield/cranqrel", "esci_pairs/pairs.csv.gz", "llmjudge/human_test_qrels.txt",
    "llmjudge/judges/h2oloo-zeroshot2.txt", "msrd/judgments.tsv.gz", "msrd/movies.jsonl.gz", "mtrag/reference.jsonl",
    "perlfaq/perlfaq.jsonl", "squad/squaddev_v1.1.json.gz", "trecdl19/bm25_top100_dl19.json",
    "trecdl19/pool_passages.jsonl.gz", "trecdl19/qrels.dl19-passage.txt", "trecdl19/runs/rep_llama.trec.gz",
    "trecdl19/topics.dl19-passage.txt", "trecdl20/passages.jsonl.gz", "trecdl20/qrels.txt",
    "trecdl20/runs/bm25.trec.gz", "trecdl20/topics.tsv",
    "trecdl20_repllama/passages.jsonl.gz", "trecdl20_repllama/rep_llama.trec.gz",
    "trecdl21/passages.jsonl.gz", "trecdl21/qrels.txt", "trecdl21/topics.tsv", "trecdl22/passages.jsonl.gz",
    "trecdl22/topics.tsv",
]  # fmt: skip


#: The longest files, and the lines that the suite reads of them.
LONG = {
    "msrd/judgments.tsv.gz", "msrd/movies.jsonl.gz", "trecdl19/pool_passages.jsonl.gz", "trecdl20/passages.jsonl.gz"
}  # fmt: skip
LINES = 4000


@pytest.fixture(scope="module")
def published(real_data, tmp_path_factory):
    """The real data, its longest files cut."""
    folder = tmp_path_factory.mktemp("published")
    for path in real_data.rglob("*"):
        name = path.relative_to(real_data)
        if path.is_dir():
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.as_posix() not in LONG:
            (folder / name).symlink_to(path)
            continue
        with (
            gzip.open(path, "rt", encoding="utf-8") as lines,
            gzip.open(folder / name, "wt", encoding="utf-8", compresslevel=1) as out,
        ):
            out.writelines(islice(lines, LINES))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL_FILES)
def test_commands_for_published_files_run_as_they_are(cli, tmp_path, monkeypatch, published, name):
    monkeypatch.chdir(tmp_path)
    proposed = run_all(cli, published / name, "--limit", "300", "--allow-rejects", "--on-leak", "drop")
    assert proposed or Path(name).name in NOTHING


def test_every_published_file_is_tried(real_data):
    files = {path.relative_to(real_data).as_posix() for path in real_data.rglob("*") if path.is_file()}
    untried = {name for name in files - set(REAL_FILES) if Path(name).name not in NOTHING}
    # Of many files of one kind, one is tried.
    assert not {name for name in untried if "/runs/" not in name and "/judges/" not in name and name.count("/")} - {
        "banking77/README.md"
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("deep.json", "[" * 100_000),
        ("deep.jsonl", "[" * 100_000 + "\n" + '{"query": "a", "passage": "b", "grade": 1}\n'),
        ("wide.csv", ",".join(f"c{n}" for n in range(50_000)) + "\n"),
        ("open.csv", 'query,passage,grade\n"a,b,1\n' * 50),
        ("nul.csv", "query,passage,grade\na\0,b,1\n"),
        ("numbers.json", '{"query": ' + "9" * 5000 + "}"),
        ("twice.csv", "query,query\n1,2\n"),
        ("scalar.json", "7"),
        ("latin.csv", "query,passage,grade\nGr\udcfc\udcdfe,b,1\n"),
        ("bomb.jsonl.gz", None),
        ("broken.parquet", "PAR1 and no more"),
        ("broken.csv.gz", "not gzip"),
    ],
)
def test_hostile_files_are_described_without_a_traceback(cli, tmp_path, name, body):
    path = tmp_path / name
    if body is None:
        path.write_bytes(gzip.compress(b'{"query": "' + b"a" * 50_000_000 + b'"}\n'))
    else:
        path.write_bytes(body.encode("utf-8", "surrogateescape"))
    called = cli("data", "inspect", path)
    assert called.code in (0, 1) and "Traceback" not in called.err
    assert "fault: " in called.out or "rows" in called.out or called.code == 1
    assert len(called.out) < 20_000


def test_the_guide_shows_what_is_printed(cli, tmp_path, monkeypatch):
    page = blocks(ROOT / "docs" / "how-to" / "use-your-own-files.md")
    monkeypatch.chdir(tmp_path)
    for block in page:
        if block.title in ("judgments.csv", "products.jsonl"):
            written(tmp_path / block.title, block.body)
    (shown,) = (block.body for block in page if block.body.startswith("judgments.csv: "))
    printed = cli("data", "inspect", "judgments.csv").out
    assert all(line in printed.splitlines() for line in shown.splitlines())
