"""PyTerrier: stages and pipelines as transformers, alone, composed, and in PyTerrier's `Experiment`."""

from __future__ import annotations

import gc

import pytest

from searchlora.errors import PipelineError
from searchlora.outputs import Label
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.corpus import IndexedCorpus, open_corpus
from searchlora.pipelines.pipeline import Pipeline
from searchlora.records import Document, Hit
from tests.interop.shop import DOCUMENTS, GRADES, QUERIES
from tests.pipelines.rewriting import DOCUMENTS as GEAR
from tests.pipelines.rewriting import Rewriter, built

pd = pytest.importorskip("pandas")
pt = pytest.importorskip("pyterrier", reason="pyterrier is not installed: pip install 'searchlora[pyterrier]'")

from searchlora.interop import pyterrier as sl  # noqa: E402
from searchlora.interop.frames import documents_of, searches_of  # noqa: E402

TOPICS = pd.DataFrame(QUERIES, columns=["qid", "query"])
QRELS = pd.DataFrame(GRADES, columns=["qid", "docno", "label"])
RESULTS = pd.DataFrame(
    [["q1", "red", "d9", 1.0, "a sofa"], ["q1", "red", "d8", 3.0, "a tent"], ["q2", "blue", "d9", 2.0, "a sofa"]],
    columns=["qid", "query", "docno", "score", "text"],
)


def queries(*texts):
    return pd.DataFrame([(f"q{n}", text) for n, text in enumerate(texts)], columns=["qid", "query"])


@pytest.fixture(scope="module")
def models(store_of_interop):
    return sl.Models(store_of_interop, engine={"precision": "fp32"})


# Frames


def test_queries_are_searches_with_a_field_for_each_column():
    topics = TOPICS.assign(query_0="before", history=[["hello"], None, float("nan")], qbrand=["Acme", None, "Acme"])
    assert searches_of(topics) == [
        {"id": "q1", "query": "red couch", "history": ["hello"], "brand": "Acme"},
        {"id": "q2", "query": "blue lamp"},
        {"id": "q3", "query": "zebra", "brand": "Acme"},
    ]


def test_results_are_searches_with_hits_by_score_and_their_texts():
    one, two = searches_of(RESULTS.assign(brand="Acme", price=49.9, size=float("nan"), qintent="buy"))
    assert (one["id"], one["query"], one["intent"]) == ("q1", "red", "buy")
    assert one["hits"] == [Hit("d8", 3.0), Hit("d9", 1.0)]
    assert one["hits"][0].fetched == Document("d8", "a tent", "", {"brand": "Acme", "price": "49.9"})
    assert [hit.document for hit in two["hits"]] == ["d9"]


def test_results_without_scores_keep_their_rank_or_order():
    bare = RESULTS.drop(columns=["score", "text"])
    assert searches_of(bare)[0]["hits"] == [Hit("d9", 2.0), Hit("d8", 1.0)]
    assert searches_of(bare.assign(rank=[1, 0, 0]))[0]["hits"] == [Hit("d8", 2.0), Hit("d9", 1.0)]
    assert searches_of(bare)[0]["hits"][0].fetched is None


@pytest.mark.parametrize("frame", [pd.concat([TOPICS, TOPICS]), pd.concat([RESULTS, RESULTS])])
def test_what_is_repeated_is_refused(frame):
    with pytest.raises(PipelineError, match="repeated"):
        searches_of(frame)


def test_documents_without_a_docno_are_refused():
    with pytest.raises(PipelineError, match="no 'docno'"):
        documents_of([{"text": "a tent"}])


def test_whole_numbers_beside_gaps_are_whole_in_queries_and_documents():
    topics = pd.DataFrame([["q1", "tent", None], ["q2", "sofa", 2020]], columns=["qid", "query", "year"])
    corpus = pd.DataFrame([["d1", "a sofa", 2020], ["d2", "a tent", None]], columns=["docno", "text", "year"])
    assert [search.get("year") for search in searches_of(topics)] == [None, 2020]
    assert [document.metadata for document in documents_of(corpus)] == [{"year": "2020"}, {}]


