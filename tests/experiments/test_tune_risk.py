"""`tune --risk`, and pipelines whose stage decides alone: fitted with a real engine, executed, escalated, refused."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import DataError, EngineError, PipelineError
from searchlora.experiments.tune_risk import tune_risk
from searchlora.files.yaml_text import parse_yaml
from searchlora.inference.metered import MeteredEngine
from searchlora.outputs import Grade, Graded, InvalidOutput, Label
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.results import result
from searchlora.pipelines.stages.deciding import confidence
from searchlora.task import load_generation_task
from tests.factories import native_dataset, random_adapter, read_jsonl

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
        return sorted(self.answers, key=lambda query: -sure(self.answers[query]))


def sure(answer: Label) -> float:
    return answer.probabilities[sorted(LABELS).index(answer.value)]


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
    labelled(made.data, rows)
    return made


def labelled(folder: Path, rows: list[dict[str, str]]) -> Path:
    """A dataset of test rows."""
    (folder.parent / "labels.txt").write_text("\n".join(LABELS))
    options = {"labels": str(folder.parent / "labels.txt")}
    return native_dataset("intent", folder, rows, options=options, split_ratios=(0, 0, 1))


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
        if sure(answer) >= rule["above"]:
            assert search["intent"] == answer
            assert "undecided" not in search
        else:
            assert "intent" not in search
            assert search["undecided"] == {"intent": sure(answer)}
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
def test_a_second_stage_answers_where_the_first_was_invalid_or_skipped(made, tuned, tmp_path):
    stage = parse_yaml(tuned.read_bytes())["stages"][0]["adapter"]
    both = pipeline_file(tmp_path, {**stage, "on_failure": "skip"}, {"name": "larger", "only_undecided": True})
    pipeline = Pipeline.load(both, corpus=(), store=made.store)
    first, second = pipeline.stages
    (search,) = searches(made.surest[:1])
    (answer,) = second([search])
    assert isinstance(answer["intent"], Label)  # no stage has answered: it was skipped
    invalid = {**search, "outputs": {"intent": [InvalidOutput("", "no label")]}}
    assert second([invalid])[0]["intent"] == answer["intent"]
    (decided,) = first([search])
    assert second([decided]) == [decided]
    assert not second.takes(decided) and second.takes(invalid)


@pytest.mark.slow
def test_a_failure_of_the_second_stage_does_not_concern_what_the_first_decided(made, tuned, tmp_path):
    stage = parse_yaml(tuned.read_bytes())["stages"][0]["adapter"]
    second = {"name": "larger", "only_undecided": True, "on_failure": "skip"}
    pipeline = Pipeline.load(pipeline_file(tmp_path, stage, second), corpus=(), store=made.store)

    class Down(MeteredEngine):
        def score(self, *_, **__):
            raise EngineError("is down")

    broken = replace(
        pipeline, stages=[pipeline.stages[0], pipeline.stages[1].with_engines(lambda engine: Down(engine))]
    )
    sure_one, unsure_one = broken.execute(searches([made.surest[0], made.surest[-1]]))
    assert "skipped" not in sure_one
    assert unsure_one["skipped"] == {"larger@1": "is down."}
    assert "intent" in unsure_one["undecided"]


def test_the_probability_is_that_of_the_answer_also_below_an_out_of_scope_threshold():
    task = load_generation_task("intent")
    settings = {"kind": "label", "labels": ["buy", "other", "return"], "out_of_scope": "other"}
    task = task.bound(settings, {"temperature": 1.0, "out_of_scope_below": 0.7})
    record = {"id": "1", "group": "1", "query": "x"}
    tuned_label = task.apply_tuning(Label("buy", (0.65, 0.02, 0.33)), record)
    assert (tuned_label.value, confidence(task, record, tuned_label)) == ("other", pytest.approx(0.02))


def test_the_probability_of_a_grade_is_that_of_all_its_labels():
    task = SimpleNamespace(output=lambda _: Graded({"bad": 0, "poor": 0, "good": 1}))
    assert confidence(task, {}, Grade(0, (0.3, 0.4, 0.3))) == pytest.approx(0.7)


def test_a_row_may_hold_anything_under_the_name_of_what_is_undecided(made, tuned):
    pipeline = Pipeline.load(tuned, corpus=(), store=made.store)
    (search,) = searches(made.surest[:1])
    for value in ("", "0.4", None, ["intent"]):
        (found,) = pipeline.execute([{**search, "undecided": value}])
        assert "intent" in found


@pytest.mark.slow
def test_what_is_undecided_is_in_the_result_and_in_the_trace(made, tuned):
    pipeline = Pipeline.load(tuned, corpus=(), store=made.store)
    (search,) = searches(made.surest[-1:])
    (found,) = pipeline.execute([search])
    row = result(search, found, pipeline.labels)
    assert row["undecided"] == {"intent": sure(made.answers[search["query"]])}
    assert "intent" not in row
    (note,) = pipeline.stages[0].notes(search, found, None)
    assert re.fullmatch(r"intents@1 did not decide: its answer has probability 0\.\d+, below 0\.\d+", note)
    assert pipeline.stages[0].trace(search, found, {})[1] == ["undecided"]


@pytest.mark.slow
def test_a_rule_does_not_outlive_its_adapter(made, tuned, tmp_path):
    stage = parse_yaml(tuned.read_bytes())["stages"][0]["adapter"]
    for other, who in (({"name": "larger@1"}, "larger@1"), ({"zero_shot": True}, "zero-shot")):
        with pytest.raises(PipelineError, match=f"{who}, decides: was fitted for intents@1.*tune --risk"):
            Pipeline.load(pipeline_file(tmp_path, {**stage, **other}), corpus=(), store=made.store)
    (settings,) = Pipeline.load(tuned, corpus=(), store=made.store).settings
    assert settings.with_adapter("larger@1").decides is None
    assert settings.with_adapter(None).decides is None
    assert settings.with_adapter("intents@1").decides == settings.decides


@pytest.mark.slow
def test_the_identity_of_a_stage_has_its_rule(made, tuned):
    (settings,) = Pipeline.load(tuned, corpus=(), store=made.store).settings
    assert settings.identity()["decides"]["above"] == settings.decides.above
    plain = settings.model_copy(update={"decides": None})
    assert plain.identity() != settings.identity()


def test_rows_that_the_adapter_knows_are_refused(made, tmp_path, monkeypatch):
    monkeypatch.setattr("searchlora.experiments.tune_risk.seen_in_training", lambda *_: ("q1", "q2"))
    file = pipeline_file(tmp_path, {"name": "intents"})
    with pytest.raises(DataError, match=r"intents@1 was trained or tuned on 2 of the 396 test records \(q1\)"):
        tune_risk(file, made.data, tmp_path / "t.yaml", 0.05, split="test", store=made.store)
    assert not (tmp_path / "t.yaml").exists()


@pytest.mark.slow
def test_the_command_prints_the_threshold_and_refuses_what_it_would_ignore(made, tmp_path, cli, refused):
    file = pipeline_file(tmp_path, {"name": "intents"})
    command = ("tune", file, "--data", made.data, "--out", tmp_path / "t.yaml", "--store", made.store.root)
    called = cli(*command, "--risk", "0.05", "--split", "test")
    assert called.code == 0, called
    assert re.search(r"intents@1 decides alone where its probability is .* or higher: \d+\.\d% of 396 rows", called.out)
    assert "risk 5 is not between 0 and 1" in refused(*command, "--risk", "5", "--split", "test")
    assert "only a risk is fitted on a split of your choice" in refused(*command, "--split", "test")
    assert "a risk is kept on labelled rows" in refused(*command, "--risk", "0.05", "--ranking-model")


@pytest.mark.slow
def test_rows_of_one_group_count_once(made, tmp_path):
    rows = read_jsonl(made.data / "test.jsonl")
    data = labelled(tmp_path / "data", [{**row, "group": f"g{number // 2}"} for number, row in enumerate(rows)])
    file = pipeline_file(tmp_path, {"name": "intents"})
    done = tune_risk(file, data, tmp_path / "t.yaml", 0.1, split="test", store=made.store)
    assert done.rule.rows == len(rows) // 2


@pytest.mark.slow
def test_a_risk_that_no_threshold_keeps_writes_nothing(made, tmp_path):
    file = pipeline_file(tmp_path, {"name": "intents"})
    with pytest.raises(DataError, match=r"396 independent rows cannot show an error rate of at most 0\.001"):
        tune_risk(file, made.data, tmp_path / "t.yaml", 0.001, split="test", store=made.store)
    assert not (tmp_path / "t.yaml").exists()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"name": "intents", "only_undecided": True}, "no stage that answers the task 'intent' decides first"),
        ({"name": "intents", "zero_shot": True}, "no stage that answers the task 'intent' decides first"),
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
