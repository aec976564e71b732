"""`searchlora index`: build, show and verify, and the index as a corpus of other verbs."""

from __future__ import annotations

import json

import pytest

from searchlora.eval.trec import read_run


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def corpus(tmp_path):
    rows = [{"sku": "d1", "name": "Red couch", "text": "for two"}, {"sku": "d2", "name": "", "text": "green tent"}]
    (tmp_path / "products.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "products.jsonl"


MAP = ("--map", "id=sku", "--map", "title=name")


@pytest.mark.slow
def test_an_index_is_the_corpus_of_search_and_run(cli, refused, corpus, tmp_path):
    built = cli("index", "build", corpus, *MAP, "--out", "idx")
    assert built.code == 0, built
    assert built.out.splitlines() == [
        "Wrote idx",
        built.out.splitlines()[1],
        "BM25: 5 terms (k1=0.9, b=0.4, stopwords=english, shortest=2)",
    ]
    assert built.out.splitlines()[1].startswith("2 documents, ")
    found = json.loads(cli("search", "bm25", "tent", "--corpus", "idx", "--json").out)
    assert found == json.loads(cli("search", "bm25", "tent", "--corpus", corpus, *MAP, "--json").out)
    assert "Red couch" in cli("search", "bm25", "couch", "--corpus", "idx").out
    (tmp_path / "q.tsv").write_text("id\tquery\nq1\tred couch\n")
    assert cli("run", "bm25", "--queries", "q.tsv", "--corpus", "idx", "--out", "a.trec").code == 0
    assert list(read_run(tmp_path / "a.trec")["q1"]) == ["d1"]
    assert "the columns of an index" in refused("search", "bm25", "x", "--corpus", "idx", "--map", "id=sku")


def test_a_second_build_is_up_to_date_and_json_says_so(cli, corpus):
    first = json.loads(cli("index", "build", corpus, *MAP, "--out", "idx", "--json").out)
    assert (first["index"], first["built"], first["documents"], first["bm25"][0]["terms"]) == ("idx", True, 2, 5)
    assert first["bytes"] > 0 and first["corpus"]["columns"] == {"id": ["sku"], "title": ["name"]}
    assert not json.loads(cli("index", "build", corpus, *MAP, "--out", "idx", "--json").out)["built"]
    assert cli("index", "build", corpus, *MAP, "--out", "idx").out.startswith("Up to date: idx")


@pytest.mark.slow
def test_show_and_verify(cli, refused, corpus, tmp_path):
    cli("index", "build", corpus, *MAP, "--out", "idx")
    shown = cli("index", "show", "idx")
    assert shown.out.startswith(f"corpus: {corpus} (sha256 ") and "BM25: 5 terms" in shown.out
    assert json.loads(cli("index", "show", "idx", "--json").out)["files"].keys() >= {"documents.jsonl"}
    assert "files are as they were built" in cli("index", "verify", "idx").out
    with (tmp_path / "idx" / "documents.jsonl").open("ab") as out:
        out.write(b"\n")
    assert "documents.jsonl was changed" in refused("index", "verify", "idx")
    assert "is not an index" in refused("index", "show", tmp_path)


@pytest.mark.slow
def test_a_stale_index_names_the_command_that_builds_it(cli, refused, corpus, tmp_path, encoder_base):
    hybrid = ("--pipeline", "hybrid", "--set", f"encoder={encoder_base.path}")
    cli("index", "build", corpus, *MAP, "--out", "idx")
    told = refused("search", "hybrid", "x", "--corpus", "idx", *hybrid[2:])
    command = f"searchlora index build {corpus} --out idx --map id=sku --map title=name {' '.join(hybrid)}"
    assert "has no vectors" in told and told.endswith(command)
    built = cli(*command.split()[1:])
    assert built.code == 0, built.err
    assert "vectors of encoder: 2 × 16 (flat; fp32)" in built.out
    assert cli("search", "hybrid", "tent", "--corpus", "idx", *hybrid[2:]).code == 0
    (tmp_path / "products.jsonl").write_text('{"sku": "d3", "name": "", "text": "boots"}\n')
    told = refused("search", "hybrid", "x", "--corpus", "idx", *hybrid[2:])
    assert "was changed after the index was built" in told and command in told


@pytest.mark.slow
def test_an_experiment_takes_an_index_and_its_file_for_one_corpus(cli, corpus, tmp_path):
    (tmp_path / "topics.tsv").write_text("id\tquery\nq1\tred couch\nq2\tgreen tent\n")
    (tmp_path / "qrels.txt").write_text("q1 0 d1 1\nq2 0 d2 1\n")
    spec = {
        "name": "e",
        "topics": "topics.tsv",
        "qrels": "qrels.txt",
        "corpus": {"file": "products.jsonl", "map": {"id": "sku", "title": "name"}},
        "systems": {"bm25": {"pipeline": "bm25"}},
    }
    (tmp_path / "e.yaml").write_text(json.dumps(spec))
    assert cli("experiment", "e.yaml", "--out", "e").code == 0
    cli("index", "build", corpus, *MAP, "--out", "idx")
    (tmp_path / "e.yaml").write_text(json.dumps({**spec, "corpus": "idx"}))
    again = cli("experiment", "e.yaml", "--out", "e")  # refuses a corpus that changed
    assert again.code == 0, again.err
    fresh = cli("experiment", "e.yaml", "--out", "other")
    assert fresh.code == 0, fresh.err
    assert (tmp_path / "other/runs/bm25.trec").read_text() == (tmp_path / "e/runs/bm25.trec").read_text()
