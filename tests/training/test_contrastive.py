"""Contrastive training: rows, batches without false negatives, adapters, full models, and resuming."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.adapters.attach import attach
from searchlora.errors import RecipeError, TrainingError
from searchlora.models.load import load_encoder
from searchlora.models.resolve import resolve
from searchlora.recipe import load_encoder_recipe
from searchlora.training.contrastive import train_encoder
from searchlora.training.duplicate_free_sampler import DuplicateFreeBatchSampler
from searchlora.training.pairs import PairRow, pair_rows, text_key
from tests.encoders import recipe_for, shout

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
    first, second = pair_rows(task, records(2))
    assert (first.anchor, first.positive, first.negatives) == ("tent tent 0", "TENT TENT 0", ())
    assert first.relevant == first.shown == {text_key("tent, TENT 0")}
    assert not first.clashes(set(second.relevant), set(second.shown))
    assert first.clashes(set(), set(first.shown)) and first.clashes(set(first.relevant), set())


def test_negatives_are_given_then_mined_then_filled(task):
    given_ = [{**records(1)[0], "negatives": ["own", "Tent tent: 0"]}, *records(4)[1:]]
    rows = pair_rows(task, given_, mined={"r0": ["mined", "more"], "r1": ["mined"]}, negatives=2)
    assert rows[0].negatives == ("own", "mined")
    assert rows[1].negatives[0] == "mined" and rows[1].negatives[1].isupper()
    for row in rows:
        assert len(row.negatives) == 2
        assert row.relevant.isdisjoint(map(text_key, row.negatives))
        assert row.shown == {text_key(row.positive), *map(text_key, row.negatives)}


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
    assert all(row.relevant == row.shown and len(row.relevant) == 1 for row in rows)
    assert pair_rows(task, labelled(12), seed=1) != rows
    alone = [*labelled(4), {**records(5)[4], "label": "tent"}]
    assert {row.anchor for row in pair_rows(task, alone)} == {"tent tent 0", "lamp tent 4"}


def test_mixed_kinds_and_too_few_rows_are_refused(task):
    with pytest.raises(TrainingError, match="some records have a label"):
        pair_rows(task, [*records(2), *labelled(2)])
    with pytest.raises(TrainingError, match="no two pairs"):
        pair_rows(task, records(1))


# batches

KEYS = st.sets(st.integers(0, 12), min_size=1, max_size=3)


@st.composite
def some_rows(draw) -> list[PairRow]:
    rows = []
    for finds in draw(st.lists(KEYS, min_size=2, max_size=60)):
        shows = {draw(st.sampled_from(sorted(finds))), *draw(st.sets(st.integers(20, 24), max_size=1))}
        text = "x" * draw(st.integers(1, 50))
        rows.append(PairRow(text, text, (), frozenset(finds), frozenset(shows)))
    return rows


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(rows=some_rows(), size=st.integers(2, 9), epoch=st.integers(0, 3))
def test_batches_contain_no_false_negatives(rows, size, epoch):
    sampler = DuplicateFreeBatchSampler(rows, range(len(rows)), size, seed=3)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    for batch in batches:
        assert len(batch) == len(set(batch)) <= size
        for one in batch:
            for other in batch:
                assert one == other or rows[one].relevant.isdisjoint(rows[other].shown)
    if epoch == 0:
        assert sum(map(len, batches)) == len({row for batch in batches for row in batch})


def test_every_compatible_row_is_in_an_epoch(task):
    rows = pair_rows(task, records(50))
    assert sorted(row for batch in DuplicateFreeBatchSampler(rows, range(50), 8, seed=0) for row in batch) == list(
        range(50)
    )


def test_batches_are_the_same_for_a_seed_and_differ_between_epochs(task):
    rows = pair_rows(task, records(64))

    def batches(seed, epoch):
        sampler = DuplicateFreeBatchSampler(rows, range(64), 8, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(0, 1) == batches(0, 1) != batches(0, 2) != batches(1, 2)


# training


def fast(base, *overrides):
    own = ("optim.batch_size=8", "optim.learning_rate=0.01", "optim.full_learning_rate=0.01", "max_tokens=24")
    return recipe_for(base, *own, *overrides)


def loss_of(model) -> float:
    """Each text among all texts in capitals, at the temperature of training."""
    texts = [record["text"] for record in records(20)]
    one, two = (model.encode(each, normalize_embeddings=True) for each in (texts, [text.upper() for text in texts]))
    scores = one @ two.T / 0.05
    return float((np.logaddexp.reduce(scores, axis=1) - scores.diagonal()).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [(), ("loss=cached_mnrl", "mini_batch_size=3"), ("matryoshka=[16,4]",), ("method=full",), ("method=qlora",)],
    ids=["mnrl", "cached", "matryoshka", "full", "qlora"],
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


@pytest.mark.slow
def test_cached_and_plain_loss_are_the_same(task, encoder_base, tmp_path):
    """GradCache is exact: without dropout one step gives the same first loss."""
    losses = []
    for loss in ("mnrl", "cached_mnrl"):
        recipe = fast(encoder_base, "optim.max_steps=1", f"loss={loss}", "mini_batch_size=3")
        base = without_dropout(encoder_base, tmp_path / loss)
        trained = train_encoder(recipe, base, pair_rows(task, records(8)), tmp_path / f"run {loss}")
        losses.append(trained.summary["final_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


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


@pytest.mark.slow
def test_a_finished_run_is_not_trained_further(task, encoder_base, tmp_path):
    rows = pair_rows(task, records(48))
    recipe = fast(encoder_base, "optim.max_steps=3", "checkpoints.every_steps=3")
    whole = train_encoder(recipe, encoder_base, rows, tmp_path / "run")
    again = train_encoder(recipe, encoder_base, rows, tmp_path / "run", resume=True)
    assert again.summary["steps"] == whole.summary["steps"] == 3
    assert again.summary["final_loss"] == whole.summary["final_loss"]


@pytest.mark.slow
def test_a_run_of_lora_fa_is_resumed_with_its_frozen_a(task, encoder_base, tmp_path):
    """The optimiser, which is made after a checkpoint is loaded, must not decide which weights a checkpoint has."""
    base = without_dropout(encoder_base, tmp_path / "base")
    rows = pair_rows(task, records(48))
    recipe = fast(base, "lora.variant=lora_fa", "optim.max_steps=4", "checkpoints.every_steps=2")
    whole = train_encoder(recipe, base, rows, tmp_path / "run")
    again = train_encoder(recipe, base, rows, tmp_path / "run", resume=True)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "checkpoint-4")
    resumed = train_encoder(recipe, base, rows, tmp_path / "run", resume=True)
    assert (again.summary["resumed_from_step"], resumed.summary["resumed_from_step"]) == (4, 2)
    trained = 3 * 2 * 4 * 16 // 2  # B of query, key and value in two layers
    assert [each.summary["parameters_trained"] for each in (whole, again, resumed)] == [trained] * 3
    models = [load_encoder(base, device="cpu") for _ in range(2)]
    for model, run in zip(models, (whole, resumed), strict=True):
        attach(model, run.adapter)
    assert np.allclose(models[0].encode(["tent"]), models[1].encode(["tent"]), atol=1e-5)


@pytest.mark.slow
def test_validation_keeps_the_best_step(task, encoder_base, tmp_path):
    losses = iter([0.5, 0.2, 0.9])
    recipe = fast(encoder_base, "optim.max_steps=3", "validation.every_steps=1")
    trained = train_encoder(
        recipe, encoder_base, pair_rows(task, records(16)), tmp_path / "run", validate=lambda _: {"loss": next(losses)}
    )
    assert trained.summary["best"] == {"step": 2, "loss": 0.2}
    assert trained.adapter.name == "best"


# recipes


def test_contradictory_recipes_are_errors(task, encoder_base, tmp_path):
    rows = pair_rows(task, records(8))
    with pytest.raises(RecipeError, match=r"unknown key 'bits'.*Known keys there: base, "):
        load_encoder_recipe({}, overrides=["bits=4"])
    with pytest.raises(RecipeError, match=r"unknown key 'negatives.number'.*per_query"):
        load_encoder_recipe({}, overrides=["negatives.number=2"])
    with pytest.raises(RecipeError, match="plus_ratio is not available for encoders"):
        load_encoder_recipe({}, overrides=["lora.plus_ratio=16"])
    with pytest.raises(RecipeError, match=r"matryoshka = \[8\] does not fit vectors of 16"):
        train_encoder(fast(encoder_base, "matryoshka=[8]"), encoder_base, rows, tmp_path / "run")
