"""What a trial counts, and how it lets a model answer."""

from __future__ import annotations

import pytest

from searchlora.experiments.trial import Trial
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.outputs import InvalidOutput, Label, OneLabel
from searchlora.pipelines.stages import WITHIN
from searchlora.prompts import messages
from tests.words import FirstWord, first_word, word_records

RECORDS = word_records(5)
LABELS = ("tent", "boot", "stove", "rope", "lamp")


class Named(FirstWord):
    def output(self, record):
        del record
        return OneLabel(LABELS)


@pytest.fixture(scope="module")
def engine(tiny_base) -> LocalEngine:
    return LocalEngine(tiny_base, precision="fp32")


@pytest.mark.parametrize("constrained", [True, False])
def test_tokens_are_counted_whether_written_or_scored(engine, tmp_path, constrained):
    task = Named(first_word(tmp_path).folder)
    trial = Trial(task, RECORDS, max_new_tokens=7, constrained=constrained)
    found = trial.generated("base", engine, None)
    requests = [Request(messages(task, record), None, 7) for record in RECORDS]
    if constrained:
        assert all(isinstance(output, Label) and output.probabilities for output in found.outputs)
        spent = [each.scored_tokens for each in engine.score(requests, [LABELS] * 5, within=WITHIN)]
    else:
        assert all(isinstance(output, InvalidOutput) for output in found.outputs)
        spent = [each.completion_tokens for each in engine.generate(requests)]
    prompts = [len(engine.renderer.prompt_ids(request.messages)) for request in requests]
    assert found.evaluation.costs["new tokens per query"] == sum(spent) / 5
    assert found.evaluation.costs["prompt tokens per query"] == sum(prompts) / 5
