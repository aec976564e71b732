"""Encoder tasks end to end: train, evaluate against base and full model, and a dense stage with an adapter."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from searchlora.adapters.ancestry import training_queries
from searchlora.adapters.operations import export, path, verify
from searchlora.adapters.store import Store
from searchlora.adapters.transfer import pull, push
from searchlora.data.dataset import load_dataset
from searchlora.errors import BaseMismatch, DataError, NotInStore, PipelineError, UsageError
from searchlora.eval.judgments.card import read_run_card
from searchlora.eval.judgments.lineage import RunLineage
from searchlora.eval.trec import read_run
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.reports import write_evaluation
from searchlora.experiments.run import run
from searchlora.experiments.train import train
from searchlora.experiments.validation import _contrastive_loss
from searchlora.inference.settings import LocalSettings
from searchlora.records import Document
from searchlora.retrieval.encoder import Encoder
from searchlora.systems import encoder
from searchlora.systems.encoder import EncoderData, EncoderSystem, StoredEncoder
from searchlora.task import load_task
from searchlora.testing import build_tiny_encoder
from searchlora.training.pairs import PairRow, text_key
from tests.factories import edit_json, native_dataset, write_jsonl

WORDS = ("tent", "boot", "stove", "rope", "lamp", "sock", "axe", "map", "cup", "bag")


def rows(labels: bool) -> list[dict]:
    found = []
    for n in range(60):
        text = f"{WORDS[n % 10]} {WORDS[n // 10]}"
        what = {"label": WORDS[n % 3]} if labels else {"positives": [f"{text.upper()} {n}."]}
        split = "test" if n % 5 == 0 else "validation" if n % 5 == 1 else "train"
        found.append({"id": f"r{n}", "group": f"g{n}", "query": text, "split": split, **what})
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Kind -> a dataset folder."""
    folder = tmp_path_factory.mktemp("data")
    for kind, labels in (("pairs", False), ("labels", True)):
        native_dataset("embedding", folder / kind, rows(labels))
    return folder


@pytest.fixture(scope="module")
def fast(encoder_base):
    own = ("optim.batch_size=8", "optim.max_steps=4", "max_tokens=24", "validation.every_steps=2")
    rates = ("optim.learning_rate=0.01", "optim.full_learning_rate=5.0e-5")
    return (f"base={encoder_base.name}", "lora.r=4", *rates, *own)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("place") / "store")


@pytest.fixture(scope="module")
def trained(place, data, fast):
    """Train an adapter of a name on one of the datasets."""

    def call(name, *overrides, on=data / "pairs", reuse=False, **more):
        options = TrainingOptions(overrides=(*fast, *overrides), reuse=reuse)
        return train("embedding", on, name, options, store=place, **more)

    return call


@pytest.fixture(scope="module")
def stored(trained):
    return trained("finder")


@pytest.fixture(scope="module")
def full(trained):
    return trained("finder-full", "method=full")


@pytest.mark.slow
def test_contents_of_a_stored_encoder_adapter(stored, place):
    manifest = stored.manifest
    assert (manifest.task, manifest.settings, manifest.prompt_hash) == ("embedding", {}, None)
    assert {"validation loss", "validation nDCG@10"} <= manifest.metrics.keys()
    assert manifest.training["parameters_trained"] < manifest.training["parameters"]
    assert len(training_queries(place, "finder@1")) == 48
    assert {"loss.svg", "metrics.jsonl"} <= manifest.files.keys()
    assert not (place.root / ".runs" / "finder").exists()


def test_identical_training_reuses_the_stored_version(stored, trained):
    reported = []
    again = trained("finder", reuse=True, log=reported.append)
    assert again.reference == stored.reference and "Reusing" in reported[0]