# Retrieval


def test_bm25_finds_what_our_pipeline_finds():
    found = sl.BM25(DOCUMENTS, k=3).transform(TOPICS)
    assert list(found.columns) == ["qid", "query", "docno", "title", "text", "score", "rank"]
    pipeline = Pipeline.load("bm25", corpus=DOCUMENTS, overrides=["k=3"])
    for id_, query in QUERIES:
        rows = found[found["qid"] == id_]
        hits = pipeline.search(query)["hits"]
        assert list(zip(rows["docno"], rows["score"], strict=True)) == [(h["document"], h["score"]) for h in hits]
        assert list(rows["rank"]) == list(range(len(hits)))
    assert found["text"].iloc[0] == next(d.text for d in DOCUMENTS if d.id == found["docno"].iloc[0])


@pytest.mark.parametrize("form", ["file", "documents", "dictionaries", "frame", "shared"])
def test_a_corpus_has_any_form(form, products):
    rows = [{"docno": each.id, "title": each.title, "text": each.text} for each in DOCUMENTS]
    corpus = {
        "file": products,
        "documents": DOCUMENTS,
        "dictionaries": iter(rows),
        "frame": pd.DataFrame(rows),
        "shared": open_corpus(products),
    }[form]
    assert list(sl.BM25(corpus).search("red couch")["docno"]) == ["d1", "d2", "d3"]


def test_columns_of_documents_are_those_asked_for():
    found = sl.BM25(DOCUMENTS, metadata=["brand"]).search("blue lamp")
    assert list(found.columns) == ["qid", "query", "docno", "brand", "score", "rank"]
    assert list(found["brand"]) == ["Acme"]


def test_retrieval_of_results_searches_anew_and_keeps_columns_of_the_query():
    again = sl.BM25(DOCUMENTS, metadata=()).transform(RESULTS.assign(qintent="buy", query_0="before"))
    assert list(again.columns) == ["qid", "query", "qintent", "query_0", "docno", "score", "rank"]
    assert set(again["docno"]) == {"d1", "d2", "d3", "d4"}
    assert set(again["query_0"]) == {"before"}


@pytest.mark.parametrize("frame", [TOPICS, RESULTS])
def test_an_empty_frame_has_the_columns(frame):
    bm25 = sl.BM25(DOCUMENTS)
    assert list(bm25.transform(TOPICS[:0]).columns) == list(bm25.transform(TOPICS).columns)
    rewriting = sl.Pipeline(built(Rewriter()))
    assert list(rewriting.transform(frame[:0]).columns)[:3] == ["qid", "query", "query_0"]


def test_a_missing_column_is_named():
    with pytest.raises(pt.validate.InputValidationError, match="docno"):
        sl.Stage("filter", DOCUMENTS, filter={"brand": "brand"}).transform(TOPICS)


def test_fields_of_documents_are_filtered_by_columns_of_the_query():
    match = sl.Stage("filter", DOCUMENTS, filter={"brand": "brand"})
    found = (sl.BM25(DOCUMENTS) >> match).transform(queries("red").assign(qbrand="Acme"))
    assert set(found["docno"]) == {"d1", "d3"}
    # PyTerrier's own frames may hold the fields in place of a corpus.
    own = sl.Stage("filter", filter={"brand": "intent"})
    kept = own.transform(RESULTS.assign(brand=["Acme", "Other", "Acme"], qintent=[Label("Acme", None)] * 3))
    assert list(kept["docno"]) == ["d9", "d9"] and list(kept["brand"]) == ["Acme", "Acme"]


# Rewriting


def test_a_rewritten_query_is_searched_and_the_earlier_ones_are_kept():
    rewriting = sl.Pipeline(built(Rewriter()))
    found = rewriting.transform(queries("kicks", "tent").assign(query_0=["first", "second"]))
    rows = found.drop_duplicates("qid").set_index("qid")
    assert list(rows["query"]) == ["boots", "tent"]
    assert list(rows["query_0"]) == ["kicks", "tent"]  # also where nothing changed, as by `push_queries`
    assert list(rows["query_1"]) == ["first", "second"]
    assert list(found["docno"]) == ["d1", "d3", "d2"]


