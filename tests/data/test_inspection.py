"""`searchlora data inspect`: what it says of a file, and that the commands it proposes run as they are."""

from __future__ import annotations

import gzip
import json
import shlex
import time
from itertools import islice
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
import pytest

from searchlora.data.inspection import inspect_file
from searchlora.data.inspection.commands import Command
from searchlora.data.inspection.profiling import Profile
from searchlora.errors import DataError
from searchlora.eval.formats import read_qrels
from searchlora.task import load_tasks
from tests.data.test_own_judgments import corpus
from tests.docs.blocks import ROOT, blocks


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def profile(path: Path) -> Profile:
    return inspect_file(path)[0]


def proposed(path: Path) -> list[Command]:
    return inspect_file(path, list(load_tasks().values()))[1]


def commands(path: Path) -> list[str]:
    return [str(each) for each in proposed(path) if each.complete]


def builds(path: Path) -> list[tuple[str, str]]:
    """Task and format of each proposed build."""
    words = [shlex.split(command) for command in commands(path)]
    return [(each[3], each[each.index("--format") + 1]) for each in words if each[1:3] == ["data", "build"]]


def run_all(cli, path: Path, *more: str) -> int:
    """Run every proposed command; their number."""
    complete = commands(path)
    for command in complete:
        words = shlex.split(command)[1:]
        limited = [*words, *more] if words[:2] == ["data", "build"] else words
        called = cli(*limited)
        assert called.code == 0, (command, called.err)
    return len(complete)


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
        ("README", "Some words.\n", "other", "no table, and no TREC file"),
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
    assert not any(" judgment " in command for command in commands(path))


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
    found, _ = inspect_file(path, list(load_tasks().values()))
    assert found.sample_of or found.kind == "other" or found.faults or found.rows == 100_000
    assert time.process_time() - started < 30


def test_a_file_beside_that_unpacks_to_very_much_does_not_hold_up_the_inspection(tmp_path, monkeypatch):
    monkeypatch.setattr("searchlora.data.inspection.profiling.MAX_BYTES", 200_000)
    judged = written(
        tmp_path / "j.csv", "query,document,grade\n" + "".join(f"tent {n},d{n},{n % 3}\n" for n in range(9))
    )
    beside = gzip.compress(b'{"id": "none"}\n' * 100_000)
    (tmp_path / "documents.jsonl.gz").write_bytes(beside)
    assert "--corpus" in str(proposed(judged))


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
    ("d.csv", "query,text,rating\ntent,dome,2.67\ntent,boot,0.33\ntent,peg,1\n", ["embedding", "judgment"]),
    (
        "m.csv",
        "query,text,rating\n" + "".join(f"tent,dome {n},{n / 30}\n" for n in range(30)),
        ["embedding", "judgment"],
    ),
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


def test_thresholds_round_ratings_with_decimals_or_spread_them_over_the_scale(tmp_path):
    head = "query,text,rating\n"
    for ratings, thresholds, says in (
        ((0, 1.5, 2.9), "0.5,1.5,2.5", "0 to 2.9, grades 0 to 3"),
        ((0.1, 0.5, 0.7), "0.2,0.4,0.6", "0.1 to 0.7, grades 0 to 3"),
        ((1.5, 1.5, "n/a"), "0.5,1.5", "1.5 to 1.5, grades 0 to 2"),
        ((0.25, 0.25, 0.25), "0.75,1.75,2.75", "0.25 to 0.25"),
    ):
        rows = "".join(f"tent,dome {n},{rating}\n" for n, rating in enumerate(ratings))
        (command,) = (c for c in proposed(written(tmp_path / "j.csv", head + rows)) if "judgment" in c.arguments)
        assert command.complete and f"--thresholds {thresholds}" in str(command)
        assert any(says in note for note in command.notes)


