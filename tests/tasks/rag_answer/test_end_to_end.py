"""The rag_answer task from a public format to a pipeline, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from searchlora.adapters.store import Store
from searchlora.data.dataset import load_dataset
from searchlora.outputs import CitedAnswer, from_json
from tests.tasks.rag_answer.made import SUBJECTS, usual_rows, write_mtrag

QUICK = (
    "optim.max_steps=3",
    "optim.batch_size=2",
    "optim.gradient_accumulation=1",
    "lora.r=4",
    "max_length=4000",
    "max_new_tokens=24",
    "validation.rows=2",
    "validation.generate_rows=1",
    "method=lora",
)


@pytest.mark.slow
def test_answers_end_to_end(cli, tmp_path: Path, tiny_base) -> None:
    source = write_mtrag(tmp_path / "reference.jsonl", usual_rows())
    data, store, out = tmp_path / "data", tmp_path / "store", tmp_path / "evaluation"
    options = [
        part for option in ("missing=0.5", "passages=3", "gold=1", "abstention=No.") for part in ("--option", option)
    ]
    shares = ("--split-ratios", "0.6,0.2,0.2")
    built = cli("data", "build", "rag_answer", source, "--format", "mtrag", "--out", data, *options, *shares)
    assert built.code == 0, built.err
    assert load_dataset(data).settings["abstention"] == "No."

    quick = [part for each in QUICK for part in ("--set", each)]
    trained = cli(
        *("train", "rag_answer", "--data", data, "--name", "shop-answers", "--base", tiny_base.path, "--store", store),
        *quick,
    )
    assert trained.code == 0, trained.err
    assert Store(store).get("shop-answers").manifest.settings["abstention"] == "No."

    evaluated = cli("evaluate", "shop-answers", "--data", data, "--store", store, "--out", out)
    assert evaluated.code == 0, evaluated.err
    results = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    figures = {(row["system"], row["measure"]): row for row in results["rows"]}
    for system in ("shop-answers@1", "base zero-shot", "always answer", "BM25 threshold", "first passage"):
        assert figures[system, "answerability F1"]["n"] == load_dataset(data).card.rows["test"]
        assert figures[system, "cites what was not given"]["value"] == 0
    for kept in (out / "outputs").glob("*.json"):
        for each in json.loads(kept.read_text(encoding="utf-8"))["outputs"]:
            output = from_json(each)
            assert not isinstance(output, CitedAnswer) or all(1 <= number <= 3 for number in output.citations)

    queries, corpus = tmp_path / "queries.jsonl", tmp_path / "corpus.jsonl"
    queries.write_text(json.dumps({"id": "q1", "query": "how heavy is a dome tent"}) + "\n", encoding="utf-8")
    corpus.write_text(
        "".join(json.dumps({"id": name, "title": name, "text": text}) + "\n" for name, text in SUBJECTS.items()),
        encoding="utf-8",
    )
    ran = cli(
        *("run", "answers", "--queries", queries, "--corpus", corpus, "--store", store, "--out", tmp_path / "run.trec"),
        *("--set", "adapter=shop-answers", "--set", "depth=3"),
    )
    assert ran.code == 0, ran.err
    assert "shop-answers@1" in (tmp_path / "run.trec").read_text(encoding="utf-8")
