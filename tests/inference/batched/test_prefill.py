"""Prefill: prompts of similar length share a pass, so that little of it is padding."""

from __future__ import annotations

import pytest

from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine

SHORT, LONG = "lamp", "a lamp for the table " * 5


@pytest.fixture
def passes(tiny_base, monkeypatch):
    """An engine without a prefix cache, and the shape (rows, tokens) of each of its forward passes."""
    engine = LocalEngine(tiny_base, precision="fp32", prefix_tokens=0, max_num_seqs=16)
    forward, shapes = engine._core._runner._prefiller.forward, []
    real = forward.hidden_states

    def hidden_states(tokens, *others):
        shapes.append(tuple(tokens.shape))
        return real(tokens, *others)

    monkeypatch.setattr(forward, "hidden_states", hidden_states)
    return engine, shapes


def requests() -> list[Request]:
    texts = [f"{LONG if n % 2 else SHORT} {n}" for n in range(16)]
    return [Request([{"role": "user", "content": text}], max_new_tokens=1) for text in texts]


@pytest.mark.parametrize("kind", ["score", "generate"])
def test_short_prompts_are_not_padded_to_the_long_ones_of_their_batch(passes, kind):
    engine, shapes = passes
    if kind == "score":
        engine.score(requests(), [("yes", "no")] * 16)
    else:
        engine.generate(requests())
    needed = engine.stats().prompt_tokens
    assert sum(rows for rows, _ in shapes) == 16
    assert len(shapes) > 2
    assert sum(rows * tokens for rows, tokens in shapes) < 1.25 * needed  # 1.6 in one pass
