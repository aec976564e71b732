"""The stage `classical`: a model over an encoder learns from a dataset, and answers in place of an adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from searchlora.adapters.ancestry import TRAINING_QUERIES
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.errors import DataError, PipelineError
from searchlora.eval.judgments.card import JudgmentsCard, write_card
from searchlora.eval.judgments.lineage import query_hash
from searchlora.experiments.tune_risk import tune_risk
from searchlora.inference.engines import Engines
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import Pipeline, build_pipeline
from searchlora.pipelines.stages.stage import BuildContext
from searchlora.systems.pipeline import plan_of, run_card
from searchlora.task import load_task
from searchlora.tasks.intent.baselines import LogisticRegressionBaseline
from tests.factories import (
    encoder_recipe_for,
    native_dataset,
    random_encoder_adapter,
    random_encoder_folder,
    read_jsonl,
)

QUERIES = {"returns": ["send back {}", "return {}"], "delivery": ["where is {}", "where {}"]}
THINGS = [f"{thing} {number}" for number in range(8) for thing in ("tent", "boot", "lamp", "pan", "rope", "mug")]


def intents(folder: Path, things: list[str], ratios: tuple[float, float, float]) -> Path:
    rows = [
        {"id": f"{label}{place}-{number}", "group": thing, "query": form.format(thing), "label": label}
        for number, thing in enumerate(things)
        for label, forms in QUERIES.items()
        for place, form in enumerate(forms)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.txt").write_text("returns\ndelivery\n")
    options = {"labels": str(folder / "labels.txt")}
    return native_dataset("intent", folder / "data", rows, options=options, split_ratios=ratios)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return intents(tmp_path_factory.mktemp("learned"), THINGS, (0.6, 0.2, 0.2))


@pytest.fixture
def stage(data, encoder_base):
    return {"classical": {"data": str(data), "model": str(encoder_base.path)}}


def searches(*queries):
    return [{"id": str(number), "query": query} for number, query in enumerate(queries)]


def built(stages, folder, **more):
    return build_pipeline("intents", parse_stages(stages, "here"), store=Store(folder / "store"), documents=(), **more)


@pytest.mark.slow
def test_it_answers_as_the_baseline_beside_which_an_adapter_is_shown(stage, tmp_path):
    pipeline = built([stage], tmp_path)
    found = pipeline.execute(searches("send back axe 1", "where is axe 2", "send back axe 1"))
    (first,), (second,), (third,) = (search["outputs"]["intent"] for search in found)
    assert [first.value, second.value] == ["returns", "delivery"]
    assert first.probabilities == pytest.approx(third.probabilities, abs=1e-6)
    assert sum(first.probabilities) == pytest.approx(1)
    assert found[0]["intent"] == first
    assert pipeline.stages[0].label.startswith("classical(intent,") and str(tmp_path) not in pipeline.tag


@pytest.mark.slow
def test_stages_of_one_dataset_and_encoder_learn_once(stage, tmp_path, monkeypatch):
    fits = []
    fit = LogisticRegressionBaseline.fit
    monkeypatch.setattr(LogisticRegressionBaseline, "fit", lambda *args: fits.append(1) or fit(*args))
    store = Store(tmp_path / "store")
    context = BuildContext(store, Engines(store))
    for name in ("one", "two"):
        Pipeline.build(name, parse_stages([stage], "here"), context)
    assert len(fits) == 1


@pytest.mark.slow
def test_it_decides_alone_where_it_is_sure_and_a_later_stage_answers_the_rest(stage, tmp_path):
    other = {"classical": {**stage["classical"], "only_undecided": True}}
    sure = {"classical": {**stage["classical"], "decides": {"above": 0.0}}}
    unsure = {"classical": {**stage["classical"], "decides": {"above": 1.0}}}
    (decided,) = built([sure, other], tmp_path).execute(searches("send back axe"))
    assert "undecided" not in decided and decided["intent"].value == "returns"
    (left,) = built([unsure], tmp_path).execute(searches("send back axe"))
    assert 0.5 < left["undecided"]["intent"] < 1 and "intent" not in left
    (answered,) = built([unsure, other], tmp_path).execute(searches("send back axe"))
    assert "undecided" not in answered and answered["intent"].value == "returns"


@pytest.mark.slow
def test_its_rule_is_fitted_on_rows_that_it_did_not_learn_from(stage, tmp_path, data):
    pipeline = tmp_path / "intents.yaml"
    pipeline.write_text(json.dumps({"name": "intents", "stages": [stage]}))
    store, out = Store(tmp_path / "store"), tmp_path / "tuned.yaml"
    with pytest.raises(DataError, match="was trained or tuned on"):
        tune_risk(pipeline, data, out, 0.1, split="validation", store=store)
    again = intents(tmp_path / "again", [*THINGS[:1], *(f"axe {number}" for number in range(40))], (0, 0, 1))
    with pytest.raises(DataError, match="was trained or tuned on"):
        tune_risk(pipeline, again, out, 0.1, split="test", store=store)
    new = intents(tmp_path / "new", [f"axe {number}" for number in range(60)], (0, 0, 1))
    tuned = tune_risk(pipeline, new, out, 0.2, split="test", store=store)
    assert tuned.coverage > 0.5 and not tuned.unknown
    loaded = Pipeline.load(out, store=store)
    assert loaded.settings[0].decides.above == pytest.approx(tuned.rule.above)
    stage["classical"]["decides"] = {"above": 0.5, "origin": {"adapter": "intents@1"}}
    with pytest.raises(PipelineError, match="was fitted for intents@1"):
        built([stage], tmp_path)


@pytest.mark.slow
def test_results_depend_on_its_dataset_and_its_queries_are_known_as_seen(stage, tmp_path, data):
    store = Store(tmp_path / "store")
    retrieved = {"from_run": {}}
    other = intents(tmp_path / "other", THINGS[:20], (0.6, 0.2, 0.2))
    plans = [
        plan_of("p", parse_stages([retrieved, {"classical": {**stage["classical"], "data": str(folder)}}], ""), engines)
        for folder in (data, other)
        for engines in [Engines(store)]
    ]
    assert plans[0].sha256 != plans[1].sha256
    card = run_card("p", Pipeline("p", (), tuple(plans[1].stages)), store)
    assert {query_hash(row["query"]) for row in read_jsonl(other / "train.jsonl")} <= set(card.ranking_queries)
    assert query_hash("send back axe 1") not in card.ranking_queries
    assert card.unknown_sources == ("hits of the queries",)


@pytest.mark.slow
def test_the_teacher_of_its_rows_may_not_judge_it(stage, tmp_path, data, encoder_base):
    source = tmp_path / "rows.jsonl"
    source.write_text((data / "train.jsonl").read_text())
    card = JudgmentsCard("llm", "2026-11-30T00:00:00+00:00", judge="teacher@2", judge_lineage=("teacher@2",))
    write_card(source, card)
    (tmp_path / "labels.txt").write_text("returns\ndelivery\n")
    options = {"labels": str(tmp_path / "labels.txt")}
    build("intent", source, format="native", out=tmp_path / "labelled", options=options)
    stage["classical"]["data"] = str(tmp_path / "labelled")
    found = run_card("p", Pipeline("p", (), tuple(parse_stages([stage], ""))), Store(tmp_path / "store"))
    assert found.lineage == (f"base {encoder_base.path.name}", "teacher@2")


@pytest.mark.slow
def test_answers_are_quoted_from_the_passages_of_a_search(tmp_path, encoder_base):
    words = [f"word{number}" for number in range(40)]
    rows = [
        {"id": word, "group": word, "question": f"what is {word}", "answer": f"{word} is a thing [1].", "gold": ["p"],
         "passages": [{"id": "p", "text": f"{word} is a thing. It is blue."}], "answerable": True}
        for word in words
    ]  # fmt: skip
    data = native_dataset("rag_answer", tmp_path / "answers", rows, split_ratios=(1, 0, 0))
    quote = {"classical": {"data": str(data), "model": str(encoder_base.path)}}
    passages = [{"id": "d1", "text": "axe is a tool. It is sharp.", "title": ""}]
    pipeline = built([quote], tmp_path)
    found, empty = pipeline.execute(
        [{"id": "1", "query": "what is axe", "passages": passages}, {"id": "2", "query": "what", "passages": []}]
    )
    assert found["answer"].text.endswith("[1].") and found["answer"].citations == (1,)
    assert empty["answer"].abstained


@pytest.mark.slow
def test_a_rule_is_for_one_encoder_with_its_adapter_and_dimensions(stage, tmp_path, encoder_base):
    store = Store(tmp_path / "store")
    random_encoder_adapter(store, "embedder", load_task("embedding"), encoder_base, tmp_path / "embedder")
    settings = {**stage["classical"], "adapter": "embedder@1"}
    (plain,) = built([{"classical": settings}], tmp_path).stages
    assert "embedder@1" in plain.label
    rule = {"decides": {"above": 0.5, "origin": {"adapter": plain.label}}}
    assert built([{"classical": {**settings, **rule}}], tmp_path).stages[0].decides.above == 0.5
    with pytest.raises(PipelineError, match="was fitted for"):
        built([{"classical": {**settings, **rule, "dimensions": 4}}], tmp_path)
    (decides,) = parse_stages([{"classical": {**settings, **rule}}], "here")
    assert decides.with_adapter(None).decides is None and decides.with_adapter("embedder@1").decides is not None
    (without,) = build_pipeline("p", [decides.with_adapter(None)], store=store, documents=()).stages
    assert "embedder" not in without.label


@pytest.mark.slow
def test_rows_that_its_encoder_was_trained_on_are_refused_for_its_rule(stage, tmp_path, encoder_base):
    store = Store(tmp_path / "store")
    made = random_encoder_folder(encoder_base, tmp_path / "embedder")
    how = {"task": load_task("embedding"), "recipe": encoder_recipe_for(encoder_base), "base": encoder_base}
    store_adapter(store, "embedder", made, **how)
    new = intents(tmp_path / "new", [f"axe {number}" for number in range(60)], (0, 0, 1))
    seen = read_jsonl(new / "test.jsonl")[0]["query"]
    pipeline = tmp_path / "intents.yaml"
    stage["classical"]["adapter"] = "embedder"
    pipeline.write_text(json.dumps({"name": "intents", "stages": [stage]}))
    assert tune_risk(pipeline, new, tmp_path / "tuned.yaml", 0.2, split="test", store=store).unknown
    (tmp_path / TRAINING_QUERIES).write_text(f"{query_hash(seen)}\n")
    store_adapter(store, "embedder", made, **how, extra_files=[tmp_path / TRAINING_QUERIES])
    with pytest.raises(DataError, match="was trained or tuned on 1 of"):
        tune_risk(pipeline, new, tmp_path / "again.yaml", 0.2, split="test", store=store)


@pytest.mark.slow
def test_an_adapter_for_queries_only_is_refused(stage, tmp_path, encoder_base, monkeypatch):
    store = Store(tmp_path / "store")
    monkeypatch.setattr("tests.factories.encoder_recipe_for", lambda base: encoder_recipe_for(base, "sides=query"))
    random_encoder_adapter(store, "embedder", load_task("embedding"), encoder_base, tmp_path / "embedder")
    stage["classical"]["adapter"] = "embedder"
    with pytest.raises(PipelineError, match="for queries only"):
        built([stage], tmp_path)


@pytest.mark.slow
def test_a_dataset_that_was_changed_after_its_build_is_refused(stage, tmp_path):
    changed = intents(tmp_path / "changed", THINGS, (1, 0, 0))
    (changed / "train.jsonl").write_text((changed / "train.jsonl").read_text().replace("returns", "delivery"))
    stage["classical"]["data"] = str(changed)
    with pytest.raises(DataError, match="was changed after it was built"):
        built([stage], tmp_path)
    with pytest.raises(DataError, match="was changed after it was built"):
        plan_of("p", parse_stages([stage], ""), Engines(Store(tmp_path / "store")))


def test_what_has_no_classical_model_is_refused(stage, tmp_path):
    pairs = [{"id": f"q{n} d", "group": f"q{n}", "query": f"q{n}", "passage": "red tent", "grade": 1} for n in range(9)]
    stage["classical"]["data"] = str(native_dataset("judgment", tmp_path / "pairs", pairs, split_ratios=(1, 0, 0)))
    with pytest.raises(PipelineError, match="no classical model that a pipeline can use"):
        built([stage], tmp_path)
    stage["classical"]["data"] = str(intents(tmp_path / "empty", THINGS[:4], (0, 0, 1)))
    with pytest.raises(PipelineError, match="no training rows"):
        built([stage], tmp_path)
    stage["classical"]["data"] = str(tmp_path / "missing")
    with pytest.raises(DataError, match="missing"):
        built([stage], tmp_path)
