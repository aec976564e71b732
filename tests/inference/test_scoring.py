"""Scoring through a tree gives what scoring each answer with its whole prompt gives."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.adapters.store import Store
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.packed import packs, score_trees
from searchlora.inference.scoring import score_whole
from searchlora.inference.tree import Search, tree
from tests.made import made_adapter
from tests.words import first_word

ADAPTERS = (None, "one@1", "two@1")
LABELS = [
    "card",
    "card_arrival",
    "card_arrival_late",
    "c",
    "lost",
    "lost_card",
    "x",
    "a label as long as a sentence is",
]

#: Token ids as answers: prefixes of others, single tokens, equal ones and one long one come up by themselves.
ANSWERS = st.lists(
    st.lists(st.integers(3, 6), min_size=0, max_size=9).map(lambda ids: [*ids, 2]), min_size=1, max_size=12
)
PROMPTS = st.lists(st.integers(3, 250), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def store(tiny_base, tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("scoring")
    store = Store(folder / "store")
    for seed, name in enumerate(("one", "two")):
        made_adapter(store, name, first_word(folder / "task"), tiny_base, folder / name, seed)
    return store


@pytest.fixture(scope="module")
def engine(tiny_base, store) -> LocalEngine:
    return LocalEngine(tiny_base, store, precision="fp32", batch_rows=4)


@pytest.fixture(scope="module")
def sharp(tiny_base, store) -> LocalEngine:
    """An engine whose base is as sure of the next token as a trained one; random weights find all equally likely."""
    engine = LocalEngine(tiny_base, store, precision="fp32")
    engine._model.get_output_embeddings().weight.mul_(30)
    return engine


@pytest.fixture(scope="module")
def model(sharp):
    """A sharp base with an adapter on."""
    with sharp._active("one@1"):
        pass
    return sharp._model


def one_batch(lengths):
    yield list(lengths)


def whole(model, prompts, answers):
    """The reference: every answer with its whole prompt before it."""
    found = {}
    for part in score_whole(model, range(len(prompts)), prompts, answers, pad_id=0, batches=one_batch):
        found.update(part)
    return [found[row].log_probabilities for row in range(len(prompts))]


def asked(text: str, adapter: str | None) -> Request:
    return Request(({"role": "user", "content": text},), adapter)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(PROMPTS, ANSWERS), min_size=1, max_size=4))
def test_a_tree_scores_as_the_whole_does(model, rows):
    import torch

    prompts, answers = [list(row) for row in zip(*rows, strict=True)]
    with torch.inference_mode():
        scored = score_trees(model, prompts, [tree(each) for each in answers], 0, None)
        for found, wanted in zip(scored, whole(model, prompts, answers), strict=True):
            assert found.log_probabilities == pytest.approx(wanted, abs=5e-3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(PROMPTS, ANSWERS), min_size=1, max_size=4), st.floats(0, 12))
def test_within_keeps_the_winner_and_bounds_the_rest(model, rows, within):
    import torch

    prompts, answers = [list(row) for row in zip(*rows, strict=True)]
    small, Search.SMALL = Search.SMALL, 0
    try:
        with torch.inference_mode():
            scored = score_trees(model, prompts, [tree(each) for each in answers], 0, within)
            exact = whole(model, prompts, answers)
    finally:
        Search.SMALL = small
    for found, wanted in zip(scored, exact, strict=True):
        best = max(wanted)
        assert max(found.log_probabilities) == pytest.approx(best, abs=5e-3)
        for bound, value in zip(found.log_probabilities, wanted, strict=True):
            assert bound >= value - 5e-3
            assert bound == pytest.approx(value, abs=5e-3) or bound < best - within + 5e-3
        off = np.abs(softmax(found.log_probabilities) - softmax(wanted)).max()
        assert off <= len(wanted) * math.exp(-within) + 5e-3


def softmax(scores):
    weights = np.exp(np.array(scores) - max(scores))
    return weights / weights.sum()


@pytest.mark.parametrize("within", [None, 12.0])
@pytest.mark.parametrize(("precision", "off"), [("fp32", 1e-3), ("bf16", 0.15)])
def test_an_engine_scores_as_the_whole_does_with_adapters_mixed(tiny_base, store, precision, off, within):
    import torch

    engine = LocalEngine(tiny_base, store, precision=precision, batch_rows=3)
    requests = [asked("where is my card " + "now " * n, ADAPTERS[n % 3]) for n in range(7)]
    choices = [LABELS[: 2 + n] for n in range(7)]
    scored = engine.score(requests, choices, within=within)
    for request, texts, found in zip(requests, choices, scored, strict=True):
        answers = [engine.renderer.completion_ids(text) for text in texts]
        with torch.inference_mode(), engine._active(request.adapter):
            (wanted,) = whole(engine._model, [engine.renderer.prompt_ids(request.messages)], [answers])
        bound = [score if within is None else max(score, max(wanted) - within) for score in wanted]
        capped = [score if within is None else max(score, max(wanted) - within) for score in found.log_probabilities]
        assert capped == pytest.approx(bound, abs=off)


def test_what_choices_share_is_computed_once(engine):
    (found,) = engine.score([asked("tent", "one@1")], [["card", "cargo"]])
    assert found.scored_tokens == len("card") + 1 + len("go") + 1  # a byte is a token here, and each has its end
    assert found.prompt_tokens == len(engine.renderer.prompt_ids(asked("tent", None).messages))
    (alone,) = engine.score([asked("tent", "one@1")], [["card"]])
    assert (alone.scored_tokens, alone.prompt_tokens) == (len("card") + 1, found.prompt_tokens)
    assert engine.score([asked("tent", None)], [[]])[0].log_probabilities == ()


def liked(model, prompt, tokens=6):
    """What the model itself would go on with."""
    import torch

    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_within_leaves_out_what_is_far_behind(model):
    import torch

    prompts = [[5, 6, 7, 8], [100, 90, 80], [30, 31, 32, 33, 34, 35]]
    others = [[*start, *range(20, 30), 2] for start in itertools.product(range(3, 11), repeat=2)]
    with torch.inference_mode():
        answers = [[*others, liked(model, prompt)] for prompt in prompts]
        trees = [tree(each) for each in answers]
        quick = score_trees(model, prompts, trees, 0, 12.0)
        exact = whole(model, prompts, answers)
    for found, wanted, shape in zip(quick, exact, trees, strict=True):
        assert found.scored_tokens < 0.5 * len(shape.targets)
        best = int(np.argmax(wanted))
        assert int(np.argmax(found.log_probabilities)) == best
        assert found.log_probabilities[best] == pytest.approx(wanted[best], abs=5e-3)


def test_the_vocabulary_is_met_in_slices(model, monkeypatch):
    import torch

    monkeypatch.setattr("searchlora.inference.packed._LOGITS", 3)
    answers = [[7, 8, 9, 2], [7, 9, 2], [8, 2], [9, 9, 9, 9, 2]]
    with torch.inference_mode():
        (found,) = score_trees(model, [[5, 6, 7]], [tree(answers)], 0, None)
        assert found.log_probabilities == pytest.approx(whole(model, [[5, 6, 7]], [answers])[0], abs=5e-3)


def small(name: str, **settings):
    """A random model of another architecture."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
    if name == "gpt2":
        sizes, heads = {"vocab_size": 260, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}, {}
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes, **heads, **settings)).eval()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {"attn_implementation": "eager"}),
        ("qwen2", {}),
        ("gpt2", {}),
        ("gemma", {}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 4}),
        ("gemma2", {}),
        ("granite", {"logits_scaling": 8.0}),
        ("cohere", {"logit_scale": 0.06}),
    ],
)
def test_other_architectures_are_scored_through_a_tree_or_told_apart(name, settings):
    import torch

    model = small(name, **settings)
    prompts = [[5, 6, 7, 8, 9, 10, 11], [9, 8]]
    answers = [[[7, 8, 9, 12, 13, 2], [7, 9, 2], [8, 2]], [[3, 4, 2], [3, 4, 5, 2], [6, 2]]]
    with torch.inference_mode():
        taken = packs(model)
        assert taken == (settings.get("sliding_window") != 4 and name not in ("gemma2", "granite", "cohere"))
        if taken:
            wanted = whole(model, prompts, answers)
            for within in (None, 50.0):
                found = score_trees(model, prompts, [tree(each) for each in answers], 0, within)
                for one, other in zip(found, wanted, strict=True):
                    assert one.log_probabilities == pytest.approx(other, abs=1e-4)


def test_a_model_that_takes_no_tree_is_scored_with_whole_prompts(engine, monkeypatch):
    requests, choices = [asked("tent", "one@1"), asked("rope", None)], [["card", "cargo"], ["card"]]
    wanted = engine.score(requests, choices)
    monkeypatch.setitem(vars(engine), "_takes_trees", False)
    found = engine.score(requests, choices)
    for one, other in zip(found, wanted, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=5e-3)
    assert found[0].prompt_tokens == 2 * wanted[0].prompt_tokens
