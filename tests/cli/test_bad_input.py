"""Errors of the command line: one clear paragraph, a non-zero exit code, and no partial files."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from searchlora.adapters.store import Store
from tests.factories import first_word, random_adapter

ROW = {"id": "1", "group": "1", "query": "a tent", "rewrite": "tent"}


def lines(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def dataset(cli, tmp_path):
    rows = [{**ROW, "id": str(n), "group": str(n), "query": f"tent {n}"} for n in range(30)]
    source = lines(tmp_path / "good.jsonl", *rows)
    assert cli("data", "build", "rewriting", source, "--format", "native", "--out", tmp_path / "data").code == 0
    return tmp_path / "data"


@pytest.mark.slow
def test_unusable_sources_formats_and_tasks_are_named(refused, tmp_path):
    empty = lines(tmp_path / "empty.jsonl")
    build = ("data", "build", "rewriting")
    out = ("--out", tmp_path / "out")
    assert "empty" in refused(*build, empty, "--format", "native", *out)
    assert "canard" in refused(*build, empty, "--format", "kanard", *out)
    assert "no such file" in refused(*build, tmp_path / "none.jsonl", "--format", "native", *out)
    assert "rewriting" in refused("data", "build", "rewritting", empty, "--format", "native", *out)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_invalid_and_taken_names_are_errors(refused, dataset, tiny_base, tmp_path):
    store = Store(tmp_path / "store")
    random_adapter(store, "first", first_word(tmp_path / "task"), tiny_base, tmp_path / "made", seed=1)
    train = ("train", "rewriting", "--data", dataset, "--base", tiny_base.path, "--store", store.root)
    assert "../first" in refused(*train, "--name", "../first")
    assert "first-word" in refused(*train, "--name", "first")
    assert "smollm2-135m-instruct-q4_1" in refused(*train, "--name", "new", "--base", "none")
    assert [entry.name for entry in store.list()] == ["first"] and list(store.versions("first")) == [1]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["before", "behind"])
def test_debug_shows_the_traceback(tmp_path, place):
    verb = ["adapters", "show", "none"]
    arguments = ["--debug", *verb] if place == "before" else [*verb, "--debug"]
    command = [sys.executable, "-c", "from searchlora.cli import main; main()", *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "Traceback" in ended.stderr


def test_a_wrong_option_is_a_usage_error(cli):
    called = cli("train", "rewriting")
    assert called.code == 2
    assert "--data" in called.err


@pytest.mark.slow
def test_a_name_cannot_forge_a_line_of_output(cli, tmp_path):
    name = "a\nsearchlora: done\x1b[2K\r\u202e"
    for command in (
        ("judge-card", "--human", "none", "--judge", name, "--out", tmp_path / "out"),
        ("convert", tmp_path / name, tmp_path / "out.tsv"),
        ("adapters", "show", name),
    ):
        called = cli(*command)
        assert called.code in (1, 2)
        assert sum(line.startswith("searchlora: ") for line in called.err.splitlines()) == 1, called.err
        assert not set("\x1b\r\u202e") & set(called.err)


def test_errors_of_the_operating_system_are_put_into_words(refused, tmp_path, monkeypatch):
    reported = refused("clicks", "a" * 5000, "--out", tmp_path / "out.txt")
    assert "File name too long" in reported and len(reported) < 400
    corpus, loop = lines(tmp_path / "c.jsonl", {"id": "1", "query": "tent", "text": "tent"}), tmp_path / "loop"
    loop.symlink_to("loop")
    assert str(loop) in refused("index", "build", corpus, "--out", loop)
    assert str(loop) in refused("run", "bm25", "--queries", corpus, "--corpus", corpus, "--out", loop)

    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "store"))

    monkeypatch.setattr(Store, "list", full)
    assert "No space left on device" in refused("adapters", "list")


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "bm25", "red\udcff", "--corpus", "c.jsonl"),
        ("run", "bm25", "--queries", "q.jsonl", "--out", "r\udcff.trec"),
        ("\udcff",),
    ],
)
def test_an_argument_that_is_not_utf8_is_a_usage_error(cli, arguments):
    called = cli(*arguments)
    assert called.code == 2
    assert "udcff" in called.err and "is not UTF-8 text" in called.err


# Unwritable targets are refused before any input is read

COMMANDS = {
    "judge-card --out": ("judge-card", "--human", "none", "--judge", "a=none", "--out"),
    "experiment --out": ("experiment", "none.yaml", "--out"),
    "experiment --junit": ("experiment", "none.yaml", "--out", "out", "--junit"),
    "experiment --summary": ("experiment", "none.yaml", "--out", "out", "--summary"),
    "promote --out": ("promote", "a@1", "--to", "b", "--policy", "none", "--data", "none", "--out"),
    "promote --junit": ("promote", "a@1", "--to", "b", "--policy", "none", "--data", "none", "--junit"),
    "promote --summary": ("promote", "a@1", "--to", "b", "--policy", "none", "--data", "none", "--summary"),
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_an_unwritable_target_is_reported_before_any_work(refused, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    reported = refused(*arguments, "taken/below")
    assert "taken/below" in reported and "cannot be written" in reported
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
