"""Tree scoring equals scoring each answer with its whole prompt."""

from __future__ import annotations

import itertools
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.adapters.attach import attach
from searchlora.adapters.store import Store
from searchlora.inference.batched.choice_tree import PrunedSearch, build_tree
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.scheduling.requests import ScoreRequest
from searchlora.models.load import load_model
from searchlora.models.resolve import BaseModel, resolve
from tests.inference.small_models import full_scores, greedy, random_store

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
def sharp_base(tiny_base, tmp_path_factory) -> BaseModel:
    """A base as sure of the next token as a trained one; random weights find all equally likely."""
    folder = tmp_path_factory.mktemp("sharp") / "base"
    shutil.copytree(tiny_base.path, folder)
    model = load_model(tiny_base, precision="fp32")
    model.get_output_embeddings().weight.mul_(30)
    model.to(torch.bfloat16).save_pretrained(folder)
    return resolve(str(folder))


@pytest.fixture(scope="module")
def store(sharp_base, tmp_path_factory) -> Store:
    return random_store(sharp_base, tmp_path_factory.mktemp("scoring"), "one", "two")


@pytest.fixture(scope="module")
def engine(sharp_base, store) -> LocalEngine:
    return LocalEngine(sharp_base, store, precision="fp32", max_num_seqs=4)


@pytest.fixture(scope="module")
def plain(sharp_base, store):
    """The same base with PEFT's own adapter on."""
    return attach(load_model(sharp_base, precision="fp32"), store.get("one@1"))


@pytest.fixture(scope="module")
def exact(sharp_base, store):
    """The same in fp64."""
    return attach(load_model(sharp_base, precision="fp32"), store.get("one@1")).double()


def scored_ids(engine, prompts, answers, within=None):
    """Scores of raw token ids, without a chat template."""
    queued = [
        ScoreRequest(ids=tuple(prompt), adapter="one@1", choices=tuple(map(tuple, each)), prune_margin=within)
        for prompt, each in zip(prompts, answers, strict=True)
    ]
    engine._core.finish(queued)
    return [request.result.result() for request in queued]


def exact_scores(exact, plain, prompts, answers):
    """The reference of each row in fp64, and a bound on the error of an engine in fp32.

    Most scores are exact to 1e-4. For a few prompts this random model amplifies the rounding of its embeddings
    alone to 7e-3, whatever computes it: the error of PEFT in fp32 shows most of these prompts. A wrong place in the
    tree is off by .1 and more.
    """
    for wanted, rounded in zip(full_scores(exact, prompts, answers), full_scores(plain, prompts, answers), strict=True):
        yield wanted, 2e-2 + 10 * float(np.abs(np.subtract(rounded, wanted)).max())


def asked(text: str, adapter: str | None) -> Request:
    return Request(({"role": "user", "content": text},), adapter)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(PROMPTS, ANSWERS), min_size=1, max_size=4))
def test_tree_scores_equal_full_sequence_scores(engine, plain, exact, rows):
    prompts, answers = [list(row) for row in zip(*rows, strict=True)]
    scored = scored_ids(engine, prompts, answers)
    for found, (wanted, error) in zip(scored, exact_scores(exact, plain, prompts, answers), strict=True):
        assert found.log_probabilities == pytest.approx(wanted, abs=error)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(PROMPTS, ANSWERS), min_size=1, max_size=4), st.floats(0, 12))
