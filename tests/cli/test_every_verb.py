"""A third-party task works with every command."""

from __future__ import annotations

import json
import sqlite3
import sys

import pytest

from searchlora.adapters.store import Store
from searchlora.data.dataset import load_dataset
from tests.contract.foreign import build_distribution, write_records

SHORT = ["optim.max_steps=6", "optim.batch_size=8", "lora.r=4", "optim.learning_rate=5e-3", "validation.every_steps=3"]


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(build_distribution(tmp_path / "site"))
    yield
    sys.modules.pop("colour", None)


def settings(*pairs: str) -> list[str]:
    return [part for pair in pairs for part in ("--set", pair)]


@pytest.mark.slow
@pytest.mark.usefixtures("foreign")
def test_every_verb_runs_and_refuses_a_prompt_changed_since_training(cli, refused, tmp_path, tiny_base):
    source, data, store = write_records(tmp_path / "rows.jsonl"), tmp_path / "data", tmp_path / "store"
    built = cli("data", "build", "colour", source, "--format", "native", "--out", data)
    assert built.code == 0, built.err
    assert cli("data", "formats", "colour").out.startswith("native")

    trained = cli(
        *("train", "colour", "--data", data, "--name", "shop-colour", "--base", tiny_base.path, "--store", store),
        *settings(*SHORT),
    )
    assert trained.code == 0, trained.err
    assert "Stored shop-colour@1" in trained.out
    assert "accuracy" in trained.out
    assert not (store / ".runs" / "shop-colour").exists()
    manifest = Store(store).get("shop-colour").manifest
    assert manifest.settings == load_dataset(data).settings == {"colours": ["green", "red"]}
    assert manifest.tuned == {"rows": load_dataset(data).card.rows["validation"], "before": {}}

    evaluated = cli("evaluate", "shop-colour", "--data", data, "--store", store, "--out", tmp_path / "evaluation")
    assert evaluated.code == 0, evaluated.err
    assert "always red" in evaluated.out
    assert "shop-colour@1" in (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    assert {row["system"] for row in results["rows"]} == {"always red", "base zero-shot", "shop-colour@1"}
    again = cli("evaluate", "shop-colour", "--data", data, "--store", store, "--out", tmp_path / "evaluation")
    assert "Outputs taken from" in again.out
    with sqlite3.connect(tmp_path / "evaluation" / "outputs" / "results.sqlite") as cache:
        stored = [
            (name, json.loads(value)["output"]) for name, value in cache.execute("SELECT label, value FROM results")
        ]
    for name in ("shop-colour@1", "base zero-shot"):
        first = next(output for label, output in stored if label == name and "invalid" not in output)
        assert (first["label"]["probabilities"] == [0.5, 0.5]) is (name == "shop-colour@1"), name

    for verb, *more in (
        ("list",),
        ("show", "shop-colour"),
        ("verify", "shop-colour"),
        ("alias", "shop-colour@1", "production", "--reason", "first"),
        ("show", "shop-colour@production"),
        ("export", "shop-colour", "--out", tmp_path / "merged"),
        ("push", "shop-colour", tmp_path / "shelf"),
        ("pull", tmp_path / "shelf", "--name", "pulled-colour"),
        ("diff", "shop-colour", "pulled-colour"),
        ("remove", "pulled-colour@1"),
    ):
        called = cli("adapters", verb, *more, "--store", store)
        assert called.code == 0, (verb, called.err)
    names = [entry.name for entry in Store(store).list()]
    assert names == ["shop-colour"]

    queries = tmp_path / "queries.tsv"
    queries.write_text("id\tquery\nq1\tgrass tent\nq2\tred boot\nq3\tnothing known\n", encoding="utf-8")
    corpus = tmp_path / "corpus.jsonl"
    documents = [{"id": "d1", "title": "Tent", "text": "green as grass"}, {"id": "d2", "text": "boots and a boot"}]
    corpus.write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    pipeline = tmp_path / "colour.yaml"
    pipeline.write_text(
        "name: colour-first\nparameters: {who: shop-colour@production}\n"
        "stages:\n  - adapter: {name: $who}\n  - bm25: {k: 10}\n",
        encoding="utf-8",
    )
    out = tmp_path / "run.trec"
    ran = cli("run", pipeline, "--queries", queries, "--corpus", corpus, "--out", out, "--store", store)
    assert ran.code == 0, ran.err
    lines = [line.split() for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(line[0], line[2]) for line in lines] == [("q1", "d1"), ("q2", "d2")]
    assert {line[5] for line in lines} == {"colour-first_shop-colour@1_bm25(k=10)"}

    prompt = tmp_path / "site" / "colour" / "prompt.jinja"
    prompt.write_text(prompt.read_text(encoding="utf-8").replace("Colour?", "Which colour?"), encoding="utf-8")
    sys.modules.pop("colour")
    for command in (
        ("run", pipeline, "--queries", queries, "--corpus", corpus, "--out", out),
        ("evaluate", "shop-colour", "--data", data, "--out", tmp_path / "again"),
        ("adapters", "verify", "shop-colour"),
    ):
        assert "renders otherwise than at training" in refused(*command, "--store", store)
