"""Rows and batches of supervised fine-tuning."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from searchlora.errors import TrainingError
from searchlora.models.batch import collate, completion_log_probabilities
from searchlora.models.load import load_model, load_tokenizer
from searchlora.prompts import IGNORED, Example, Renderer
from searchlora.recipe import load_recipe
from searchlora.training.rows import LengthGroupedBatches, render_rows
from tests.factories import first_word, word_records


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=200),
    batch=st.integers(1, 8),
    seed=st.integers(0, 5),
)
def test_batches_are_a_permutation_fixed_by_the_seed(lengths, batch, seed):
    sampler = LengthGroupedBatches(lengths, batch, seed)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths)))
    assert list(LengthGroupedBatches(lengths, batch, seed)) == order


def test_epochs_differ_and_batches_contain_rows_of_similar_length():
    lengths = [1 + index % 40 for index in range(400)]
    sampler = LengthGroupedBatches(lengths, 8, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    spread = [
        max(lengths[row] for row in batch) - min(lengths[row] for row in batch)
        for batch in (first[start : start + 8] for start in range(0, 400, 8))
    ]
    assert max(spread) <= 3


def test_collate_aligns_completions_to_the_right():
    batch = collate([Example((5, 6, 7, 8), 3), Example((1, 2, 3), 1)], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [0, 1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 1, 2]]
    assert batch["labels"].tolist() == [[IGNORED, 8], [2, 3]]


def test_log_probabilities_equal_those_of_each_row_alone(tiny_base):
    model = load_model(tiny_base, precision="fp32")
    examples = [Example((5, 6, 7, 8, 9), 3), Example((10, 11, 12), 1), Example((7, 3, 9, 30, 31, 32), 5)]
    found = completion_log_probabilities(model, collate(examples, pad_id=0)).sum(-1)
    for example, value in zip(examples, found, strict=True):
        ids = torch.tensor([example.input_ids])
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
        wanted = sum(logs[place - 1, ids[0, place]] for place in range(example.prompt_length, ids.shape[1]))
        assert value.item() == pytest.approx(wanted.item(), abs=1e-4)


def test_an_overlong_row_is_named_or_dropped_and_counted(tiny_base, tmp_path):
    task = first_word(tmp_path)
    renderer = Renderer(load_tokenizer(tiny_base))
    records = [*word_records(3), {"id": "long", "group": "long", "text": "tent " * 100}]
    with pytest.raises(TrainingError, match=r"record long: has 5.. tokens, more than max_length = 200"):
        render_rows(task, renderer, records, load_recipe({}, overrides=["max_length=200"]))
    rows = render_rows(task, renderer, records, load_recipe({}, overrides=["max_length=200", "too_long=drop"]))
    assert (len(rows.examples), rows.dropped) == (3, ["long"])
    for found, record in zip(rows.examples, records, strict=False):
        rendered = renderer.example(task, record)
        assert (tuple(found.input_ids), found.prompt_length) == (rendered.input_ids, rendered.prompt_length)


def test_no_rows_is_an_error(tiny_base, tmp_path):
    task, renderer = first_word(tmp_path), Renderer(load_tokenizer(tiny_base))
    with pytest.raises(TrainingError, match="no row to train on"):
        render_rows(task, renderer, [], load_recipe({}))
    short = load_recipe({}, overrides=["max_length=8", "too_long=drop"])
    with pytest.raises(TrainingError, match="all 3 have more than max_length = 8"):
        render_rows(task, renderer, word_records(3), short)