def test_prune_margin_keeps_the_winner_and_bounds_the_rest(engine, plain, exact, rows, within):
    prompts, answers = [list(row) for row in zip(*rows, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrunedSearch, "MIN_NODES", 0)
        patch.setattr("searchlora.inference.batched.choice_scoring._MIN_NODES", 1)
        scored = scored_ids(engine, prompts, answers, within)
        references = list(exact_scores(exact, plain, prompts, answers))
    for found, (wanted, error) in zip(scored, references, strict=True):
        best = max(wanted)
        assert max(found.log_probabilities) == pytest.approx(best, abs=error)
        for bound, value in zip(found.log_probabilities, wanted, strict=True):
            assert bound >= value - error
            assert bound == pytest.approx(value, abs=error) or bound < best - within + error
        off = np.abs(softmax(found.log_probabilities) - softmax(wanted)).max()
        assert off <= math.exp(-within) + error


def softmax(scores):
    weights = np.exp(np.array(scores) - max(scores))
    return weights / weights.sum()


def with_adapter(base, store, adapter, precision):
    model = load_model(base, precision=precision)
    return attach(model, store.get(adapter)) if adapter else model


def mixed(engine, within=None):
    """Requests with alternating adapters, their answers as token ids, and the scores of the engine."""
    requests = [asked("where is my card " + "now " * n, ADAPTERS[n % 3]) for n in range(7)]
    choices = [LABELS[: 2 + n] for n in range(7)]
    scored = [found.log_probabilities for found in engine.score(requests, choices, prune_margin=within)]
    return requests, [[engine.renderer.completion_ids(text) for text in texts] for texts in choices], scored


@pytest.mark.slow
@pytest.mark.usefixtures("computes_bf16")
@pytest.mark.parametrize("within", [None, 12.0])
def test_bf16_scores_deviate_from_fp32_about_as_much_as_peft(sharp_base, store, within):
    """The two round at other places: as far apart as each of them is from the same weights in fp32."""
    engine = LocalEngine(sharp_base, store, precision="bf16", max_num_seqs=3)
    rounded = {adapter: with_adapter(sharp_base, store, adapter, "bf16") for adapter in ADAPTERS}
    exact = {adapter: with_adapter(sharp_base, store, adapter, "bf16").float() for adapter in ADAPTERS}
    ours, others = [], []
    for request, answers, found in zip(*mixed(engine, within), strict=True):
        prompt = [engine.renderer.prompt_ids(request.messages)]
        (wanted,), (other,) = (full_scores(each[request.adapter], prompt, [answers]) for each in (exact, rounded))
        least = -math.inf if within is None else max(wanted) - within
        capped = [np.maximum(scores, least) for scores in (found, other, wanted)]
        ours += list(np.abs(capped[0] - capped[2]))
        others += list(np.abs(capped[1] - capped[2]))
    assert np.mean(ours) < 2 * np.mean(others)


@pytest.mark.slow
def test_shared_tokens_of_choices_are_computed_once(engine):
    (found,) = engine.score([asked("tent", "one@1")], [["card", "cargo"]])
    assert found.scored_tokens == len("card") + 1 + len("go") + 1  # a byte is a token here, and each has its end
    assert found.prompt_tokens == len(engine.renderer.prompt_ids(asked("tent", None).messages))
    (alone,) = engine.score([asked("tent", "one@1")], [["card"]])
    assert (alone.scored_tokens, alone.prompt_tokens) == (len("card") + 1, found.prompt_tokens)
    assert engine.score([asked("tent", None)], [[]])[0].log_probabilities == ()


@pytest.mark.slow
def test_prune_margin_skips_choices_far_behind(engine, plain):
    prompts = [[5, 6, 7, 8], [100, 90, 80], [30, 31, 32, 33, 34, 35]]
    others = [[*start, *range(20, 30), 2] for start in itertools.product(range(3, 11), repeat=2)]
    answers = [[*others, greedy(plain, prompt, 6)] for prompt in prompts]
    quick = scored_ids(engine, prompts, answers, 12.0)
    for found, wanted, each in zip(quick, full_scores(plain, prompts, answers), answers, strict=True):
        assert found.scored_tokens < 0.5 * len(build_tree(each).targets)
        best = int(np.argmax(wanted))
        assert int(np.argmax(found.log_probabilities)) == best
        assert found.log_probabilities[best] == pytest.approx(wanted[best], abs=5e-3)


def test_the_vocabulary_is_processed_in_slices(engine, plain, monkeypatch):
    monkeypatch.setattr("searchlora.inference.batched.choice_scoring._LOGIT_ROWS", 3)
    answers = [[7, 8, 9, 2], [7, 9, 2], [8, 2], [9, 9, 9, 9, 2]]
    (found,) = scored_ids(engine, [[5, 6, 7]], [answers])
    assert found.log_probabilities == pytest.approx(full_scores(plain, [[5, 6, 7]], [answers])[0], abs=5e-3)
