"""`tune --risk`, and pipelines whose stage decides alone: fitted with a real engine, executed, escalated, refused."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.errors import DataError, PipelineError
from searchlora.experiments.tune_risk import tune_risk
from searchlora.files.yaml_text import parse_yaml
from searchlora.outputs import Label
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.results import result
from searchlora.pipelines.stages.deciding import confidence
from searchlora.task import load_generation_task
from tests.factories import random_adapter

LABELS = ("returns", "delivery", "sizes")
WORDS = ["tent", "boot", "lamp", "pan", "rope", "tarp", "mug", "stove", "axe", "map", "kettle", "torch"]
QUERIES = [f"{one} {other} {number}" for number in range(3) for one in WORDS for other in WORDS if one != other]


@dataclass
class Made:
    """A store with two intent adapters of random weights, and a dataset on whose surest answers one is right."""

    store: Store
    data: Path
    answers: dict[str, Label]

    @property
    def surest(self) -> list[str]:
        return sorted(self.answers, key=lambda query: -(confidence(self.answers[query]) or 0))


def searches(queries):
    return [{"id": str(number), "query": query} for number, query in enumerate(queries)]


def pipeline_file(folder: Path, *stages: Any) -> Path:
    path = folder / "intents.yaml"
    path.write_text(json.dumps({"name": "intents", "stages": [{"adapter": stage} for stage in stages]}))
    return path


@pytest.fixture(scope="module")
def made(tiny_base, tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("risk")
    store, task = Store(folder / "store"), load_generation_task("intent")
    task = task.bound({"kind": "label", "labels": sorted(LABELS), "out_of_scope": None})
    for number, name in enumerate(("intents", "larger")):
        random_adapter(store, name, task, tiny_base, folder / name, seed=5 + number)
    found = Pipeline.load(pipeline_file(folder, {"name": "intents"}), corpus=(), store=store).execute(searches(QUERIES))
    answers = {str(search["query"]): search["outputs"]["intent"][0] for search in found}
    made = Made(store, folder / "data", answers)
    half = len(QUERIES) // 2
    rows = [
        {"id": f"q{number}", "group": query, "query": query, "label": label}
        for number, query in enumerate(made.surest)
        for label in [answers[query].value if number < half else other_than(answers[query].value)]
    ]
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "labels.txt").write_text("\n".join(LABELS))
    options = {"labels": str(folder / "labels.txt")}
    build("intent", source, format="native", out=made.data, options=options, split_ratios=(0, 0, 1))
    return made


def other_than(label: str) -> str:
    return next(each for each in LABELS if each != label)


@pytest.fixture(scope="module")
def tuned(made, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    out = folder / "tuned.yaml"
    done = tune_risk(pipeline_file(folder, {"name": "intents"}), made.data, out, 0.05, split="test", store=made.store)
    assert (done.adapter, done.invalid) == ("intents@1", 0)
    assert done.rule.rows == len(QUERIES)
    assert done.rule.errors <= 0.05 * done.rule.decided
    return out


@pytest.mark.slow
def test_a_stage_decides_where_its_answers_were_right(made, tuned):
    (stage,) = parse_yaml(tuned.read_bytes())["stages"]
    rule = stage["adapter"]["decides"]
    assert stage["adapter"]["name"] == "intents@1"
    assert rule["origin"].items() >= {"adapter": "intents@1", "risk": 0.05, "split": "test"}.items()
    assert 0.4 < rule["origin"]["decided"] / len(QUERIES) < 0.56
    pipeline = Pipeline.load(tuned, corpus=(), store=made.store)
    for search in pipeline.execute(searches(QUERIES)):
        answer = made.answers[search["query"]]
        if confidence(answer) >= rule["above"]:
            assert search["intent"] == answer
            assert "undecided" not in search
        else:
            assert "intent" not in search
            assert search["undecided"] == {"intent": confidence(answer)}
        assert search["outputs"]["intent"] == [answer]


@pytest.mark.slow
def test_a_second_stage_answers_only_what_was_left_undecided(made, tuned, tmp_path):
    stage = parse_yaml(tuned.read_bytes())["stages"][0]["adapter"]
    both = pipeline_file(tmp_path, stage, {"name": "larger", "only_undecided": True})
    alone = Pipeline.load(pipeline_file(tmp_path / "..", {"name": "larger"}), corpus=(), store=made.store)
    asked = [*made.surest[:3], *made.surest[-3:]]
    larger = [search["intent"] for search in alone.execute(searches(asked))]
    found = Pipeline.load(both, corpus=(), store=made.store).execute(searches(asked))
    assert [search["intent"] for search in found] == [*(made.answers[query] for query in asked[:3]), *larger[3:]]
    assert not any("undecided" in search for search in found)


@pytest.mark.slow
def test_what_is_undecided_is_in_the_result_and_in_the_trace(made, tuned):
    pipeline = Pipeline.load(tuned, corpus=(), store=made.store)
    (search,) = searches(made.surest[-1:])
    (found,) = pipeline.execute([search])
    row = result(search, found, pipeline.labels)
    assert row["undecided"] == {"intent": confidence(made.answers[search["query"]])}
    assert "intent" not in row
    (note,) = pipeline.stages[0].notes(search, found, None)
    assert re.fullmatch(r"intents@1 did not decide: its answer has probability [01]\.\d{4}, below [01]\.\d{4}", note)
    assert pipeline.stages[0].trace(search, found, {})[1] == ["undecided"]


@pytest.mark.slow
def test_a_rule_does_not_outlive_its_adapter(made, tuned, tmp_path):
    stage = parse_yaml(tuned.read_bytes())["stages"][0]["adapter"]
    with pytest.raises(PipelineError, match=r"larger@1, decides: was fitted for intents@1.*tune --risk"):
        Pipeline.load(pipeline_file(tmp_path, {**stage, "name": "larger@1"}), corpus=(), store=made.store)
    (settings,) = Pipeline.load(tuned, corpus=(), store=made.store).settings
    assert settings.with_adapter("larger@1").decides is None


@pytest.mark.slow
def test_a_stage_without_a_rule_has_the_identity_that_it_had_before_there_were_rules(made, tuned):
    (settings,) = Pipeline.load(tuned, corpus=(), store=made.store).settings
    assert settings.identity()["decides"]["above"] == settings.decides.above
    assert not {"decides", "only_undecided"} & settings.with_adapter("intents@1").identity().keys()


def test_rows_that_the_adapter_knows_are_refused(made, tmp_path, monkeypatch):
    monkeypatch.setattr("searchlora.experiments.tune_risk.seen_in_training", lambda *_: ("q1", "q2"))
    file = pipeline_file(tmp_path, {"name": "intents"})
    with pytest.raises(DataError, match=r"intents@1 was trained or tuned on 2 of the 396 test records \(q1\)"):
        tune_risk(file, made.data, tmp_path / "t.yaml", 0.05, split="test", store=made.store)
    assert not (tmp_path / "t.yaml").exists()


@pytest.mark.slow
def test_a_risk_that_no_threshold_keeps_writes_nothing(made, tmp_path):
    file = pipeline_file(tmp_path, {"name": "intents"})
    with pytest.raises(DataError, match=r"no threshold keeps an error rate of at most 0\.001"):
        tune_risk(file, made.data, tmp_path / "t.yaml", 0.001, split="test", store=made.store)
    assert not (tmp_path / "t.yaml").exists()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"name": "intents", "only_undecided": True}, "no adapter stage of the task 'intent' decides first"),
        ({"name": "intents", "zero_shot": True}, "no adapter stage of the task 'intent' decides first"),
        ({"name": "intents", "constrained": False}, None),
    ],
)
def test_stages_that_cannot_decide_are_refused(made, tmp_path, stage, message):
    file = pipeline_file(tmp_path, stage)
    if message is None:
        rule = {"decides": {"above": 0.9}}
        with pytest.raises(PipelineError, match="the answers of the task 'intent' have no probability here"):
            Pipeline.load(pipeline_file(tmp_path, stage | rule), corpus=(), store=made.store)
        return
    with pytest.raises(PipelineError, match=message):
        tune_risk(file, made.data, tmp_path / "t.yaml", 0.05, split="test", store=made.store)
