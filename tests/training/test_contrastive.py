"""Contrastive training: rows, batches, masked false negatives, adapters, full models, and resuming."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.adapters.attach import attach
from searchlora.errors import RecipeError, TrainingError
from searchlora.models.load import load_encoder
from searchlora.models.resolve import resolve
from searchlora.recipe import load_encoder_recipe
from searchlora.training.contrastive import train_encoder
from searchlora.training.contrastive_losses import in_batch_loss
from searchlora.training.pair_batches import PairBatchSampler, PairCollator, documents_of
from searchlora.training.pairs import PairRow, pair_rows, text_key
from tests.factories import encoder_recipe_for, shout

WORDS = ("tent", "boot", "stove", "rope", "lamp", "sock", "axe", "map")


@pytest.fixture
def task(tmp_path):
    return shout(tmp_path / "task")


def records(count: int, **more) -> list[dict]:
    texts = [f"{WORDS[n % 8]} {WORDS[n // 8 % 8]} {n}" for n in range(count)]
    return [{"id": f"r{n}", "group": f"g{n}", "text": text, **more} for n, text in enumerate(texts)]


def labelled(count: int) -> list[dict]:
    return [{**record, "label": WORDS[n % 4]} for n, record in enumerate(records(count))]


# rows


def test_each_positive_becomes_a_row(task):
    first, _ = pair_rows(task, records(2))
    assert (first.anchor, first.positive, first.negatives) == ("tent tent 0", "TENT TENT 0", ())
    assert (first.relevant, first.shown) == ({text_key("tent, TENT 0")}, (text_key("tent, TENT 0"),))


def test_negatives_are_given_then_mined_then_filled(task):
    given_ = [{**records(1)[0], "negatives": ["own", "Tent tent: 0"]}, *records(4)[1:]]
    rows = pair_rows(task, given_, mined={"r0": ["mined", "more"], "r1": ["mined"]}, negatives=2)
    assert rows[0].negatives == ("own", "mined")
    assert rows[1].negatives[0] == "mined" and rows[1].negatives[1].isupper()
    for row in rows:
        assert len(row.negatives) == 2
        assert row.relevant.isdisjoint(map(text_key, row.negatives))
        assert row.shown == (text_key(row.positive), *map(text_key, row.negatives))


def test_no_negative_column_without_negatives(task):
    assert {row.negatives for row in pair_rows(task, records(3), negatives=2)} == {()}


def test_too_few_texts_for_filling_is_an_error(task):
    with pytest.raises(TrainingError, match=r"no 5 negatives for a query.*negatives\.per_query"):
        pair_rows(task, records(3), mined={"r0": ["x"]}, negatives=5)


def test_a_labelled_text_is_paired_with_another_of_its_label(task):
    rows = pair_rows(task, labelled(12))
    of = {record["text"]: record["label"] for record in labelled(12)}
    assert len(rows) == 12
    assert all(of[row.anchor] == of[row.positive] and row.anchor != row.positive for row in rows)
    assert all(row.relevant == {*row.shown} and len(row.shown) == 1 for row in rows)
    assert pair_rows(task, labelled(12), seed=1) != rows
    alone = [*labelled(4), {**records(5)[4], "label": "tent"}]
    assert {row.anchor for row in pair_rows(task, alone)} == {"tent tent 0", "lamp tent 4"}


def test_mixed_kinds_and_too_few_rows_are_refused(task):
    with pytest.raises(TrainingError, match="some records have a label"):
        pair_rows(task, [*records(2), *labelled(2)])
    with pytest.raises(TrainingError, match="no two pairs"):
        pair_rows(task, records(1))


# batches


def pair(anchor: str, positive: str, *negatives: str, relevant=()) -> PairRow:
    keys = frozenset(map(text_key, (positive, *relevant)))
    return PairRow(anchor, positive, negatives, keys, tuple(map(text_key, (positive, *negatives))))


def batches(rows, size, *, seed=3, epoch=0, **options) -> list[list[int]]:
    sampler = PairBatchSampler(rows, range(len(rows)), size, seed, **options)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


@pytest.mark.parametrize("by_length", [True, False])
@pytest.mark.parametrize("count", [50, 49, 2, 1])
def test_every_row_is_in_one_batch_of_an_epoch(count, by_length):
    rows = [pair(f"{n}", "x" * (n % 7 + 1)) for n in range(count)]
    found = batches(rows, 8, by_length=by_length)
    assert sorted(row for batch in found for row in batch) == list(range(count))
    sizes = {50: [8] * 6 + [2], 49: [9] + [8] * 5}  # one row alone would have no negative
    assert sorted(map(len, found), reverse=True) == sizes.get(count, [count])


def test_batches_are_the_same_for_a_seed_and_differ_between_epochs():
    rows = [pair(f"{n}", f"text {n}") for n in range(64)]
    one, again, next_, other = (batches(rows, 8, seed=seed, epoch=n) for seed, n in ((0, 1), (0, 1), (0, 2), (1, 2)))
    assert one == again != next_ != other


def test_rows_with_one_document_share_a_batch_and_the_document_is_tokenised_once(encoder_base):
    rows = [pair(f"query {n}", f"{WORDS[n % 8]} thing") for n in range(64)]
    assert all(len({rows[row].positive for row in batch}) <= 2 for batch in batches(rows, 8))
    model = load_encoder(encoder_base, device="cpu")
    chosen = [0, 8, 1, 16]
    features = [{"anchor": rows[row].anchor, "label": row} for row in chosen]
    batch = PairCollator(model.preprocess, rows=rows)(features)
    assert batch["label"].tolist() == chosen
    assert [len(batch[f"{column}_input_ids"]) for column in ("anchor", "document")] == [4, 2]
    expected = model.preprocess(list(documents_of(rows[row] for row in chosen)))["input_ids"]
    assert (batch["document_input_ids"] == expected).all()


# loss


def vectors(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32))


def by_hand(queries, documents, rows, temperature) -> float:
    """Each row's positive against the documents of the batch that are not known to be relevant to its query."""
    losses = []
    texts = list(documents_of(rows))
    for row, query in zip(rows, queries, strict=True):
        scores = {
            text: float(torch.nn.functional.cosine_similarity(query, vector, dim=0)) / temperature
            for text, vector in zip(texts, documents, strict=True)
        }
        known = {text for other in rows for text, key in documents_of([other]).items() if key in row.relevant}
        candidates = [scores[text] for text in texts if text == row.positive or text not in known]
        losses.append(np.logaddexp.reduce(candidates) - scores[row.positive])
    return float(np.mean(losses))


