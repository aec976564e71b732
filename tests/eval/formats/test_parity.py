"""Measures on every format equal ir_measures on the raw files, on TREC DL 2019 and Cranfield."""

from __future__ import annotations

import json

import ir_measures
import pytest

from searchlora.eval.formats import (
    FORMATS,
    format_of_file,
    read_qrels,
    read_run,
    read_topics,
    write_qrels,
    write_run,
    write_topics,
)
from searchlora.eval.measures import RETRIEVAL_MEASURES, retrieval_values
from tests.eval import cranfield

MEASURES = (*RETRIEVAL_MEASURES, "AP", "P@10")
THEIR_NAMES = {"MRR@10": "RR@10", "Recall@10": "R@10", "Recall@100": "R@100"}
QRELS_FORMATS = [name for name, form in FORMATS.items() if form.qrels]
RUN_FORMATS = [name for name, form in FORMATS.items() if form.run]


@pytest.fixture(scope="module", params=["dl19", "cranfield"])
def raw(request, real_data, tmp_path_factory):
    """Qrels and run as TREC lines, of the collection's own files and without a writer of ours, and the topics."""
    folder = tmp_path_factory.mktemp(request.param)
    collection = {"dl19": _dl19, "cranfield": _cranfield}[request.param]
    qrels, run, topics = collection(real_data)
    (folder / "qrels.txt").write_text("".join(f"{topic} 0 {document} {grade}\n" for topic, document, grade in qrels))
    lines = (f"{topic} Q0 {document} 1 {score!r} bm25\n" for topic, document, score in run)
    (folder / "run.txt").write_text("".join(lines))
    return folder, topics


@pytest.fixture(scope="module")
def theirs(raw):
    """measure -> topic -> value, by ir_measures reading the raw files."""
    folder, _ = raw
    parsed = {name: ir_measures.parse_measure(THEIR_NAMES.get(name, name)) for name in MEASURES}
    names = {measure: name for name, measure in parsed.items()}
    values = {name: {} for name in MEASURES}
    qrels = list(ir_measures.read_trec_qrels(str(folder / "qrels.txt")))
    run = list(ir_measures.read_trec_run(str(folder / "run.txt")))
    for metric in ir_measures.iter_calc(list(parsed.values()), qrels, run):
        values[names[metric.measure]][metric.query_id] = metric.value
    return values


@pytest.mark.slow
@pytest.mark.parametrize("name", QRELS_FORMATS)
def test_qrels_through_every_format(name, raw, theirs):
    folder, topics = raw
    path = folder / f"{name}-qrels"
    write_qrels(path, read_qrels(folder / "qrels.txt"), name, topics=topics)
    assert format_of_file(path, "qrels").name == name
    _same(retrieval_values(read_run(folder / "run.txt"), read_qrels(path, topics=topics), MEASURES), theirs)


@pytest.mark.parametrize("name", RUN_FORMATS)
def test_runs_through_every_format(name, raw, theirs):
    folder, _ = raw
    path = folder / f"{name}-run"
    write_run(path, read_run(folder / "run.txt"), "bm25", name)
    assert format_of_file(path, "run").name == name
    _same(retrieval_values(read_run(path), read_qrels(folder / "qrels.txt"), MEASURES), theirs)


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.topics])
def test_topics_through_every_format(name, raw):
    folder, topics = raw
    write_topics(folder / f"{name}-topics", topics, name)
    assert read_topics(folder / f"{name}-topics") == topics


def _same(ours, theirs):
    assert set(ours) == set(theirs) == set(MEASURES)
    for name in MEASURES:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-9), name


def _dl19(real_data):
    folder = real_data / "trecdl19"
    qrels = [
        (topic, document, int(grade))
        for topic, _, document, grade in map(str.split, (folder / "qrels.dl19-passage.txt").read_text().splitlines())
    ]
    run = [
        (str(hit["qid"]), str(hit["docid"]), float(hit["score"]))
        for found in json.loads((folder / "bm25_top100_dl19.json").read_text())
        for hit in found["hits"]
    ]
    topics = read_topics(folder / "topics.dl19-passage.txt")
    assert (len({topic for topic, _, _ in qrels}), len(run), len(topics)) == (43, 4300, 43)
    return qrels, run, topics


def _cranfield(real_data):
    from searchlora.retrieval import BM25Index

    folder = real_data / "cranfield"
    queries = cranfield.queries(folder)
    found = BM25Index(cranfield.documents(folder)).search(list(queries.values()), 100)
    run = [(topic, hit.document, hit.score) for topic, hits in zip(queries, found, strict=True) for hit in hits]
    qrels = [(topic, doc, grade) for topic, grades in cranfield.qrels(folder).items() for doc, grade in grades.items()]
    assert (len({topic for topic, _, _ in qrels}), len(qrels)) == (225, 1612)
    return qrels, run, {topic: {"query": query} for topic, query in queries.items()}
