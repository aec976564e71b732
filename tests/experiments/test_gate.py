"""`gate fit` and `gate evaluate`: on a shop in which queries with a number need one field, and the others another."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from searchlora.adapters.store import Store
from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.eval.judgments.card import JudgmentsCard, read_run_card, write_card
from searchlora.eval.judgments.lineage import query_hash
from searchlora.eval.measures import retrieval_values
from searchlora.experiments.gate import BEST_HERE, EQUAL, FIXED, GATE, ORACLE, evaluate_gate, fit_gate
from searchlora.experiments.run import run
from searchlora.experiments.slots import find_slots, without
from searchlora.pipelines.config import read_pipeline
from searchlora.pipelines.explain import explain
from searchlora.pipelines.pipeline import Pipeline, build_pipeline, run_of
from searchlora.pipelines.stage_lists import pinned
from searchlora.retrieval.gate import read_gate
from searchlora.systems.lineage import base_reference, seen_by_run

COUNT = 40
SECOND = 0.6309297535714575  # the gain of a relevant document at rank 2
FUSE = {"method": "combsum", "k": 10, "of": [{"bm25": {"fields": {"title": 1}}}, {"bm25": {"fields": {"text": 1}}}]}


def word(number):
    return f"word{chr(97 + number // 26)}{chr(97 + number % 26)}"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Documents, and topics in two halves. A part number is in the title of what is sought, and in another's text; a
    word is in the text of what is sought, and in another's title. Ties are broken for the others."""
    folder = tmp_path_factory.mktemp("shop")
    documents, topics, qrels = [], [], []
    for number in range(COUNT):
        part, name = f"{number + 10}q", word(number)
        documents += [
            {"id": f"a{number}", "title": part, "text": "a thing"},
            {"id": f"z{number}", "title": "a thing", "text": part},
            {"id": f"b{number}", "title": "a thing", "text": name},
            {"id": f"y{number}", "title": name, "text": "a thing"},
        ]
        topics += [
            {"id": f"p{number}", "query": f"{part} please", "half": number % 2, "family": f"p{number // 4}"},
            {"id": f"w{number}", "query": f"{name} please", "half": number % 2, "family": f"w{number // 4}"},
        ]
        qrels += [f"p{number} 0 a{number} 1\n", f"w{number} 0 b{number} 1\n"]
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents), encoding="utf-8")
    for name, half in (("train", 0), ("test", 1)):
        rows = [row for row in topics if row["half"] == half]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "qrels.txt").write_text("".join(qrels), encoding="utf-8")
    write(folder / "shop.yaml", FUSE)
    return folder