@pytest.mark.parametrize(
    "rows",
    [
        [pair("tent", "A tent."), pair("tents", "A tent."), pair("boot", "A boot.")],
        [pair("tent", "A tent.", relevant=("Two tents!",)), pair("tents", "two tents"), pair("boot", "A boot.")],
        [pair("tent", "A tent.", "A boot.", "A rope."), pair("boot", "A boot.", "A tent.", "A rope.")],
        [PairRow(f"{n}", f"other {n}", (), frozenset([n % 2]), (n % 2,), labelled=True) for n in range(6)],
    ],
    ids=["one document", "other positive", "hard negatives", "labels"],
)
def test_false_negatives_are_masked(rows):
    queries, documents = vectors(len(rows), 1), vectors(len(documents_of(rows)), 2)
    found = in_batch_loss(queries, documents, rows, 0.1)
    assert float(found) == pytest.approx(by_hand(queries, documents, rows, 0.1), rel=1e-5)


def test_without_false_negatives_the_loss_is_that_of_sentence_transformers():
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    rows = [pair(f"{n}", f"text {n}") for n in range(8)]
    queries, documents = vectors(8, 1), vectors(8, 2)
    expected = MultipleNegativesRankingLoss(None, scale=20).compute_loss_from_embeddings([queries, documents], None)
    assert float(in_batch_loss(queries, documents, rows, 0.05)) == pytest.approx(float(expected), rel=1e-5)


@settings(max_examples=100, deadline=None)
@given(keys=st.lists(st.sets(st.integers(0, 6), min_size=1, max_size=3), min_size=1, max_size=12))
def test_a_loss_with_any_masks_is_finite_and_not_negative(keys):
    rows = [PairRow(f"{n}", f"text {min(key)}", (), frozenset(key), (min(key),)) for n, key in enumerate(keys)]
    queries, documents = vectors(len(rows), 1), vectors(len(documents_of(rows)), 2)
    found = float(in_batch_loss(queries, documents, rows, 0.1))
    assert np.isfinite(found) and found >= -1e-6
    assert found == pytest.approx(by_hand(queries, documents, rows, 0.1), rel=1e-4, abs=1e-5)


# training


def fast(base, *overrides):
    own = ("optim.batch_size=8", "optim.learning_rate=0.01", "optim.full_learning_rate=0.01", "max_tokens=24")
    return encoder_recipe_for(base, *own, *overrides)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "key"), [("lora", "optim.learning_rate"), ("full", "optim.full_learning_rate")])