@pytest.mark.slow
def test_full_fine_tuning_is_stored_as_a_model(full, stored, place, encoder_base, tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))
    assert full.is_full and "adapter_config.json" not in full.manifest.files
    assert full.weight_bytes > 10 * stored.weight_bytes
    assert full.manifest.training["parameters_trained"] == full.manifest.training["parameters"]
    verify("finder-full", store=place)
    found = Encoder.load(encoder_base.name, adapter=full)
    assert found.name == "finder-full@1"
    (vector,) = found.encode([full.manifest.golden.vectors[0].text])
    assert abs(vector - full.manifest.golden.vectors[0].vector).max() < 1e-5
    elsewhere = Encoder.load(str(path("finder-full", store=place)))
    assert (elsewhere.encode(["tent"]) == found.encode(["tent"])).all()
    export("finder-full", tmp_path / "out", store=place)
    exported = Encoder.load(str(tmp_path / "out"))
    assert (exported.encode(["tent"]) == found.encode(["tent"])).all()
    pushed = push("finder-full", str(tmp_path / "pushed"), store=place)
    pulled = pull(pushed.url, base=str(encoder_base.path), store=Store(tmp_path / "second"))
    assert pulled.unverified is None
    assert "# finder-full@1" in (full.path / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("stored")
def test_evaluation_compares_base_bm25_and_full_model(full, place, data, tmp_path):
    found = evaluate("finder", data / "pairs", compare_with=[full.reference], store=place)
    assert list(found.systems) == ["BM25", "base zero-shot", "finder-full@1", "finder@1"]
    comparison = found.comparison
    assert comparison.candidate == "finder@1"
    assert comparison.measures[0] == "nDCG@10"
    assert {row.n for row in comparison.rows if row.measure == "nDCG@10"} == {12}
    costs = comparison.costs
    assert costs["finder@1"]["parameters trained"] < costs["finder-full@1"]["parameters trained"]
    assert costs["finder@1"]["MB on disk"] < costs["finder-full@1"]["MB on disk"]
    assert "parameters trained" not in costs["base zero-shot"]
    report = write_evaluation(found, tmp_path / "report")
    assert "finder-full" in report.read_text() and (tmp_path / "report" / "runs").is_dir()


@pytest.mark.slow
def test_documents_are_encoded_once_for_the_base_and_an_adapter_of_queries_only(place, data, trained, monkeypatch):
    asker = trained("asker", "sides=query")
    encoded, encode = [], Encoder.encode_documents

    def noted(self, *given, **more):
        encoded.append(self.name)
        return encode(self, *given, **more)

    monkeypatch.setattr(Encoder, "encode_documents", noted)
    found = evaluate("asker", data / "pairs", store=place)
    assert len(encoded) == 1 and asker.reference not in encoded
    task, dataset = load_task("embedding"), load_dataset(data / "pairs")
    loaded = Encoder.load(asker.manifest.base.name, adapter=asker)
    alone = EncoderSystem("alone", EncoderData(task, dataset.documents()), lambda: loaded)
    runs = {name: system.raw.run for name, system in found.systems.items()}
    assert runs["asker@1"] == alone.run(dataset.records("test")).run != runs["base zero-shot"]
    assert len(encoded) == 2


@pytest.mark.slow
def test_only_what_other_encoders_use_is_kept_in_memory(stored, full, data):
    own = EncoderData(load_task("embedding"), load_dataset(data / "pairs").documents())
    rows, base = load_dataset(data / "pairs").records("test"), stored.manifest.base
    for adapter in (stored, full):
        system = StoredEncoder(adapter.reference, own, base.name, RunLineage(()), adapter=adapter)
        assert len(system.run(rows).run) == len(rows)
    assert own.indexes == {} and list(own.models) == [base.resolve().path]


def test_the_fingerprint_of_an_encoder_says_what_its_hits_depend_on(stored):
    task = load_task("embedding")
    documents = (Document("d1", "a tent"), Document("d2", "a boot"))
    base, lineage = stored.manifest.base, RunLineage(())

    def fingerprint(documents=documents, adapter=stored, base_fingerprint=base.fingerprint, **options):
        data = EncoderData(task, documents)
        return StoredEncoder(
            "finder", data, base.name, lineage, adapter=adapter, fingerprint=base_fingerprint, **options
        ).fingerprint

    assert fingerprint() == fingerprint()
    assert fingerprint(base_fingerprint=None) is None
    changed = [fingerprint((documents[0], Document("d2", "a boots"))), fingerprint(adapter=None)]
    assert len({fingerprint(), *changed, fingerprint(classifier="knn")}) == 4


@pytest.mark.slow
def test_classification_is_evaluated(place, data, trained, tmp_path):
    trained("sorter", "classifier=knn", on=data / "labels")
    found = evaluate("sorter", data / "labels", EvaluationOptions(cache_dir=tmp_path / "outputs"), store=place)
    assert list(found.systems) == ["commonest class", "base zero-shot", "sorter@1"]
    again = evaluate("sorter", data / "labels", EvaluationOptions(cache_dir=tmp_path / "outputs"), store=place)
    assert again.reused == ("base zero-shot", "sorter@1")
    assert again.systems["sorter@1"].outputs == found.systems["sorter@1"].outputs
    assert found.comparison.measures[0] == "macro-F1"
    assert set(found.systems["sorter@1"].outputs) <= set(WORDS[:3])
    write_evaluation(found, tmp_path / "report")


@pytest.mark.slow
def test_each_adapter_is_evaluated_with_its_own_classifier(place, data, trained, tmp_path, monkeypatch):
    for classifier in ("linear", "centroid"):
        trained(f"by-{classifier}", f"classifier={classifier}", on=data / "labels")
    used = []
    classify = encoder.classify
    monkeypatch.setattr(encoder, "classify", lambda *given: used.append(given[-1]) or classify(*given))
    options = EvaluationOptions(cache_dir=tmp_path / "outputs")
    evaluate("by-linear", data / "labels", options, compare_with=["by-centroid"], store=place)
    assert used == ["linear", "centroid", "linear"]  # of the base, the other adapter, and the candidate
    again = evaluate("by-centroid", data / "labels", options, compare_with=["by-linear"], store=place)
    assert used[3:] == ["centroid"] and set(again.reused) == {"by-linear@1", "by-centroid@1"}


@pytest.mark.usefixtures("stored")
def test_impossible_evaluations_are_errors(place, data, tmp_path):
    with pytest.raises(DataError, match="no documents and judgments"):
        native_dataset("embedding", tmp_path / "bare", rows(False))
        edit_json(tmp_path / "bare" / "dataset.json", lambda card: card.update(collection=None))
        evaluate("finder", tmp_path / "bare", store=place)
    with pytest.raises(UsageError, match="two systems are called"):
        evaluate("finder", data / "pairs", models=[tmp_path / "a" / "x", tmp_path / "b" / "x"], store=place)
    with pytest.raises(UsageError, match="an encoder has no engine"):
        evaluate("finder", data / "pairs", engine=LocalSettings(), store=place)


@pytest.mark.slow
def test_hard_negatives_are_mined_from_both(trained):
    found = trained("miner", "negatives.source=both", "negatives.margin=1.0")
    assert found.manifest.training["negatives_per_row"] == 1


def test_the_validation_loss_is_the_loss_of_training_in_one_batch():
    """By hand, over the two distinct documents: a popular document counts once, and a false negative not at all."""
    vectors = {"red": [1, 0], "crimson": [0, 1], "lamp": [3, 4], "a red tent": [2, 0], "a lamp": [0, 5]}

    class Fixed:
        def encode(self, texts):
            assert len(texts) == len(set(texts))
            return np.array([vectors[text] for text in texts], dtype=np.float32)

        encode_documents = encode

    tent, lamp = text_key("a red tent"), text_key("a lamp")
    pairs = [
        PairRow("red", "a red tent", (), frozenset({tent}), (tent,)),
        PairRow("crimson", "a red tent", (), frozenset({tent}), (tent,)),
        PairRow("lamp", "a lamp", (), frozenset({lamp, tent}), (lamp,)),
    ]
    by_hand = [math.log(1 + math.exp((0 - 1) / 0.5)), math.log(1 + math.exp((1 - 0) / 0.5)), 0.0]
    assert _contrastive_loss(Fixed(), pairs, 0.5) == pytest.approx(sum(by_hand) / 3)


@pytest.mark.slow
def test_validation_rows_without_pairs_are_accepted(trained, tmp_path):
    kept = [row for row in rows(labels=True) if row["split"] != "validation" or row["id"] == "r1"]
    found = trained("alone", on=native_dataset("embedding", tmp_path / "data", kept))
    assert found.manifest.metrics == {} and found.manifest.training["best"] is None


@pytest.mark.slow
@pytest.mark.usefixtures("stored")
def test_train_and_evaluate_from_the_command_line(cli, place, data, fast, tmp_path):
    how = [part for override in fast for part in ("--set", override)]
    where = ("--data", data / "pairs", "--store", place.root)
    reported = cli("train", "embedding", "--name", "typed-full", *where, *how, "--set", "method=full")
    assert "Stored typed-full@1" in reported.out
    assert "Training all weights" in reported.out
    assert re.search(r"\d+ training rows, \d+ (step|epoch)s?\. The (\d+ groups of the)? ?test split", reported.out)
    model = cli("adapters", "path", "typed-full", "--store", place.root).out.strip()
    reported = cli("evaluate", "finder", *where, "--compare-with-encoder", model, "--out", tmp_path / "report")
    assert reported.code == 0 and "typed-full-1" in reported.out


# a dense stage


@pytest.fixture
def files(tmp_path):
    write_jsonl(tmp_path / "q.jsonl", [{"id": "q1", "query": "tent boot"}, {"id": "q2", "query": "lamp"}])
    texts = ["TENT BOOT 1.", "LAMP 2.", "a rope", "MAP 3."]
    write_jsonl(tmp_path / "c.jsonl", [{"id": f"d{n}", "text": text} for n, text in enumerate(texts)])
    return tmp_path


def searched(files, place, stage: str):
    out = files / "run.trec"
    (files / "p.yaml").write_text(f"name: p\nstages:\n  - {stage}\n")
    tag, _ = run(files / "p.yaml", files / "q.jsonl", files / "c.jsonl", out, store=place)
    return tag, read_run(out), read_run_card(out)


@pytest.mark.usefixtures("stored")
def test_a_dense_stage_applies_the_named_adapter(place, files, encoder_base):
    place.alias("finder", "production", 1)
    named = f"model: {encoder_base.name}, adapter: finder@production"
    tag, found, card = searched(files, place, f"dense: {{{named}, k: 3}}")
    assert "finder@1" in tag and "production" not in tag
    assert (card.adapters, card.bases) == (("finder@1",), ("encoder",))
    assert card.lineage == ("finder@1",)
    _, plain, bare = searched(files, place, f"dense: {{model: {encoder_base.name}, k: 3}}")
    assert found != plain
    assert (bare.adapters, bare.lineage) == ((), ("base encoder",))
    tag, _, fused = searched(files, place, f"fuse: {{of: [{{bm25: {{}}}}, {{dense: {{{named}}}}}]}}")
    assert fused.adapters == ("finder@1",) and "finder@1" in tag


@pytest.mark.usefixtures("stored")
def test_a_dense_stage_refuses_an_incompatible_adapter(place, files, encoder_base, tmp_path):
    with pytest.raises(NotInStore):
        searched(files, place, f"dense: {{model: {encoder_base.name}, adapter: nobody}}")
    other = build_tiny_encoder(tmp_path / "other", seed=4)
    with pytest.raises(BaseMismatch, match="finder@1"):
        searched(files, place, f"dense: {{model: {other}, adapter: finder}}")
    with pytest.raises(PipelineError, match="has no prompt"):
        searched(files, place, "adapter: {name: finder}\n  - bm25: {}")
