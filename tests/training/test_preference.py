"""DPO and GRPO on a tiny base: what they raise, and that they start from the given adapter."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from searchlora.errors import TrainingError
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.prompts import messages
from searchlora.recipe import load_recipe
from searchlora.rewards import INVALID
from searchlora.training import preference_trainers
from searchlora.training.metrics import read_metrics
from searchlora.training.preference import Preference, train_dpo, train_grpo
from searchlora.training.sft import train_adapter
from tests.factories import first_word, word_records

SHORT = (
    "method=lora", "optim.batch_size=8", "optim.max_steps=12", "optim.learning_rate=5e-3", "optim.schedule=constant",
    "lora.r=4", "max_new_tokens=6", "improve.samples=4", "improve.then_steps=6", "improve.then_learning_rate=5e-3",
)  # fmt: skip


#: Letters that are rewarded, and that are not.
EARLY, LATE = "abcdefghijklm", "nopqrstuvwxyz"


@pytest.fixture(scope="module")
def started(tiny_base, tmp_path_factory):
    """Task, recipe, base, records and an adapter to train further."""
    folder = tmp_path_factory.mktemp("started")
    task, recipe, records = first_word(folder / "task"), load_recipe({}, overrides=SHORT), word_records(16)
    return task, recipe, tiny_base, records, train_adapter(task, recipe, tiny_base, records, folder / "run").adapter


def log_probabilities(base, task, records, texts: list[list[str]], adapter: Path):
    """Of each text of each record, under an adapter; shape (records, texts)."""
    engine = LocalEngine(base)
    engine.load_folder("a", adapter)
    scores = engine.score([Request(messages(task, record), "a") for record in records], texts)
    return [each.log_probabilities for each in scores]


@pytest.mark.slow
def test_dpo_raises_the_margin_of_the_better_completion(started, tmp_path):
    task, recipe, base, records, adapter = started
    pairs = [Preference(record, "yes", "no") for record in records]
    result = train_dpo(task, recipe, base, pairs, adapter, tmp_path / "dpo")
    texts = [["yes", "no"]] * len(records)
    margins = [
        sum(chosen - rejected for chosen, rejected in log_probabilities(base, task, records, texts, each))
        for each in (adapter, result.adapter)
    ]
    assert margins[1] > margins[0] + 1
    assert result.summary["steps"] == 6 and result.summary["rows"] == 16


@pytest.mark.slow
def test_activation_checkpointing_does_not_change_dpo(started, tmp_path):
    task, recipe, base, records, adapter = started
    losses = []
    for checkpointing in (False, True):
        optim = recipe.optim.model_copy(update={"gradient_checkpointing": checkpointing})
        changed = recipe.model_copy(update={"optim": optim, "precision": "fp32"})
        folder = tmp_path / f"dpo {checkpointing}"
        train_dpo(task, changed, base, [Preference(record, "yes", "no") for record in records], adapter, folder)
        losses.append([line["loss"] for line in read_metrics(folder / "metrics.jsonl")])
    assert losses[0][-1] < losses[0][0] and losses[1] == pytest.approx(losses[0], abs=1e-5)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_the_learning_rate_of_dpo(started, tmp_path):
    task, recipe, base, records, adapter = started
    recipe = recipe.model_copy(update={"improve": recipe.improve.model_copy(update={"then_learning_rate": 1e38})})
    with pytest.raises(TrainingError, match=r"Lower improve\.then_learning_rate"):
        train_dpo(task, recipe, base, [Preference(record, "yes", "no") for record in records], adapter, tmp_path)


@pytest.mark.slow
def test_grpo_makes_rewarded_answers_likelier(started, tmp_path):
    task, recipe, base, records, adapter = started
    asked: list[tuple[str, str]] = []

    def reward(of: list, completions: list[str]) -> list[float]:
        asked.extend((record["id"], text) for record, text in zip(of, completions, strict=True))
        return [float(sum(letter in EARLY for letter in text)) for text in completions]

    result = train_grpo(task, recipe, base, records, reward, adapter, tmp_path / "grpo")
    groups = [asked[start : start + 4] for start in range(0, len(asked), 4)]
    assert all(len({name for name, _ in group}) == 1 for group in groups)  # the samples of a record are a group
    assert {name for name, _ in asked} <= {record["id"] for record in records}
    texts = [[*EARLY, *LATE]] * len(records)
    early = [
        sum(sum(map(math.exp, each[: len(EARLY)])) for each in log_probabilities(base, task, records, texts, folder))
        for folder in (adapter, result.adapter)
    ]
    assert early[1] > early[0]


@pytest.mark.slow
def test_no_pair_to_train_on_is_an_error_with_counts(started, tmp_path):
    task, recipe, base, records, adapter = started
    with pytest.raises(TrainingError, match="there is no pair to train on"):
        train_dpo(task, recipe, base, [], adapter, tmp_path / "none")
    long = [Preference(records[0], "yes", "no " * 2000)]
    with pytest.raises(TrainingError, match="no pair to train on: all 1 have more than max_length = 1024 tokens"):
        train_dpo(task, recipe, base, long, adapter, tmp_path / "long")


@pytest.mark.slow
def test_grpo_trains_on_fewer_records_than_a_step_has_room_for(started, tmp_path):
    task, recipe, base, records, adapter = started

    def reward(_: list, completions: list[str]) -> list[float]:
        return [float(len(text)) for text in completions]

    result = train_grpo(task, recipe, base, records[:1], reward, adapter, tmp_path / "grpo")
    assert result.summary["steps"] == 6
    with pytest.raises(TrainingError, match="no record to train on"):
        train_grpo(task, recipe, base, [], reward, adapter, tmp_path / "none")


@pytest.mark.slow
def test_an_answer_that_was_cut_off_is_not_rewarded(started, tmp_path, monkeypatch):
    """One token is never a letter and the stop token: all answers are cut off, and none is better than another."""
    task, recipe, base, records, adapter = started
    rewarded: list[float | None] = []
    made = preference_trainers.RenderedGrpoTrainer.__init__

    def noting(self, *args, reward_funcs, **kwargs):
        def rewards(**given):
            values = reward_funcs(**given)
            rewarded.extend(values)
            return values

        made(self, *args, reward_funcs=rewards, **kwargs)

    monkeypatch.setattr(preference_trainers.RenderedGrpoTrainer, "__init__", noting)
    short = recipe.model_copy(update={"max_new_tokens": 1})

    def reward(_: list, completions: list[str]) -> list[float]:
        return [1.0 + bool(text) for text in completions]

    result = train_grpo(task, short, base, records, reward, adapter, tmp_path / "grpo")
    whole = sum(value != INVALID for value in rewarded)
    assert rewarded and whole < len(rewarded) / 4  # only an answer that stops at once is whole
    assert {value for value in rewarded if value != INVALID} <= {1.0}
    assert result.summary["steps"] == 6