def test_rewriting_alone_returns_queries_and_keeps_hits():
    alone = built(Rewriter())
    rewrite = sl.Stages(Pipeline("rewrite", alone.stages[:1], alone.settings[:1]))
    pushed = pt.model.push_queries(queries("kicks"))
    assert rewrite.transform(queries("kicks"))[["qid", "query_0"]].to_dict() == pushed.to_dict()
    kept = rewrite.transform(RESULTS.assign(query="shelter"))
    assert list(kept["docno"]) == ["d8", "d9", "d9"] and set(kept["query"]) == {"tent"}
    assert list(kept["text"]) == ["a tent", "a sofa", "a sofa"]


def test_both_queries_are_searched_by_the_retriever_behind_it():
    fused = built(Rewriter(), adapter={"rewrite": "fuse"})
    rewrite = sl.Stages(Pipeline("rewrite", fused.stages[:1], fused.settings[:1]))
    apart = (rewrite >> sl.BM25(GEAR, k=10)).transform(queries("shelter"))
    together = sl.Pipeline(fused).transform(queries("shelter"))
    assert list(apart["docno"]) == list(together["docno"])
    assert list(apart["score"]) == list(together["score"])


def test_a_query_that_another_transformer_changes_is_searched_with_the_one_before_the_rewrite():
    fused = built(Rewriter(), adapter={"rewrite": "fuse"})
    rewrite = sl.Stages(Pipeline("rewrite", fused.stages[:1], fused.settings[:1]))
    bm25 = sl.BM25(GEAR, k=10)
    expanded = pt.apply.query(lambda row: f"{row['query']} waterproof boots")
    changed = (rewrite >> expanded >> bm25).transform(queries("shelter"))
    assert set(changed["docno"]) == {"d1", "d2", "d3"}
    assert set(changed["query"]) == {"tent waterproof boots"}
    (search,) = searches_of((rewrite >> expanded).transform(queries("shelter")))
    assert search["fused_queries"] == ("shelter", "tent waterproof boots")
    (search,) = searches_of((rewrite >> pt.apply.query(lambda _: "shelter")).transform(queries("shelter")))
    assert search["fused_queries"] == ("shelter",)


# Adapters


@pytest.mark.slow
def test_adapters_give_what_the_pipeline_gives(models):
    stages = [{"adapter": {"name": "rewriter", "max_new_tokens": 4}}, {"bm25": {"k": 3}}, {"passages": {"k": 2}}]
    stages += [{"adapter": {"name": "judge"}}]
    settings = parse_stages(stages, "here")
    whole = models.build("p", settings, IndexedCorpus(DOCUMENTS))
    composed = (
        sl.Rewrite("rewriter", max_new_tokens=4, models=models)
        >> sl.BM25(DOCUMENTS, k=3, models=models)
        >> sl.Judge("judge", k=2, models=models)
    )
    apart, together = composed.transform(TOPICS), sl.Pipeline(whole).transform(TOPICS)
    columns = ["qid", "query", "query_0", "docno", "score", "rank"]
    assert apart[columns].to_dict() == together[columns].to_dict()
    assert list(apart["qgrades"]) == list(together["qgrades"])
    executed = whole.execute([{"id": id_, "query": query} for id_, query in QUERIES])
    assert list(together["docno"]) == [hit.document for search in executed for hit in search["hits"]]


@pytest.mark.slow
def test_a_judge_reads_texts_of_the_frame_or_of_its_corpus(models):
    judged = sl.Judge("judge", models=models).transform(RESULTS)
    assert {grade["id"] for grade in judged["qgrades"].iloc[0]} == {"d8", "d9"}
    assert list(judged["score"][:2]) == sorted(judged["score"][:2], reverse=True)
    bare = sl.BM25(DOCUMENTS, metadata=()).transform(TOPICS)
    with pytest.raises(PipelineError, match="is not in the corpus"):
        sl.Judge("judge", models=models).transform(bare)
    assert set(sl.Judge("judge", DOCUMENTS, models=models).transform(bare)["docno"]) == set(bare["docno"])


