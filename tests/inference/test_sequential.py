"""The sequential runner: one adapter per pass, and each prompt once."""

from __future__ import annotations

import pytest
import torch

from searchlora.errors import EngineError
from searchlora.inference.decoding import append_tokens
from searchlora.inference.scheduling.requests import GenerateRequest, ScoreRequest
from tests.inference.small_models import full_scores, greedy, ids, sequential, small

CHOICES = tuple((*range(20, 20 + length), 2) for length in (1, 2, 2, 3, 5, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [("llama", {}), ("gpt2", {}), ("gemma2", {"sliding_window": 6}), ("mistral", {"sliding_window": 6})],
)
def test_a_prompt_is_computed_once_for_all_its_choices(monkeypatch, name, settings):
    model = small(name, **settings)
    prompts = [ids(15), ids(4, 1)]
    wanted = full_scores(model, prompts, [CHOICES, CHOICES])
    core, passes, real = sequential(model, rows=1), [], model.forward

    def forward(*arguments, **options):
        passes.append(tuple(options["input_ids"].shape))
        return real(*arguments, **options)

    monkeypatch.setattr(model, "forward", forward)
    queued = [ScoreRequest(ids=prompt, choices=CHOICES) for prompt in prompts]
    core.finish(queued)
    for request, scores in zip(queued, wanted, strict=True):
        assert request.result.result().log_probabilities == pytest.approx(scores, abs=1e-4)
        assert request.result.result().prompt_tokens == len(request.ids)
    assert sorted(passes) == [(1, 4), (1, 15), (4, 5), (4, 5)]


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 3])
def test_running_out_of_memory_halves_the_batch_and_continues(monkeypatch, caplog, after):
    """`after`: number of passes before memory runs out, in the middle of the answers."""
    model = small("gemma2", sliding_window=6)
    prompts = [ids(5 + seed, seed) for seed in range(5)]
    wanted = [greedy(model, prompt, 7) for prompt in prompts]
    scores = full_scores(model, prompts, [CHOICES] * 5)
    core, passes, real = sequential(model, rows=8), [], model.forward

    def forward(*arguments, **options):
        passes.append(len(options["input_ids"]))
        if len(passes) > after and passes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments, **options)

    monkeypatch.setattr(model, "forward", forward)
    generated = [GenerateRequest(ids=prompt, max_new_tokens=7) for prompt in prompts]
    scored = [ScoreRequest(ids=prompt, choices=CHOICES) for prompt in prompts]
    core.finish([*generated, *scored])
    assert [request.result.result() for request in generated] == wanted
    for request, row in zip(scored, scores, strict=True):
        assert request.result.result().log_probabilities == pytest.approx(row, abs=1e-4)
    assert len([record for record in caplog.records if "Memory ran out" in record.message]) == 1


def test_an_answer_that_has_ended_is_not_generated_again(monkeypatch):
    """Memory runs out after the tokens of a step are chosen."""
    model = small("gemma2", sliding_window=6)
    wanted = [greedy(model, ids(5, 1), 2), greedy(model, ids(5, 2), 7)]
    core, steps = sequential(model, rows=8), []

    def append(*given):
        append_tokens(*given)
        steps.append(len(given[0]))
        if len(steps) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("searchlora.inference.sequential.append_tokens", append)
    requests = [GenerateRequest(ids=ids(5, seed), max_new_tokens=new) for seed, new in ((1, 2), (2, 7))]
    core.finish(requests)
    assert [request.result.result() for request in requests] == wanted
    assert steps == [2, 2, 1, 1, 1, 1, 1]


def test_what_does_not_fit_alone_fails_alone_and_what_ended_before_is_not_lost(monkeypatch):
    model = small("gemma2", sliding_window=6)
    wanted = greedy(model, ids(5, 1), 1)
    (score,) = full_scores(model, [ids(8)], [CHOICES])
    core, passes, real = sequential(model, rows=8), [], model.forward

    def forward(*arguments, **options):
        passes.append(options["input_ids"].shape)
        if 1 < len(passes) < 6 or options["input_ids"].shape[1] > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments, **options)

    monkeypatch.setattr(model, "forward", forward)
    ended = GenerateRequest(ids=ids(5, 1), max_new_tokens=1)
    lost = [GenerateRequest(ids=ids(6, seed), max_new_tokens=7, ignore_stop=True) for seed in (2, 3)]
    core.finish([ended, *lost])
    assert ended.result.result() == wanted
    for request in lost:
        with pytest.raises(EngineError, match="does not fit into memory"):
            request.result.result()
    passes += [()] * 6
    long, short = (ScoreRequest(ids=ids(count), choices=CHOICES) for count in (30, 8))
    core.finish([long, short])
    with pytest.raises(EngineError, match="does not fit into memory"):
        long.result.result()
    assert short.result.result().log_probabilities == pytest.approx(score, abs=1e-4)