def write(path, fuse, before=()):
    path.write_text(
        yaml.safe_dump({"name": "shop", "corpus": "documents.jsonl", "stages": [*before, {"fuse": fuse}]}),
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def fitted(shop):
    return fit_gate(shop / "shop.yaml", shop / "train.jsonl", shop / "qrels.txt", shop / "gate.json")


@pytest.fixture(scope="module")
def gated(shop, fitted):
    return write(shop / "gated.yaml", {**FUSE, "gate": fitted.path.name})


def searched(pipeline, topics):
    rows = [json.loads(line) for line in topics.read_text(encoding="utf-8").splitlines()]
    return run_of(pipeline.execute([{"id": row["id"], "query": row["query"]} for row in rows]))


def test_the_gate_tells_what_it_was_fitted_on(fitted):
    gate = read_gate(fitted.path)
    assert gate == fitted.gate and not gate.is_fixed
    assert len(gate.mixes) == 11 and gate.validation["queries"] == COUNT
    assert gate.validation["gate"] == 1.0
    assert gate.validation["fixed"] == pytest.approx((1 + SECOND) / 2)
    assert gate.origin["topics"]["name"] == "train.jsonl" and len(gate.origin["qrels"]["sha256"]) == 64
    assert gate.parts[0] == ("bm25", {"fields": {"title": 1}})
    assert "please" not in fitted.path.read_text(encoding="utf-8")  # no query is stored, only hashes


def test_evaluation_compares_it_with_fixed_mixes_and_the_oracle(shop, fitted):
    found = evaluate_gate(shop / "shop.yaml", fitted.path, shop / "test.jsonl", shop / "qrels.txt")
    means = {row.system: row.value for row in found.comparison.rows}
    assert means == pytest.approx(
        {
            GATE: 1.0,
            FIXED: (1 + SECOND) / 2,
            EQUAL: SECOND,
            "bm25 (1) alone": 0.5,
            "bm25 (2) alone": 0.5,
            BEST_HERE: (1 + SECOND) / 2,
            ORACLE: 1.0,
        }
    )
    pair = found.comparison.pair(GATE, FIXED, "nDCG@10")
    assert (pair.n, pair.wins, pair.losses) == (COUNT, COUNT // 2, 0) and pair.low > 0
    assert sum(found.chosen.values()) == COUNT and len(found.chosen) == 2


def test_the_pipeline_finds_what_the_evaluation_measured(shop, gated):
    found = searched(Pipeline.load(gated), shop / "test.jsonl")
    qrels = {topic: {f"{'a' if topic[0] == 'p' else 'b'}{topic[1:]}": 1} for topic in found}
    assert set(retrieval_values(found, qrels, ["nDCG@10"])["nDCG@10"].values()) == {1.0}
    ungated = searched(Pipeline.load(shop / "shop.yaml"), shop / "test.jsonl")
    assert set(retrieval_values(ungated, qrels, ["nDCG@10"])["nDCG@10"].values()) == {SECOND}


def test_an_explanation_tells_the_weights_of_the_query(gated):
    pipeline = Pipeline.load(gated)
    for query, weights in (("11q please", "1 : 0"), (f"{word(1)} please", "0 : 1")):
        (stage,) = explain(pipeline, query, "a1").stages
        taken = stage.notes[0].removeprefix("the gate weights the parts ").split(" : ")
        assert (float(taken[0]) > float(taken[1])) is (weights == "1 : 0")


def test_the_card_of_a_run_names_the_queries_of_its_gate(shop, fitted, gated, tmp_path):
    store = Store(tmp_path / "store")
    run(gated, shop / "test.jsonl", None, tmp_path / "run.trec", store=store)
    card = read_run_card(tmp_path / "run.trec")
    assert card.gate_queries == fitted.gate.queries
    topics = {row["id"]: row for row in map(json.loads, (shop / "train.jsonl").read_text("utf-8").splitlines())}
    assert seen_by_run(store, card, topics) == tuple(topics)
    assert seen_by_run(store, card, {"x": {"query": "another"}}) == ()


def test_a_query_of_the_training_is_no_test_query(shop, fitted):
    with pytest.raises(UsageError, match=f"fitted on {COUNT} of the {COUNT} queries"):
        evaluate_gate(shop / "shop.yaml", fitted.path, shop / "train.jsonl", shop / "qrels.txt")


def test_a_gate_of_another_fusion_is_refused(shop, fitted):
    other = {**FUSE, "of": [FUSE["of"][0], {"bm25": {"fields": {"text": 1}, "b": 0.9}}]}
    for changed, key in (({**FUSE, "method": "rrf"}, "method"), (other, "of")):
        path = write(shop / "other.yaml", {**changed, "gate": "gate.json"})
        with pytest.raises(PipelineError, match=f"another '{key}'"):
            Pipeline.load(path)
        with pytest.raises(PipelineError, match=f"another '{key}'"):
            evaluate_gate(write(shop / "other.yaml", changed), fitted.path, shop / "test.jsonl", shop / "qrels.txt")


def test_a_gate_is_pinned_by_its_hash(shop, fitted, gated, tmp_path):
    config = read_pipeline(gated)
    (stage,) = pinned(config.stages, lambda reference: reference)
    assert len(stage.gate_sha256) == 64
    shutil.copy(shop / "documents.jsonl", tmp_path)
    (tmp_path / "gate.json").write_text(
        fitted.gate.model_copy(update={"measure": "AP"}).model_dump_json(), encoding="utf-8"
    )
    fuse = {**FUSE, "gate": "gate.json"}
    assert Pipeline.load(write(tmp_path / "p.yaml", fuse)).tag != Pipeline.load(gated).tag
    with pytest.raises(DataError, match="has changed"):
        Pipeline.load(write(tmp_path / "p.yaml", {**fuse, "gate_sha256": stage.gate_sha256}))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weights": [0.5, 0.5], "gate": "gate.json"}, "give one of the two"),
        ({"gate_sha256": "0" * 64}, "keys of a 'gate'"),
        ({"gate": "gate.json", "gate_parts": [0]}, "1 gate_parts for 2 stages"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(shop, change, named):
    with pytest.raises(PipelineError, match=named):
        read_pipeline(write(shop / "wrong.yaml", {**FUSE, **change}))


def test_a_pipeline_without_a_part_keeps_the_gate_for_the_others(gated, tmp_path):
    stages = pinned(read_pipeline(gated).stages, lambda reference: reference)
    first, _ = find_slots(stages)
    left = without(stages, first).stages
    assert left[0].gate_parts == (1,)
    documents = Pipeline.load(gated).documents
    built = build_pipeline("left", left, store=Store(tmp_path), documents=list(documents.values()))
    assert [hit["document"] for hit in built.search("10q please")["hits"]] == ["z0"]


def test_groups_and_measures_are_those_asked_for(shop, tmp_path):
    fitted = fit_gate(
        shop / "shop.yaml",
        shop / "train.jsonl",
        shop / "qrels.txt",
        tmp_path / "g.json",
        measure="MRR@10",
        cluster="family",
    )
    assert fitted.gate.measure == "MRR@10" and fitted.gate.validation["fixed"] == pytest.approx(0.75)
    with pytest.raises(UsageError, match="no topic has the field 'session'"):
        fit_gate(shop / "shop.yaml", shop / "train.jsonl", shop / "qrels.txt", tmp_path / "g.json", cluster="session")


def test_what_cannot_be_fitted_is_refused(shop, tmp_path):
    out = tmp_path / "gate.json"
    lexical = shop / "lexical.yaml"
    lexical.write_text("name: one\ncorpus: documents.jsonl\nstages:\n  - bm25: {}\n", encoding="utf-8")
    with pytest.raises(PipelineError, match="has 0 stages 'fuse'"):
        fit_gate(lexical, shop / "train.jsonl", shop / "qrels.txt", out)
    single = write(shop / "single.yaml", {**FUSE, "of": FUSE["of"][:1]})
    with pytest.raises(PipelineError, match="has 1 parts"):
        fit_gate(single, shop / "train.jsonl", shop / "qrels.txt", out)
    (tmp_path / "few.txt").write_text("p0 0 a0 1\nw0 0 b0 1\n", encoding="utf-8")
    with pytest.raises(DataError, match="too few to learn from"):
        fit_gate(shop / "shop.yaml", shop / "train.jsonl", tmp_path / "few.txt", out)
    (tmp_path / "none.txt").write_text("x 0 a0 1\n", encoding="utf-8")
    with pytest.raises(DataError, match="none of the judged topics"):
        fit_gate(shop / "shop.yaml", shop / "train.jsonl", tmp_path / "none.txt", out)
    assert not out.exists()


def judged_by(shop, folder, **lineage):
    """The judgments as those of a judge, with their card."""
    qrels = shutil.copy(shop / "qrels.txt", folder / "judged.txt")
    write_card(qrels, JudgmentsCard("llm", "2026-07-01", judge="judge@1", **lineage))
    return qrels


def test_a_judge_that_was_trained_on_the_queries_is_refused_or_marked(shop, tmp_path, cli):
    queries = (query_hash("10q please"), query_hash("11q please"))
    qrels, out = judged_by(shop, tmp_path, judge_lineage=("judge@1",), judge_queries=queries), tmp_path / "gate.json"
    train, test = shop / "train.jsonl", shop / "test.jsonl"
    with pytest.raises(UsageError, match="judge@1 was trained on 1 of the 40 topics"):
        fit_gate(shop / "shop.yaml", train, qrels, out)
    fitted = fit_gate(shop / "shop.yaml", train, qrels, out, allow_circular=True)
    assert fitted.circular == fitted.gate.origin["qrels"]["circular"] != ""
    assert fitted.gate.origin["qrels"]["source"] == "llm"
    with pytest.raises(UsageError, match="judge@1 was trained on 1 of the 40 topics"):
        evaluate_gate(shop / "shop.yaml", out, test, qrels)
    found = evaluate_gate(shop / "shop.yaml", out, test, qrels, allow_circular=True)
    assert found.comparison.circular.keys() == set(found.comparison.systems)
    asked = ("gate", "fit", shop / "shop.yaml", "--topics", train, "--qrels", qrels, "--out", out)
    assert "allow circular figures" in cli(*asked).err
    assert "circular: the judge judge@1 was trained" in cli(*asked, "--allow-circular").out
    with qrels.open("a", encoding="utf-8") as file:
        file.write("p0 0 b0 1\n")
    with pytest.raises(DataError, match="changed"):
        fit_gate(shop / "shop.yaml", train, qrels, out, allow_circular=True)


def test_stages_before_the_fusion_are_executed(shop, tmp_path):
    before = [{"bm25": {"k": 5}}, {"match": {"boost": {"title": "query"}}}]
    pipeline = write(shop / "before.yaml", FUSE, before)
    fitted = fit_gate(pipeline, shop / "train.jsonl", shop / "qrels.txt", tmp_path / "gate.json")
    assert [kind for kind, _ in fitted.gate.origin["stages"]] == ["bm25", "match", "fuse"]
    assert fitted.gate.validation["gate"] == 1.0


@pytest.mark.slow
def test_three_parts_have_66_mixes_and_a_vector(shop, encoder_base, tmp_path):
    dense = {"dense": {"model": str(encoder_base.path)}}
    pipeline = write(shop / "three.yaml", {**FUSE, "of": [*FUSE["of"], dense]})
    own = judged_by(shop, tmp_path, judge_lineage=(base_reference(str(encoder_base.path)),))
    with pytest.raises(UsageError, match="the judge judge@1 and the system share base"):
        fit_gate(pipeline, shop / "train.jsonl", own, tmp_path / "gate.json")
    fitted = fit_gate(pipeline, shop / "train.jsonl", shop / "qrels.txt", tmp_path / "gate.json")
    assert len(fitted.gate.mixes) == 66
    assert list(fitted.gate.origin["encoders"]) == [str(encoder_base.path)]
    found = evaluate_gate(pipeline, fitted.path, shop / "test.jsonl", shop / "qrels.txt")
    means = {row.system: row.value for row in found.comparison.rows}
    assert means[GATE] >= means[FIXED] and "dense alone" in means
    gated = write(shop / "three_gated.yaml", {**FUSE, "of": [*FUSE["of"], dense], "gate": str(fitted.path)})
    found = searched(Pipeline.load(gated), shop / "test.jsonl")
    qrels = {topic: {f"{'a' if topic[0] == 'p' else 'b'}{topic[1:]}": 1} for topic in found}
    values = retrieval_values(found, qrels, ["nDCG@10"])["nDCG@10"]
    assert sum(values.values()) / COUNT == pytest.approx(means[GATE])


def test_the_command_line_fits_and_evaluates(shop, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "gate.json"
    qrels = ("--qrels", shop / "qrels.txt")
    called = cli("gate", "fit", shop / "shop.yaml", "--topics", shop / "train.jsonl", *qrels, "--out", out)
    assert called.code == 0, called.err
    assert "40 queries, 11 mixes, 5 folds" in called.out and "best gate 1.0000" in called.out
    test = ("--gate", out, "--topics", shop / "test.jsonl", *qrels)
    called = cli("gate", "evaluate", shop / "shop.yaml", *test)
    assert called.code == 0, called.err
    assert ORACLE in called.out and "20 queries" in called.out
    called = cli("gate", "evaluate", shop / "shop.yaml", *test, "--json")
    assert {row["system"] for row in json.loads(called.out)["rows"]} >= {GATE, FIXED, ORACLE}
    assert sum(each["queries"] for each in json.loads(called.out)["chosen"]) == COUNT
