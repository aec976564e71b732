"""The verb `tune`: thresholds of two adapters over one base, and the pipeline that it writes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.errors import DataError, PipelineError
from searchlora.experiments.tune import tune
from searchlora.files.yaml_text import parse_yaml
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.config import read_pipeline
from searchlora.pipelines.pipeline import Pipeline
from searchlora.records import Document
from searchlora.task import load_generation_task
from searchlora.testing import build_tiny_encoder
from tests.factories import random_adapter, write_jsonl
from tests.tasks.rag_answer.made import SUBJECTS, usual_rows

CORPUS = [Document(name, text, name) for name, text in SUBJECTS.items()]
SET = ("adapter=answerer", "judge=grader", "depth=3")


@pytest.fixture(scope="module")
def made(tiny_base, tmp_path_factory):
    """A store with an answering adapter and a judge of random weights, and a dataset of answers."""
    folder = tmp_path_factory.mktemp("tune")
    store, source = Store(folder / "store"), write_jsonl(folder / "reference.jsonl", usual_rows())
    options = {"missing": "0.6", "passages": "3", "gold": "1", "abstention": "No."}
    build("rag_answer", source, format="mtrag", out=folder / "data", options=options, split_ratios=(0.2, 0.7, 0.1))
    answers, judgment = load_generation_task("rag_answer"), load_generation_task("judgment")
    random_adapter(store, "answerer", answers, tiny_base, folder / "a", seed=1)
    grades = judgment.bound(judgment.settings_of({"grades": "2"}, ()))
    random_adapter(store, "grader", grades, tiny_base, folder / "j", seed=2)
    return store, folder / "data"


@pytest.mark.slow
def test_a_tuned_pipeline_abstains_and_cites_by_its_judge(made, tmp_path):
    store, data = made
    done = tune(read_pipeline("answers_judged", SET), data, tmp_path / "tuned.yaml", store=store)
    written = parse_yaml((tmp_path / "tuned.yaml").read_bytes())
    stage = written["stages"][3]["adapter"]
    assert [each["adapter"]["name"] for each in written["stages"][2:]] == ["grader@1", "answerer@1"]
    assert written["parameters"] == {"depth": 3}
    assert stage["tuned"] == done.tuned
    assert stage["tuned"]["origin"] == {
        "dataset": load_dataset(data).fingerprint,
        "split": "validation",
        "adapters": ["grader@1", "answerer@1"],
        "engines": ["local, bf16"],
    }
    assert set(stage["tuned"]["validation"]["mean F1"]) == {"answer", "judge"}

    pipeline = Pipeline.load(tmp_path / "tuned.yaml", corpus=CORPUS, store=store)
    judge, answerer = pipeline.stages[2:]
    assert judge.engine is answerer.engine
    below, least = stage["tuned"]["abstain"]["below"], stage["tuned"]["cite"]["from"]
    searches = [{"id": name, "query": f"what about {name}"} for name in SUBJECTS]
    for found in pipeline.execute(searches):
        (output,) = found["outputs"]["rag_answer"]
        if highest(found) < below:
            assert output.abstained and output.reason.startswith("judge: highest relevance")
        elif not hasattr(output, "raw") and not output.abstained:
            expected = [n for n, grade in enumerate(found["grades"], 1) if grade["relevance"] >= least or n == 1][:2]
            assert list(output.citations) == expected


def highest(search) -> float:
    return max(grade["relevance"] for grade in search["grades"])


@pytest.mark.slow
def test_the_judge_may_be_an_encoder(made, tmp_path):
    store, data = made
    encoder = build_tiny_encoder(tmp_path / "encoder")
    (tmp_path / "own.yaml").write_text(
        "name: own\nparameters: {rewriter: null}\nstages:\n  - adapter: {name: $rewriter}\n"
        f"  - bm25: {{k: 3}}\n  - passages: {{k: 3}}\n  - similarity: {{model: {encoder}}}\n"
        "  - adapter: {name: answerer, tuned: {abstain: judge, cite: judge}}\n"
    )
    done = tune(tmp_path / "own.yaml", data, tmp_path / "tuned.yaml", store=store)
    kinds = [kind for stage in parse_yaml((tmp_path / "tuned.yaml").read_bytes())["stages"] for kind in stage]
    assert kinds == ["bm25", "passages", "similarity", "adapter"]  # without the empty slot
    assert done.tuned["origin"]["adapters"][0].startswith("similarity(")
    pipeline = Pipeline.load(tmp_path / "tuned.yaml", corpus=CORPUS, store=store)
    *before, answerer = pipeline.stages
    deciding = replace(pipeline, stages=[*before, replace(answerer, continue_after_choice=False)])
    for found in deciding.execute([{"id": name, "query": f"what about {name}"} for name in SUBJECTS]):
        assert found["answer"].abstained == (highest(found) < done.tuned["abstain"]["below"])


@pytest.mark.slow
def test_what_is_quoted_stays_where_the_adapter_writes_nothing_valid(made, tmp_path):
    store, data = made
    encoder, file = build_tiny_encoder(tmp_path / "encoder"), tmp_path / "tuned.yaml"
    quoting = (f"quotes={data}", f"encoder={encoder}", "abstain=answer", "add=quotes")
    done = tune(read_pipeline("answers_judged", (*SET, *quoting)), data, file, store=store)
    assert done.tuned["add"] == "quotes"
    content = parse_yaml(file.read_bytes())
    content["stages"][-1]["adapter"]["tuned"]["abstain"]["from"] = 1.0  # or random weights would always abstain
    file.write_text(json.dumps(content))

    pipeline = Pipeline.load(file, corpus=CORPUS, store=store)
    found = pipeline.execute([{"id": name, "query": f"what about {name}"} for name in SUBJECTS])
    quoted = [each["answer"] for each in pipeline.stages[3](found)]
    assert not all(answer.abstained for answer in quoted)
    assert [each["answer"] for each in found] == quoted
    assert all(isinstance(output, InvalidOutput) for each in found for output in each["outputs"]["rag_answer"])


@pytest.mark.slow
def test_a_pipeline_that_is_not_tuned_is_refused_with_the_command(made):
    store, _ = made
    with pytest.raises(PipelineError, match=r"answerer@1, tuned: abstain: .*no thresholds.*searchlora tune"):
        Pipeline.load("answers_judged", corpus=CORPUS, overrides=SET, store=store)


def test_nothing_to_tune_is_refused(made, tmp_path):
    store, data = made
    with pytest.raises(PipelineError, match="answers: no adapter stage of the task 'rag_answer' has values to tune"):
        tune(read_pipeline("answers", ["adapter=answerer"]), data, tmp_path / "t.yaml", store=store)
    assert not (tmp_path / "t.yaml").exists()


@pytest.mark.slow
def test_validation_records_of_one_kind_are_refused_and_nothing_is_written(made, tmp_path):
    store, _ = made
    rows = [row for row in usual_rows() if row["answerability"] != ["UNANSWERABLE"]]
    source = write_jsonl(tmp_path / "r.jsonl", rows)
    options = {"missing": "0", "passages": "3", "gold": "1"}
    build("rag_answer", source, format="mtrag", out=tmp_path / "data", options=options, split_ratios=(0.2, 0.7, 0.1))
    with pytest.raises(DataError, match="validation records with scores are unanswerable"):
        tune(read_pipeline("answers_judged", SET), tmp_path / "data", tmp_path / "t.yaml", store=store)
    assert not (tmp_path / "t.yaml").exists()


@pytest.mark.slow
def test_the_corpus_of_a_pipeline_in_another_folder_is_still_found(made, tmp_path):
    store, data = made
    (tmp_path / "corpus.jsonl").write_text('{"id": "d1", "text": "tents"}\n')
    (tmp_path / "own.yaml").write_text(
        "name: own\ncorpus: corpus.jsonl\nstages:\n  - bm25: {k: 3}\n  - passages: {k: 3}\n"
        "  - adapter: {name: grader}\n  - adapter: {name: answerer, tuned: {abstain: judge}}\n"
    )
    (tmp_path / "out").mkdir()
    tune(tmp_path / "own.yaml", data, tmp_path / "out" / "tuned.yaml", store=store)
    assert Pipeline.load(tmp_path / "out" / "tuned.yaml", store=store).documents.keys() == {"d1"}