def test_a_case_of_quepid_is_told_and_converted(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = {"case_name": "Tents", "queries": [{"query_text": "tent", "ratings": {"1": 3.0, "2": 0.0}}]}
    path = written(tmp_path / "case.json", json.dumps(case))
    assert profile(path).description == "a case of Quepid: 2 judgments of 1 query, grades 0, 3"
    assert run_all(cli, path) == 1 and read_qrels(tmp_path / "case.jsonl") == {"tent": {"1": 3, "2": 0}}
    faulty = profile(written(tmp_path / "case.json", json.dumps({"queries": [1], "ratings": 1})))
    assert (faulty.faulty, faulty.faults[0].reason) == (1, "is not a JSON object") and not commands(
        tmp_path / "case.json"
    )


@pytest.mark.parametrize(
    ("encoding", "text"), [("cp1252", "Café – €5"), ("latin-1", "Caf\xe9 \x81"), ("utf-16", "Café")]
)
def test_a_text_in_another_encoding_is_read_and_its_commands_say_so(cli, tmp_path, monkeypatch, encoding, text):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "p.csv"
    path.write_bytes(f"query,rewrite\n{text},coffee shop\ntelly,television\n".encode(encoding))
    (command,) = proposed(path)
    assert command.arguments[-4:-2] == ("--encoding", encoding) and encoding in command.notes[-1]
    assert profile(path).to_json()["encoding"] == encoding
    assert f"p.csv: CSV: 2 rows, {encoding}" in cli("data", "inspect", path).out
    assert run_all(cli, path, "--split-ratios", "1,0,0") == 1


@pytest.mark.slow
def test_documents_beside_the_judgments_are_found_and_mapped(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path)
    path = written(tmp_path / "j.csv", "query,document,grade\ntent,1,3\ntent,2,0\ntent,9,1\n")
    (command, *_) = commands(path)
    assert "--map corpus.id=sku --map corpus.text=short_description --allow-rejects" in command
    assert proposed(path)[0].notes == (
        "1 of the 3 judged documents are not in products.jsonl.gz; their rows are rejected",
    )
    assert run_all(cli, path, "--split-ratios", "1,0,0") == 2


def test_columns_that_are_mostly_empty_are_not_proposed(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    products = [{"id": f"p{n}", "name": f"Tent {n}", "overview": f"for {n}"} for n in range(9)]
    products[0] |= {"packaging_content": "pegs", "description": "A tent."}
    found = written(tmp_path / "products.jsonl", "\n".join(map(json.dumps, products)))
    assert commands(found) == [f"searchlora search bm25 'Tent 0' --corpus {found} --map title=name --map text=overview"]
    judged = "query,document,name,description,grade\n" + "".join(f"tent,p{n},Tent {n},,{n % 4}\n" for n in range(9))
    path = written(tmp_path / "judged.csv", judged.replace("Tent 3,", "Tent 3,A tent."))
    built = [command for command in commands(path) if " build " in command]
    assert len(built) == 2
    assert all("passage" not in command and "--map title=name" in command for command in built)
    assert run_all(cli, path, "--split-ratios", "1,0,0") >= 2


def test_judgments_without_documents_say_what_is_missing(tmp_path):
    path = written(tmp_path / "j.csv", "query,document,grade\ntent,1,3\ntent,2,0\n")
    first, *_ = proposed(path)
    assert "--corpus FILE" in str(first) and "which is not beside this one" in first.notes[0]
    assert not commands(path)


def test_a_single_grade_is_noted(tmp_path):
    path = written(tmp_path / "j.csv", "query,passage,grade\ntent,dome,3\nboot,warm,3\n")
    notes = [note for command in proposed(path) for note in command.notes]
    assert notes and all(note.startswith("all rows have one grade") for note in notes)


def test_unknown_grades_are_left_to_the_user(tmp_path):
    path = written(tmp_path / "j.csv", "query,passage,grade\ntent,dome,blue\ntent,boot,red\n")
    (command,) = (c for c in proposed(path) if "judgment" in c.arguments)
    assert "--grades blue=NUMBER,red=NUMBER" in str(command) and not command.complete


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


#: The longest files, and the lines that the suite reads of them.
LONG = {"msrd/movies.jsonl.gz", "trecdl19/pool_passages.jsonl.gz"}
LINES = 4000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("banking77/train.csv", ["embedding", "intent"]),
        ("chorus/individual_ratings.csv", ["embedding", "judgment"]),
        ("chorus/rated.csv", ["embedding", "judgment"]),
        ("perlfaq/perlfaq.jsonl", ["embedding", "rag_answer"]),
        ("msrd/movies.jsonl.gz", []),
        ("trecdl19/pool_passages.jsonl.gz", []),
        ("trecdl19/qrels.dl19-passage.txt", []),
        ("trecdl19/topics.dl19-passage.txt", []),
        ("trecdl19/runs/rep_llama.trec.gz", []),
    ],
)
def test_commands_for_published_files_run_as_they_are(cli, tmp_path, monkeypatch, real_data, name, tasks):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / Path(name).name
    if name in LONG:
        with gzip.open(real_data / name, "rb") as lines, gzip.open(path, "wb", compresslevel=1) as out:
            out.writelines(islice(lines, LINES))
    else:
        path = real_data / name
    assert sorted({task for task, _ in builds(path)}) == tasks
    assert run_all(cli, path, "--limit", "300", "--allow-rejects", "--on-leak", "drop")


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
