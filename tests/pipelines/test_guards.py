"""Guards of an adapter stage: rewrites that are refused, passages that need no judge, answers without evidence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import PipelineError, UsageError
from searchlora.eval.trec import write_qrels
from searchlora.experiments.tune_unsure import fitted, tune_unsure
from searchlora.files import atomic_text, json_line
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.config import read_pipeline
from searchlora.pipelines.index_build import build_index
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.shared_batches import SharedBatches
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.pipelines.stages.guards import score_gap
from searchlora.records import Hit
from searchlora.server.api.metrics import Metrics
from searchlora.task import load_generation_task
from tests.factories import random_adapter
from tests.pipelines.rewriting import DOCUMENTS, REWRITES, Rewriter, built, searches
from tests.server.searching import ANSWER, AnsweringEngine

TABLE = {
    "green tent 2": "green tent",
    "green tent": "green tent 2",
    'a "green tent"': "green",
    "green pegs": "green",
    "lamp": "boots",
}
PASSAGES = [
    {"id": "d1", "title": "Tent", "text": "It weighs 2 kg.", "score": 8.0},
    {"id": "d2", "title": "Boots", "text": "They are waterproof.", "score": 6.0},
]


def counted(pipeline, rows):
    """Flag -> its counter of the stage `adapter@version`, after executing a pipeline."""
    metrics, traced = Metrics(), []
    done = pipeline.execute(rows, trace=traced.append)
    for row in traced:
        metrics.stage("p", row)
    lines = [line for line in metrics.text().decode().splitlines() if line.startswith("searchlora_stage_flags_total")]
    return done, {line.partition("{")[2] for line in lines}


def guarded(rewrites=TABLE, **guard):
    return built(Rewriter({**REWRITES, **rewrites}), {"rewrite_guard": guard})


@pytest.mark.parametrize(
    ("query", "guard", "expected"),
    [
        ("green tent 2", {}, "green tent 2"),  # a word with a digit
        ('a "green tent"', {}, 'a "green tent"'),
        ("green pegs", {}, "green"),
        ("green pegs", {"words": ["pegs", "boots"]}, "green pegs"),
        ("shelter", {"words": ["pegs"]}, "tent"),
    ],
)
def test_a_rewrite_that_loses_a_protected_word_is_refused(query, guard, expected):
    (done,) = guarded(**guard).execute(searches(query))
    assert done["query"] == expected
    assert done.get("guarded", {}) == ({"rewriter@3": "words"} if expected == query else {})


def test_a_rewrite_that_loses_the_best_hit_is_refused_and_counted_by_version():
    lost, kept, better = searches("tent pegs", "shelter", "green tent")
    pipeline = guarded({**TABLE, "tent pegs": "nothing"}, top_score=0.6)
    done, flags = counted(pipeline, [lost, kept, better])
    assert [each["query"] for each in done] == ["tent pegs", "tent", "green tent 2"]
    assert [bool(each["hits"]) for each in done] == [True, True, True]
    assert done[0]["outputs"]["rewriting"] == ["nothing"]  # kept, though not searched with
    assert flags == {'flag="guard_top_score",pipeline="p",stage="rewriter@3"} 1.0'}
    (without,) = built(Rewriter({"tent pegs": "nothing"})).execute([lost])
    assert without["hits"] == []


def test_a_query_that_finds_nothing_itself_accepts_every_rewrite():
    (done,) = guarded(top_score=1.0).execute(searches("lamp"))
    assert (done["query"], [hit.document for hit in done["hits"]]) == ("boots", ["d1"])


def test_a_refused_rewrite_is_not_fused():
    pipeline = built(Rewriter({"tent pegs": "nothing"}), {"rewrite": "fuse", "rewrite_guard": {"top_score": 0.5}})
    (done,) = pipeline.execute(searches("tent pegs"))
    assert done["query"] == "tent pegs" and "fused_queries" not in done


def stage_of(name, **guards):
    task = load_generation_task(name)
    return AdapterStage(task, AnsweringEngine(), f"{name}@2", continue_after_choice=name == "rag_answer", **guards)


def judged(search, **guards):
    return counted(Pipeline("p", [stage_of("judgment", **guards)]), [search])


def test_a_judge_is_left_out_where_the_first_passage_is_far_ahead():
    hits = [Hit("d1", 8.0), Hit("d2", 6.0)]
    search = {"id": "q", "query": "tent", "passages": PASSAGES, "hits": hits}
    (sure,), flags = judged(search, only_if_unsure=0.25)
    assert sure["hits"] == hits and "grades" not in sure and sure["passages"] == PASSAGES
    assert flags == {'flag="guard_sure",pipeline="p",stage="judgment@2"} 1.0'}
    (unsure,), flags = judged(search, only_if_unsure=0.26)
    assert len(unsure["grades"]) == 2 and not flags
    with pytest.raises(PipelineError, match="no passages to judge"):
        judged({"id": "q", "query": "tent"}, only_if_unsure=0.25)
    stage = stage_of("judgment", only_if_unsure=0.25)
    assert SharedBatches([stage, stage], []).stage(0, [search])[0] is stage  # asked alone, if at all


@pytest.mark.parametrize(
    ("scores", "gap"), [([4, 3, 0], 0.25), ([4], 1), ([], 1), ([0, 0], 0), ([-1, -2], 0), ([3, 3], 0), ([2, -2], 2)]
)
def test_the_gap_is_a_share_of_the_first_score(scores, gap):
    assert score_gap({"passages": [{"id": str(n), "score": score} for n, score in enumerate(scores)]}) == gap


def test_an_answer_without_evidence_becomes_the_abstention():
    search = {"id": "q", "query": "how heavy is it?", "passages": PASSAGES}
    (kept,), flags = counted(Pipeline("p", [stage_of("rag_answer", min_support=0.5)]), [search])
    assert kept["answer"].text == ANSWER and len(kept["unsupported"]) == 1 and not flags
    (refused,), flags = counted(Pipeline("p", [stage_of("rag_answer", min_support=0.6)]), [search])
    assert refused["answer"].abstained and "unsupported" not in refused
    assert refused["outputs"]["rag_answer"] == [refused["answer"]]
    assert flags == {'flag="guard_evidence",pipeline="p",stage="rag_answer@2"} 1.0'}


def test_an_invalid_answer_stays_invalid():
    stage = stage_of("rag_answer", min_support=1.0)
    cut = replace(stage, engine=Cut())
    (done,) = cut([{"id": "q", "query": "how heavy is it?", "passages": PASSAGES}])
    assert isinstance(done["outputs"]["rag_answer"][0], InvalidOutput) and "guarded" not in done


class Cut(AnsweringEngine):
    """An engine whose answers are cut off in their first sentence."""

    def generate(self, requests):
        return [replace(each, text="It weighs 2", finish="length") for each in super().generate(requests)]


@pytest.fixture(scope="module")
def store(tiny_base, tmp_path_factory):
    """A store with a rewriter and a judge of random weights."""
    folder = tmp_path_factory.mktemp("guards")
    store = Store(folder / "store")
    for seed, (name, task) in enumerate({"rewriter": "rewriting", "judge": "judgment"}.items()):
        random_adapter(store, name, load_generation_task(task), tiny_base, folder / name, seed=seed + 1)
    return store


def pipeline_file(folder, *stages):
    (folder / "p.yaml").write_text("name: p\nstages:\n" + "".join(f"  - {stage}\n" for stage in stages))
    return folder / "p.yaml"


def test_a_guard_searches_the_index_of_its_pipeline(store, tmp_path):
    stage = "adapter: {name: rewriter, max_new_tokens: 4, rewrite_guard: {top_score: 1.0}}"
    file = pipeline_file(tmp_path, stage, "bm25: {k: 10}")
    with atomic_text(tmp_path / "corpus.jsonl") as out:
        out.writelines(json_line({"id": each.id, "text": each.text}) for each in DOCUMENTS)
    index = build_index(tmp_path / "corpus.jsonl", tmp_path / "index", pipelines=[file], store=store).folder
    loaded = Pipeline.load(file, corpus=index, store=store)
    assert loaded.stages[0].bm25 is loaded.stages[1].retriever
    (done,) = loaded.execute(searches("green tent"))
    assert done["hits"][0].document == "d2"
    with pytest.raises(PipelineError, match="needs documents"):
        Pipeline.load(pipeline_file(tmp_path, stage), store=store)


@pytest.mark.parametrize(
    ("name", "guard"),
    [("judge", "rewrite_guard: {}"), ("rewriter", "only_if_unsure: 0.2"), ("judge", "min_support: 0.5")],
)
def test_a_guard_of_another_task_is_refused(store, tmp_path, name, guard):
    file = pipeline_file(tmp_path, f"adapter: {{name: {name}, {guard}}}")
    with pytest.raises(PipelineError, match=f"the guard '{guard.partition(':')[0]}' is not for the task"):
        Pipeline.load(file, store=store)


def test_where_a_judge_may_be_left_out_is_fitted_on_judged_topics(store, tmp_path):
    file = pipeline_file(tmp_path, "bm25: {k: 3}", "passages: {k: 2}", "adapter: {name: judge}")
    rows = {"q1": "green tent", "q2": "tent", "q3": "boots", "q4": "tent pegs"}
    with atomic_text(tmp_path / "topics.jsonl") as out:
        out.writelines(json_line({"id": topic, "query": query}) for topic, query in rows.items())
    write_qrels(tmp_path / "qrels", {"q1": {"d2": 1}, "q2": {"d3": 1}, "q3": {"d1": 1}, "q4": {"d3": 1}})
    inputs = read_pipeline(file), tmp_path / "topics.jsonl", tmp_path / "qrels", tmp_path / "tuned.yaml"
    with atomic_text(tmp_path / "corpus.jsonl") as out:
        out.writelines(json_line({"id": each.id, "text": each.text}) for each in DOCUMENTS)
    done = tune_unsure(*inputs, 1.0, corpus=tmp_path / "corpus.jsonl", store=store)
    assert (done.adapter, done.threshold.spared, done.threshold.rows) == ("judge@1", 4, 4)
    stage = read_pipeline(done.path).stages[2]
    assert (stage.name, stage.only_if_unsure) == ("judge@1", done.threshold.above)
    with pytest.raises(UsageError, match="the loss is -1"):
        tune_unsure(*inputs, -1.0, corpus=tmp_path / "corpus.jsonl", store=store)
    with pytest.raises(PipelineError, match="no stage reranks"):
        tune_unsure(read_pipeline("bm25"), *inputs[1:], 0.1, corpus=tmp_path / "corpus.jsonl", store=store)
    with pytest.raises(UsageError):
        tune_unsure(*inputs, 0.1, measure="none", corpus=tmp_path / "corpus.jsonl", store=store)


def test_a_judge_is_left_out_where_it_brings_nothing_and_not_where_it_helps():
    """Where the first passage is far ahead, the judge changes nothing; elsewhere it puts the relevant one first."""

    def search(topic, first, *order):
        passages = [{"id": "d1", "score": first}, {"id": "d2", "score": 1.0}]
        hits = [Hit(document, 1.0 - rank) for rank, document in enumerate(order)]
        return {"id": topic, "query": "tent", "passages": passages, "hits": hits}

    topics = [(f"t{number}", number % 2) for number in range(60)]
    qrels = {topic: {"d1": 1} if sure else {"d2": 1} for topic, sure in topics}
    before = [search(topic, 10.0 if sure else 1.1, "d1", "d2") for topic, sure in topics]
    after = [search(topic, 10.0 if sure else 1.1, *(("d1", "d2") if sure else ("d2", "d1"))) for topic, sure in topics]
    found = fitted(before, after, qrels, 0.05, "nDCG@10")
    assert (found.above, found.spared, found.loss) == (0.9, 30, 0.0)
