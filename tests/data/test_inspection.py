"""`searchlora data inspect`: what it says of a file, and that the commands it proposes run as they are."""

from __future__ import annotations

import gzip
import json
import shlex
from itertools import islice
from pathlib import Path

import pytest

from searchlora.data.inspection import Command, inspect_file
from searchlora.errors import DataError
from searchlora.task import load_tasks
from tests.data.test_own_judgments import corpus
from tests.docs.blocks import ROOT, blocks


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


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
        called = cli(*words, *(more if words[:2] == ["data", "build"] else ()))
        assert called.code == 0, (command, called.err)
    return len(complete)


def test_a_table_is_described_by_its_columns_and_faults(cli, tmp_path, monkeypatch):
    path = written(tmp_path / "t.csv", 'query,grade,"note"\ntent,3,\nboot,0,x\nstove,1\nmug,2,y,z\n')
    found, _ = inspect_file(path)
    assert found.rows == 2
    assert [(c.name, c.type, c.filled, len(c.distinct), c.example) for c in found.columns.values()] == [
        ("query", "text", 2, 2, "tent"),
        ("grade", "number", 2, 2, "3"),
        ("note", "text", 1, 1, "x"),
    ]
    assert [fault.where for fault in found.faults] == ["t.csv, line 4", "t.csv, line 5"]
    printed = cli("data", "inspect", path).out
    assert f"{path}: 2 rows" in printed and "fault: t.csv, line 5: has 4 fields where the header has 3" in printed
    monkeypatch.setattr("searchlora.data.inspection.MAX_ROWS", 1)
    assert "1 rows or more" in cli("data", "inspect", path).out


def test_types_of_values_are_told(tmp_path):
    rows = [{"n": 1, "f": 2.5, "b": True, "l": ["a", "b"], "t": "x", "o": {"k": 1}}, {"n": 2, "t": "y"}]
    found, _ = inspect_file(written(tmp_path / "rows.json", json.dumps(rows)))
    types = {name: column.type for name, column in found.columns.items()}
    assert types == {"n": "number", "f": "number", "b": "bool", "l": "list", "t": "text", "o": "dict"}


def test_what_is_no_table_is_an_error(tmp_path):
    for name, text in (("none.csv", None), ("empty.csv", ""), ("LICENSE", "Words.")):
        path = tmp_path / name if text is None else written(tmp_path / name, text)
        with pytest.raises(DataError, match=name):
            inspect_file(path)


def test_the_id_of_a_product_beside_its_title_is_mapped(cli, tmp_path, monkeypatch):
    """Products with one title, which people graded differently, are different documents."""
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"tent,{n},Dome tent,{n % 4}\nboot,b{n},Boot {n},{n % 2}\n" for n in range(8))
    path = written(tmp_path / "j.csv", "search_term,product_uid,product_title,relevance\n" + rows)
    (command,) = (each for each in commands(path) if " judgment " in each)
    assert "--map document=product_uid" in command and "--map title=product_title" in command
    assert run_all(cli, path, "--split-ratios", "1,0,0") == 3


@pytest.mark.parametrize(("high", "thresholds"), [(3, "0.5,1.5,2.5"), (1, "0.2,0.5,0.8")])
def test_ratings_with_decimals_get_thresholds(tmp_path, high, thresholds):
    rows = "".join(f"tent,dome {n},{n * high / 30:g}\n" for n in range(31))
    found = proposed(written(tmp_path / "j.csv", "query,text,rating\n" + rows))
    (command,) = (each for each in found if "build judgment" in str(each))
    assert command.complete and f"--thresholds {thresholds}" in str(command)


def test_a_text_in_another_encoding_is_read_and_its_commands_say_so(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "p.csv"
    path.write_bytes("query,rewrite\nCafé,coffee shop\ntelly,television\n".encode("cp1252"))
    assert "is not UTF-8 text" in cli("data", "inspect", path).out
    command = cli("data", "inspect", path, "--encoding", "cp1252").out.splitlines()[-1]
    called = cli(*shlex.split(command)[1:], "--split-ratios", "1,0,0")
    assert called.code == 0, called.err


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


@pytest.mark.slow
def test_documents_beside_the_judgments_are_found_and_mapped(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path)
    path = written(tmp_path / "j.csv", "query,document,grade\ntent,1,3\ntent,2,0\ntent,9,1\n")
    (command, *_) = commands(path)
    assert "--map corpus.id=sku --map corpus.text=short_description --allow-rejects" in command
    assert proposed(path)[0].notes == ["1 of the 3 judged documents are not in it"]
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
    assert "--grades red=NUMBER,blue=NUMBER" in str(command) and not command.complete


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


def test_the_guide_shows_what_is_printed(cli, tmp_path, monkeypatch):
    page = blocks(ROOT / "docs" / "how-to" / "use-your-own-files.md")
    monkeypatch.chdir(tmp_path)
    for block in page:
        if block.title in ("judgments.csv", "products.jsonl"):
            written(tmp_path / block.title, block.body)
    (shown,) = (block.body for block in page if block.body.startswith("judgments.csv: "))
    printed = cli("data", "inspect", "judgments.csv").out
    assert all(line in printed.splitlines() for line in shown.splitlines())