def test_a_loss_that_is_not_finite_names_the_learning_rate_in_force(method, key, task, encoder_base, tmp_path):
    recipe = fast(encoder_base, f"method={method}", f"{key}=1e38", "optim.schedule=constant", "optim.epochs=4")
    with pytest.raises(TrainingError, match=rf"Lower {key} or optim\.max_grad_norm, and use --restart"):
        train_encoder(recipe, encoder_base, pair_rows(task, records(20)), tmp_path / "run")


def loss_of(model) -> float:
    """Each text among all texts in capitals, at the temperature of training."""
    texts = [record["text"] for record in records(20)]
    one, two = (model.encode(each, normalize_embeddings=True) for each in (texts, [text.upper() for text in texts]))
    scores = one @ two.T / 0.05
    return float((np.logaddexp.reduce(scores, axis=1) - scores.diagonal()).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("method=full",),
        ("method=qlora",),
    ],
    ids=["lora", "full", "qlora"],
)
def test_training_reduces_the_loss_and_saves_the_trained_weights(overrides, task, encoder_base, tmp_path):
    base = without_dropout(encoder_base, tmp_path / "base")
    recipe = fast(base, "optim.max_steps=20", *overrides)
    trained = train_encoder(recipe, base, pair_rows(task, records(20)), tmp_path / "run")
    before = load_encoder(encoder_base, device="cpu")
    if recipe.is_full:
        after = load_encoder(resolve(str(trained.adapter)), device="cpu")
        assert after.max_seq_length == before.max_seq_length
    else:
        after = load_encoder(encoder_base, device="cpu")
        attach(after, trained.adapter)
    assert loss_of(after) < 0.8 * loss_of(before)
    summary = trained.summary
    everything = sum(parameter.numel() for parameter in before.parameters())
    assert summary["parameters"] == everything
    assert summary["parameters_trained"] == (everything if recipe.is_full else 3 * 2 * 4 * 16)
    assert (summary["steps"], summary["rows"], summary["negatives_per_row"]) == (20, 20, 0)
    assert summary["peak_memory_gb"] > 0.1 and summary["tokens"] > 0
    assert "<svg" in (tmp_path / "run" / "loss.svg").read_text()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert not list((tmp_path / "run").rglob("README.md"))  # no model card


def without_dropout(base, folder):
    shutil.copytree(base.path, folder)
    file = folder / "config.json"
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    file.write_text(json.dumps({**json.loads(file.read_text()), **off}))
    return resolve(str(folder))


@pytest.mark.slow
def test_hard_negatives_are_trained_on(task, encoder_base, tmp_path):
    rows = pair_rows(task, records(8), mined={f"r{n}": ["a thing"] for n in range(8)})
    trained = train_encoder(fast(encoder_base, "optim.max_steps=1"), encoder_base, rows, tmp_path / "run")
    assert trained.summary["negatives_per_row"] == 1


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(task, encoder_base, tmp_path):
    base = without_dropout(encoder_base, tmp_path / "base")
    rows = pair_rows(task, records(48))
    recipe = fast(base, "optim.max_steps=6", "checkpoints.every_steps=3")
    whole = train_encoder(recipe, base, rows, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(step, _total, _told=""):
        if step == 5:
            raise Stop

    with pytest.raises(Stop):
        train_encoder(recipe, base, rows, tmp_path / "stopped", progress=stop)
    resumed = train_encoder(recipe, base, rows, tmp_path / "stopped", resume=True)
    assert resumed.summary["resumed_from_step"] == 3
    for kind in ("safetensors", "pt", "pth"):
        assert not list((tmp_path / "stopped" / "checkpoints").rglob(f"model.{kind}"))
    models = [load_encoder(base, device="cpu") for _ in range(2)]
    for model, run in zip(models, (whole, resumed), strict=True):
        attach(model, run.adapter)
    assert np.allclose(models[0].encode(["tent"]), models[1].encode(["tent"]), atol=1e-5)


# recipes


def test_unknown_keys_are_errors():
    with pytest.raises(RecipeError, match=r"unknown key 'bits'.*Known keys there: base, "):
        load_encoder_recipe({}, overrides=["bits=4"])
    with pytest.raises(RecipeError, match=r"unknown key 'negatives.number'.*per_query"):
        load_encoder_recipe({}, overrides=["negatives.number=2"])