@pytest.mark.slow
def test_an_intent_is_a_column_that_a_later_stage_matches(models):
    intents = sl.Adapter("intents", models=models)
    found = intents.transform(TOPICS)
    assert list(found.columns) == ["qid", "query", "qintent", "qoutputs"]
    assert [each.value for each in found["qintent"]] == [outputs["intent"][0].value for outputs in found["qoutputs"]]
    matched = (intents >> sl.BM25(DOCUMENTS) >> sl.Stage("filter", DOCUMENTS, boost={"title": "intent"})).transform(
        TOPICS
    )
    assert set(matched["docno"]) == {"d1", "d2", "d3", "d4"}


@pytest.mark.slow
def test_rewrite_refuses_another_task(models):
    with pytest.raises(PipelineError, match="rewrites no queries"):
        sl.Rewrite("intents", models=models)


@pytest.mark.slow
def test_transformers_without_models_share_those_of_the_default_store(store_of_interop, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_STORE", str(store_of_interop.root))
    first, second = sl.Rewrite("rewriter"), sl.Adapter("intents")
    engines = [transformer.pipeline.stages[0].engine for transformer in (first, second)]
    assert engines[0] is engines[1]
    assert repr(first) == "Rewrite(rewriter@1)"
    del first, second, engines
    gc.collect()
    assert not sl._DEFAULT


def test_a_pipeline_takes_the_hits_of_another_retriever(tmp_path, products):
    file = tmp_path / "taken.yaml"
    file.write_text("name: taken\nstages:\n  - from_run: {k: 2}\n  - passages: {k: 1}\n", encoding="utf-8")
    taken = sl.Pipeline(file, products)
    found = (sl.BM25(DOCUMENTS, metadata=[]) >> taken).transform(TOPICS)
    assert list(found["docno"]) == ["d1", "d2", "d4"]
    assert list(found["text"]) == [next(d.text for d in DOCUMENTS if d.id == id_) for id_ in found["docno"]]
    with pytest.raises(pt.validate.InputValidationError, match="docno"):
        taken.transform(TOPICS)


# Experiment


def test_experiment_runs_our_stages_beside_pyterriers_own():
    """Its own: results as a source, a rewriter, a scorer, and the operators `>>`, `+`, `*`, `|` and `%`."""
    bm25 = sl.BM25(DOCUMENTS, k=3)
    rewritten = pt.apply.query(lambda row: row["query"].replace("zebra", "tent")) >> bm25
    source = pt.Transformer.from_df(
        pd.DataFrame([["q1", "d2", 2.0], ["q1", "d1", 1.0], ["q2", "d4", 1.0]], columns=["qid", "docno", "score"])
    )
    shorter = bm25 >> pt.apply.doc_score(lambda row: -float(len(row["text"])))
    systems = {
        "ours": bm25,
        "source": source,
        "their rewriter, our search": rewritten,
        "our search, their scorer": shorter,
        "first": bm25 % 1,
        "sum": 2.0 * bm25 + source,
        "their results, our filter": source >> sl.Stage("filter", DOCUMENTS, filter={"brand": "brand"}),
    }
    topics = TOPICS.assign(qbrand=["Acme", "Acme", "Acme"])
    measured = pt.Experiment(
        list(systems.values()), topics, QRELS, ["recip_rank", "P_1"], names=list(systems), baseline=0
    ).set_index("name")
    # By hand: BM25 ranks d1, d2, d3 for q1 and d4 for q2, and finds nothing for q3 unless it is rewritten.
    assert measured["recip_rank"]["ours"] == pytest.approx((1 + 1 + 0) / 3)
    assert measured["recip_rank"]["their rewriter, our search"] == pytest.approx(1)
    assert measured["recip_rank"]["our search, their scorer"] == pytest.approx((1 + 1 + 0) / 3)
    assert measured["P_1"]["first"] == pytest.approx(2 / 3)
    assert measured["recip_rank"]["their results, our filter"] == pytest.approx(2 / 3)
    assert measured["recip_rank +"]["their rewriter, our search"] == 1  # one query better than the baseline
