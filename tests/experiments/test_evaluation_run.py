"""The evaluation run: token counts, and generation settings."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest

from searchlora.experiments.evaluation_run import EvaluationRun
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.outputs import InvalidOutput, Label, OneLabel
from searchlora.pipelines.stages.adapter import PRUNE_MARGIN
from searchlora.prompts import messages
from tests.factories import FirstWord, first_word, word_records

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
def test_generated_and_scored_tokens_are_counted(engine, tmp_path, constrained):
    task = Named(first_word(tmp_path).folder)
    trial = EvaluationRun(task, RECORDS, max_new_tokens=7, constrained=constrained)
    found = trial.run_model("base", engine, None)
    requests = [Request(messages(task, record), None, 7) for record in RECORDS]
    if constrained:
        assert all(isinstance(output, Label) and output.probabilities for output in found.outputs)
        spent = [each.scored_tokens for each in engine.score(requests, [LABELS] * 5, prune_margin=PRUNE_MARGIN)]
    else:
        assert all(isinstance(output, InvalidOutput) for output in found.outputs)
        spent = [each.completion_tokens for each in engine.generate(requests)]
    prompts = [len(engine.renderer.prompt_ids(request.messages)) for request in requests]
    assert found.evaluation.costs["new tokens per query"] == sum(spent) / 5
    assert found.evaluation.costs["prompt tokens per query"] == sum(prompts) / 5


class OneOf(FirstWord):
    """Its labels are settings; it measures how sure the likeliest label of the trial's own was."""

    default_settings: ClassVar = {"labels": list(LABELS)}

    def output(self, record):
        del record
        return OneLabel(tuple(self.settings["labels"]))

    def evaluate(self, inputs):
        found = super().evaluate(replace(inputs, outputs=[output.value for output in inputs.outputs]))
        spec = self.output(inputs.records[0])
        sure = {
            record["id"]: dict(zip(spec.labels, output.probabilities, strict=True))[output.value]
            for record, output in zip(inputs.records, inputs.outputs, strict=True)
            if output.probabilities is not None
        }
        return replace(found, values={**found.values, "sure": sure})


def test_probabilities_of_another_label_set_are_not_evaluated(engine, tmp_path):
    task = OneOf(first_word(tmp_path).folder)
    trial = EvaluationRun(task, RECORDS)
    fewer = task.bound({"labels": ["tent", "boot"]})
    found = trial.run_model("incumbent", engine, None, task=fewer)
    assert all(len(output.probabilities) == 2 for output in found.outputs)
    again = trial.run_outputs("incumbent", found.outputs, task=fewer)
    for each in (found, again):
        assert set(each.evaluation.values["accuracy"]) == {record["id"] for record in RECORDS}
        assert each.evaluation.values["sure"] == {}
    assert len(trial.run_model("candidate", engine, None).evaluation.values["sure"]) == len(RECORDS)
