"""Adapters of the query side only: the loss, the vectors of documents, and what such a recipe excludes."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest
import torch

from searchlora.adapters.operations import verify
from searchlora.adapters.peft_folder import read_weights
from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.errors import RecipeError
from searchlora.experiments.encoder_train import EncoderJob
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.train import train
from searchlora.models.load import load_encoder
from searchlora.recipe import QuerySide, load_encoder_recipe
from searchlora.records import Document
from searchlora.retrieval.dense import DenseIndex
from searchlora.retrieval.encoder import Encoder
from searchlora.task import load_task
from searchlora.training import contrastive_losses
from searchlora.training.contrastive_losses import FrozenDocumentsLoss
from searchlora.training.pairs import made_rows, one_relevance, text_key, title_rows
from tests.experiments.test_encoders import rows
from tests.server.api.serving import made_service, served
from tests.training.test_contrastive import pair

FAST = ("optim.batch_size=8", "optim.max_steps=60", "max_tokens=24", "validation.every_steps=60", "lora.r=8")


@pytest.fixture(scope="module")
def place(tmp_path_factory, encoder_base):
    """A store with `asker@1`, an adapter of the query side, and the dataset that it was trained on."""
    root = tmp_path_factory.mktemp("query-side")
    for kind, labels in (("pairs", False), ("labels", True)):
        source = root / f"{kind}.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows(labels)), encoding="utf-8")
        build("embedding", source, format="native", out=root / kind)
    store = Store(root / "store")
    overrides = (f"base={encoder_base.path}", *FAST, "sides=query", "optim.learning_rate=0.02")
    train("embedding", root / "pairs", "asker", TrainingOptions(overrides=overrides), store=store)
    return store


def test_the_loss_is_over_all_documents_without_other_positives(encoder_base):
    made = [pair("tent", "A tent.", "A boot.", relevant=("Two tents.",)), pair("tents", "Two tents.", "A rope.")]
    model = load_encoder(encoder_base, device="cpu")
    loss = FrozenDocumentsLoss(model, Encoder(model, "base").encode, made, temperature=0.1)
    found = float(loss([model.preprocess(["tent", "tents"])], torch.tensor([0, 1])))
    encoder = Encoder(model, "base")
    texts = ["A tent.", "A boot.", "Two tents.", "A rope."]
    vectors = {text: vector / np.linalg.norm(vector) for text, vector in zip(texts, encoder.encode(texts), strict=True)}
    expected = []
    for row, candidates in zip(made, (["A tent.", "A boot.", "A rope."], texts), strict=True):
        query = encoder.encode([row.anchor])[0]
        scores = np.array([vectors[text] @ query / np.linalg.norm(query) / 0.1 for text in candidates])
        expected.append(np.logaddexp.reduce(scores) - scores[candidates.index(row.positive)])
    assert found == pytest.approx(np.mean(expected), rel=1e-4)


def test_a_teacher_adds_the_cross_entropy_to_its_probabilities_of_all_documents(encoder_base):
    made = [pair("tent", "A tent.", relevant=("Two tents.",)), pair("tents", "Two tents."), pair("tent", "A rope.")]
    model = load_encoder(encoder_base, device="cpu")
    encoder = Encoder(model, "base")
    taught = (
        {"tent": [3.0, 0.0], "tents": [0.0, 1.0]},
        {"A tent.": [1.0, 1.0], "Two tents.": [0.0, 2.0], "A rope.": [1, 0]},
    )

    def teach(queries, documents):
        assert list(queries) == ["tent", "tents"] and list(documents) == ["A tent.", "Two tents.", "A rope."]
        return tuple(
            np.array([by[text] for text in texts], np.float32)
            for by, texts in zip(taught, (queries, documents), strict=True)
        )

    features, rows_of_batch = model.preprocess(["tents", "tent"]), torch.tensor([1, 2])
    plain, distilled = (
        float(FrozenDocumentsLoss(model, encoder.encode, made, 0.1, given, 0.5)([dict(features)], rows_of_batch))
        for given in (None, teach)
    )
    unit = lambda vectors: np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)  # noqa: E731
    scores = (
        unit(encoder.encode(["tents", "tent"])) @ unit(encoder.encode(["A tent.", "Two tents.", "A rope."])).T / 0.1
    )
    of_teacher = np.exp(unit([taught[0]["tents"], taught[0]["tent"]]) @ unit([*taught[1].values()]).T / 0.1)
    shares = of_teacher / of_teacher.sum(axis=1, keepdims=True)
    expected = -(shares * (scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))).sum(axis=1).mean()
    assert distilled - plain == pytest.approx(0.5 * expected, rel=1e-4)


def test_the_title_of_a_document_is_a_query_for_it_and_for_others_of_that_title():
    documents = [Document("1", "A king.", "Lear"), Document("2", "A play.", "LEAR!"), Document("3", "A ship.")]
    first, second = title_rows(documents)
    assert (first.anchor, first.positive) == ("Lear", "Lear A king.") and first.negatives == ()
    assert first.relevant == second.relevant == {text_key("Lear A king."), text_key("LEAR! A play.")}
    assert first.shown == (text_key("Lear A king."),)
    merged = one_relevance([pair("lear", "A third."), pair("ship", "A ship."), first])
    assert merged[0].relevant == merged[2].relevant == first.relevant | {text_key("A third.")}
    assert merged[1].relevant == {text_key("A ship.")}


def test_a_query_is_made_of_a_title_and_words_that_stand_together():
    text = "alpha beta gamma delta epsilon zeta eta theta"
    documents = [Document(str(number), text, "The Ship") for number in range(200)]
    made = made_rows(documents, "1")
    alone = [row.anchor for row in made if not row.anchor.startswith("the ship ")]
    beside = [row.anchor.removeprefix("the ship ") for row in made if row.anchor.startswith("the ship ")]
    assert all(words in text for words in (*alone, *beside))
    assert {len(words.split()) for words in beside} == {1, 2, 3} and {len(words.split()) for words in alone} == {6}
    assert 20 < len(alone) < 60
    assert {row.relevant for row in made} == {frozenset({text_key(f"The Ship {text}")})}
    assert [row.anchor for row in made_rows(documents, "2")] != [row.anchor for row in made]
    (short,) = made_rows([Document("1", "A king."), Document("2", "")], "1")
    assert (short.anchor, short.positive) == ("a king", "A king.")


@pytest.mark.slow
def test_the_query_side_learns_from_titles_and_from_an_adapter_of_both_sides(place, encoder_base):
    data = place.root.parent / "titled"
    source, corpus = place.root.parent / "titled.jsonl", place.root.parent / "documents.jsonl"
    made = [{**row, "title": row["query"]} for row in rows(False)]
    untitled = sum(row["split"] in ("validation", "test") for row in made)  # their queries are held out
    source.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    texts = [{"id": row["id"], "title": row["query"], "text": row["positives"][0]} for row in made]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    qrels = source.with_name("qrels.txt")
    qrels.write_text("".join(f"{row['id']} 0 {row['id']} 1\n" for row in made), encoding="utf-8")
    build("embedding", source, format="native", out=data, corpus=corpus, qrels=qrels)
    base = f"base={encoder_base.path}"
    train("embedding", data, "both", TrainingOptions(overrides=(base, *FAST, "optim.max_steps=4")), store=place)
    taught = ("sides=query", "query_side.teacher=both", "query_side.titles=2", "query_side.made=0", "optim.max_steps=4")
    stored = train("embedding", data, "taught", TrainingOptions(overrides=(base, *FAST, *taught)), store=place)
    assert stored.manifest.recipe["query_side"] == {"teacher": "both@1", "weight": 1.0, "titles": 2, "made": 0}
    assert stored.manifest.parents == ["both@1"]
    name, tensor = max(read_weights(stored.path).items(), key=lambda item: item[1].abs().max())
    assert stored.manifest.training["rows"] == 36 + 2 * (60 - untitled) and untitled == 24
    words = ("sides=query", "query_side.titles=0", "query_side.made=2", "optim.max_steps=4")
    made = train("embedding", data, "made", TrainingOptions(overrides=(base, *FAST, *words)), store=place)
    assert made.manifest.training["rows"] == 36 + 2 * 60
    usual = train("embedding", data, "usual", TrainingOptions((base, *FAST, "sides=query")), store=place)
    assert usual.manifest.training["rows"] in range(36 + 36 + 1, 36 + 2 * 36)  # of 36 of 60 documents; titles held out
    alone = [*taught[:1], *taught[2:]]
    other = train("embedding", data, "alone", TrainingOptions(overrides=(base, *FAST, *alone)), store=place)
    assert other.manifest.parents == []
    assert abs(read_weights(other.path)[name] - tensor).max() > 1e-6
    again = TrainingOptions(overrides=(base, *FAST, *taught), reuse=True)
    assert train("embedding", data, "taught", again, store=place).reference == "taught@1"
    with pytest.raises(RecipeError, match=r"query_side\.titles needs documents with titles"):
        train("embedding", place.root.parent / "pairs", "untitled", again, store=place)
    with pytest.raises(RecipeError, match="query_side needs sides = query"):
        load_encoder_recipe({}, overrides=["query_side.titles=1"])
    with pytest.raises(RecipeError, match="asker@1 encodes queries only, so it teaches nothing about documents"):
        options = TrainingOptions(overrides=(base, *FAST, "sides=query", "query_side.teacher=asker"))
        train("embedding", data, "other", options, store=place)


def test_of_many_documents_a_random_part_and_the_positives_are_compared(encoder_base, monkeypatch):
    monkeypatch.setattr(contrastive_losses, "MAX_DOCUMENTS", 8)
    made = [pair(f"word {n}", f"text {n}") for n in range(64)]
    model = load_encoder(encoder_base, device="cpu")
    loss = FrozenDocumentsLoss(model, Encoder(model, "base").encode, made, temperature=0.1)
    features = model.preprocess([row.anchor for row in made[:4]])
    torch.manual_seed(1)
    found = [float(loss([dict(features)], torch.arange(4))) for _ in range(2)]
    assert found[0] != found[1] and all(map(np.isfinite, found))


@pytest.mark.slow
def test_documents_are_encoded_by_the_base_and_queries_with_the_adapter(place, encoder_base):
    verify("asker", base=str(encoder_base.path), store=place)
    stored = place.get("asker")
    assert stored.manifest.query_side_only and stored.manifest.recipe["sides"] == "query"
    plain, adapted = (Encoder.load(str(encoder_base.path), adapter=adapter) for adapter in (None, stored))
    texts = ["tent boot", "rope"]
    assert (adapted.encode_documents(texts) == plain.encode(texts)).all()
    assert abs(adapted.encode(texts) - plain.encode(texts)).max() > 1e-3
    documents = [Document("1", "tent boot"), Document("2", "rope")]
    indices = [DenseIndex(documents, encoder).vectors for encoder in (plain, adapted)]
    assert (indices[0] == indices[1]).all()


@pytest.mark.slow
def test_training_improves_retrieval_from_the_old_index(place):
    found = evaluate("asker", place.root.parent / "pairs", EvaluationOptions(split="train"), store=place)
    value = {row.system: row.value for row in found.comparison.rows if row.measure == "MRR@10"}
    assert value["asker@1"] > value["base zero-shot"]


@pytest.mark.slow
def test_labels_and_other_losses_are_refused(place, encoder_base):
    overrides = (f"base={encoder_base.path}", *FAST, "sides=query")
    with pytest.raises(RecipeError, match="texts with labels have no documents"):
        train("embedding", place.root.parent / "labels", "other", TrainingOptions(overrides=overrides), store=place)
    with pytest.raises(RecipeError, match="sides = query needs"):
        load_encoder_recipe({}, overrides=["sides=query", "method=full"])


@pytest.mark.slow
def test_a_server_encodes_documents_with_the_base(place, tiny_base, encoder_base):
    with (
        served(made_service(tiny_base, place, encoder_base)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):

        def vector(model, **more):
            answer = client.post("/v1/embeddings", json={"model": model, "input": "tent", **more})
            assert answer.status_code == 200, answer.text
            return np.array(answer.json()["data"][0]["embedding"])

        base = vector(encoder_base.path.name)
        assert (vector("asker", input_type="document") == base).all()
        assert abs(vector("asker") - base).max() > 1e-3
        assert (vector("asker", input_type="query") == vector("asker")).all()


def test_an_adapter_from_before_titles_had_a_default_was_trained_without_them(place, encoder_base):
    settings = (f"base={encoder_base.path}", *FAST, "sides=query", "query_side.titles=0", "query_side.made=0")
    recipe = load_encoder_recipe(load_task("embedding").default_recipe, overrides=settings)
    data = load_dataset(place.root.parent / "pairs")
    job = EncoderJob(load_task("embedding"), recipe, data, encoder_base, rebuild=lambda _: job, store=place)
    older = {key: value for key, value in recipe.model_dump().items() if key != "query_side"}
    assert job._read(older) == recipe
    assert load_encoder_recipe({**recipe.model_dump(), "sides": "both"}).sides == "both"
    for both in ({**older, "sides": "both"}, {**recipe.model_dump(), "sides": "both"}):
        assert job._read(both).query_side == QuerySide()
