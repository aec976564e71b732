"""Losses over graded completions: choice tokens, soft labels, row weights, RankNet, MarginMSE, and their batches."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from searchlora.errors import RecipeError, TrainingError
from searchlora.models.load import load_model, load_tokenizer
from searchlora.prompts import Renderer
from searchlora.recipe import load_recipe
from searchlora.task import load_generation_task
from searchlora.training.graded import choice_tokens, graded_rows, ranking_loss
from searchlora.training.metrics import read_metrics
from searchlora.training.rows import GroupedBatches
from searchlora.training.sft import train_adapter
from tests.factories import first_word, word_records

ONE_STEP = ["optim.batch_size=8", "optim.max_steps=1", "lora.r=2", "method=lora", "precision=fp32"]

GRADES = (0.0, 1.0, 2.0, 3.0)


def pairs(*grades, query="tent", votes=None):
    return [
        {
            "id": f"{query} {number}",
            "group": query,
            "query": query,
            "passage": f"passage {'x ' * number}",
            "grade": grade,
            **({"votes": votes[number]} if votes else {}),
        }
        for number, grade in enumerate(grades)
    ]


def log_probabilities(base, records):
    """log p of each grade's token, shape (rows, 4), and the sum over the other completion tokens, of the bare base."""
    task, renderer = load_generation_task("judgment"), Renderer(load_tokenizer(base))
    model = load_model(base, precision="fp32")
    of_grades, others = [], []
    for record in records:
        example = renderer.example(task, record)
        logs = model(input_ids=torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
        start = example.prompt_length
        of_grades.append(logs[start - 1, [renderer.completion_ids(str(int(grade)))[0] for grade in GRADES]])
        ids = example.input_ids
        others.append(sum(logs[place - 1, ids[place]] for place in range(start + 1, len(ids))))
    return torch.stack(of_grades).detach(), torch.stack(others).detach()


def first_loss(base, folder, records, *settings, weights=None):
    recipe = load_recipe({}, overrides=[*ONE_STEP, *settings])
    train_adapter(load_generation_task("judgment"), recipe, base, records, folder, weights=weights)
    (line,) = [line for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]
    return line["loss"]


@pytest.mark.parametrize("completions", [[[5, 1, 9], [5, 1, 8], [5, 2, 9]], [[5, 1], [5]]])
def test_grades_that_no_token_tells_apart_are_refused(completions):
    with pytest.raises(TrainingError, match="does not tell all grades apart"):
        choice_tokens(completions)


@pytest.mark.slow
def test_a_task_without_grades_is_refused(tiny_base, tmp_path):
    for setting in ("loss.ranking=1", "loss.soft_labels=true"):
        with pytest.raises(TrainingError, match="record r0: the completions of the task 'first-word' are not grades"):
            train_adapter(
                first_word(tmp_path / "task"),
                load_recipe({}, overrides=[*ONE_STEP, setting]),
                tiny_base,
                word_records(4),
                tmp_path / "run",
            )


@pytest.mark.slow
def test_records_of_two_scales_are_refused(tiny_base):
    class Shrinking(type(load_generation_task("judgment"))):
        def graded_target(self, record):
            target = super().graded_target(record)
            return target if record["id"] == "tent 0" else replace(target, grades=(0.0, 1.0, 2.0, 4.0))

    with pytest.raises(TrainingError, match="record tent 1: has another scale"):
        graded_rows(Shrinking(), Renderer(load_tokenizer(tiny_base)), pairs(1, 1))


def test_ranknet_is_the_mean_over_pairs_of_one_group_with_different_grades():
    scores, expected = torch.tensor([0.5, 1.5, 0.0, 9.0]), torch.tensor([3.0, 1.0, 1.0, 0.0])
    weights = torch.tensor([1.0, 0.5, 1.0, 1.0])
    found = ranking_loss(scores, expected, torch.tensor([1, 1, 1, 2]), weights, kind="ranknet")
    wanted = (0.75 * math.log1p(math.exp(1.0)) + math.log1p(math.exp(-0.5))) / 2
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_margin_mse_is_the_squared_difference_of_margins():
    scores, target = torch.tensor([0.5, 1.5, 0.0, 9.0]), torch.tensor([3.0, 1.0, 1.0, 0.0])
    weights = torch.tensor([1.0, 0.5, 1.0, 1.0])
    found = ranking_loss(scores, target, torch.tensor([1, 1, 1, 2]), weights, kind="margin_mse")
    wanted = (0.75 * (-1.0 - 2.0) ** 2 + (0.5 - 2.0) ** 2 + 0.75 * (1.5 - 0.0) ** 2) / 3
    assert found.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("kind", ["ranknet", "margin_mse"])
def test_no_rows_have_no_ranking_loss(kind):
    scores = torch.zeros(0, requires_grad=True)
    loss = ranking_loss(scores, torch.zeros(0), torch.zeros(0, dtype=torch.long), torch.zeros(0), kind=kind)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.slow
@pytest.mark.parametrize("score", ["log_odds", "expected_grade"])
def test_a_teacher_ranks_rows_with_and_without_grades_and_a_row_without_one_has_no_label(tiny_base, tmp_path, score):
    records = pairs(3, 0, 1)
    for record, teacher in zip(records, (1.0, -0.5, None), strict=True):
        record |= {} if teacher is None else {"teacher": teacher}
    ungraded = {name: value for name, value in pairs(0, query="stove")[0].items() if name != "grade"}
    records += [{**ungraded, "id": f"tent {number}", "group": "tent", "teacher": -1.0} for number in (7,)]
    of_grades, others = log_probabilities(tiny_base, records)
    label = -(of_grades[0, 3] + of_grades[1, 0] + of_grades[2, 1] + others[:3].sum()) / 8
    log_odds = of_grades[:, 2:].logsumexp(-1) - of_grades[:, :2].logsumexp(-1)
    scores = (log_odds if score == "log_odds" else of_grades.softmax(-1) @ torch.tensor(GRADES))[[0, 1, 3]]
    target = 1.5 * torch.tensor([1.0, -0.5, -1.0])
    ranking = ranking_loss(scores / 0.5, target / 0.5, torch.ones(3), torch.ones(3), kind="margin_mse")
    settings = ("loss.ranking=1", "loss.ranking_loss=margin_mse", "loss.ranking_target=teacher")
    own = ("loss.teacher_scale=1.5", f"loss.ranking_score={score}")
    found = first_loss(tiny_base, tmp_path / "run", records, *settings, *own)
    assert found == pytest.approx((label + ranking).item(), abs=5e-4)


@pytest.mark.slow
def test_a_row_without_a_grade_is_refused_where_only_grades_are_learned(tiny_base, tmp_path):
    records = pairs(1, 2)
    del records[1]["grade"]
    records[1]["teacher"] = 0.5
    with pytest.raises(TrainingError, match=r"record tent 1: has no grade.*ranking_target=teacher"):
        first_loss(tiny_base, tmp_path / "run", records)


@pytest.mark.parametrize("kind", ["ranknet", "margin_mse"])
def test_rows_without_a_partner_have_no_ranking_loss_and_a_gradient(kind):
    scores = torch.tensor([0.5, 1.5], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([1.0, 2.0]), torch.tensor([1, 2]), torch.ones(2), kind=kind)
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.tolist() == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ranknet", "margin_mse"])
def test_the_first_loss_is_label_loss_plus_weighted_ranking_loss(tiny_base, tmp_path, kind):
    records = [*pairs(3, 0, 1), *pairs(0, 2, query="stove")]
    of_grades, others = log_probabilities(tiny_base, records)
    gold = torch.tensor([record["grade"] for record in records])
    label = -(of_grades[torch.arange(5), gold] + others).sum() / 10  # 5 rows of a grade and a stop token
    expected = of_grades.softmax(-1) @ torch.tensor(GRADES)
    groups = torch.tensor([1, 1, 1, 2, 2])
    ranking = ranking_loss(expected / 0.25, gold / 0.25, groups, torch.ones(5), kind=kind)
    settings = ("loss.ranking=2", f"loss.ranking_loss={kind}", "loss.temperature=0.25")
    found = first_loss(tiny_base, tmp_path / "run", records, *settings)
    assert found == pytest.approx((label + 2 * ranking).item(), abs=2e-4)
    alone = first_loss(tiny_base, tmp_path / "alone", records, *settings, "loss.label=0")
    assert alone == pytest.approx((2 * ranking).item(), abs=2e-4)


@pytest.mark.slow
def test_soft_labels_are_the_shares_of_the_raters(tiny_base, tmp_path):
    records = pairs(2, 0, votes=[{"2": 1, "3": 1}, {"0": 3}])
    of_grades, others = log_probabilities(tiny_base, records)
    shares = torch.tensor([[0, 0, 0.5, 0.5], [1, 0, 0, 0]])
    soft = (-(of_grades * shares).sum() - others.sum()) / 4
    assert first_loss(tiny_base, tmp_path / "soft", records, "loss.soft_labels=true") == pytest.approx(
        soft.item(), abs=2e-4
    )
    hard = -(of_grades[0, 2] + of_grades[1, 0] + others.sum()) / 4
    assert first_loss(tiny_base, tmp_path / "hard", records) == pytest.approx(hard.item(), abs=2e-4)


@pytest.mark.slow
def test_a_chosen_completion_takes_the_place_of_the_raters(tiny_base):
    task, renderer = load_generation_task("judgment"), Renderer(load_tokenizer(tiny_base))
    (record,) = pairs(2, votes=[{"2": 1, "3": 1}])
    assert graded_rows(task, renderer, [record]).shares == [(0, 0, 0.5, 0.5)]
    assert graded_rows(task, renderer, [{**record, "completion": "1"}]).shares == [(0, 1, 0, 0)]
    with pytest.raises(TrainingError, match="record tent 0: field 'completion': is not a grade"):
        graded_rows(task, renderer, [{**record, "completion": "good"}])


@pytest.mark.slow
def test_a_row_counts_with_its_weight(tiny_base, tmp_path):
    records = pairs(2, 0)
    of_grades, others = log_probabilities(tiny_base, records)
    wanted = -(0.25 * (of_grades[0, 2] + others[0]) + of_grades[1, 0] + others[1]) / 4
    found = first_loss(tiny_base, tmp_path / "run", records, weights=[0.25, 1.0])
    assert found == pytest.approx(wanted.item(), abs=2e-4)


@pytest.mark.slow
def test_accumulated_batches_have_the_loss_of_one(tiny_base, tmp_path):
    records = pairs(3, 0, 1, 2)
    settings = ("loss.ranking=1", "loss.group_size=2")
    parts = first_loss(
        tiny_base, tmp_path / "parts", records, *settings, "optim.batch_size=2", "optim.gradient_accumulation=2"
    )
    assert math.isfinite(parts)
    label = first_loss(tiny_base, tmp_path / "label", records)
    whole = first_loss(tiny_base, tmp_path / "whole", records, "loss.ranking=1", "loss.group_size=4")
    # Fewer pairs, yet a mean over pairs: of the size of the whole, not of its sum.
    assert parts - label == pytest.approx(whole - label, rel=0.2)


@pytest.mark.slow
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=20),
    batch=st.integers(4, 9),
    seed=st.integers(0, 5),
)
def test_grouped_batches_are_a_permutation_fixed_by_the_seed(sizes, batch, seed):
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    grades = [row % 4 for row in range(len(groups))]
    lengths = [1 + row % 13 for row in range(len(groups))]
    sampler = GroupedBatches(lengths, groups, grades, batch, 4, seed)
    order = list(sampler)
    assert sorted(order) == list(range(len(groups))) == list(range(len(sampler)))
    assert list(GroupedBatches(lengths, groups, grades, batch, 4, seed)) == order
    sampler.set_epoch(1)
    assert len(groups) < 30 or list(sampler) != order


def test_rows_of_a_group_share_batches_in_which_grades_differ():
    groups = [row // 20 for row in range(400)]
    grades = [int(row % 20 > 14) for row in range(400)]
    order = list(GroupedBatches([1 + row % 40 for row in range(400)], groups, grades, 8, 4, seed=1))
    batches = [order[start : start + 8] for start in range(0, 400, 8)]
    paired = [
        row
        for batch in batches
        for row in batch
        if any(groups[row] == groups[o] and grades[row] != grades[o] for o in batch)
    ]
    assert len(paired) == 400


def test_a_batch_smaller_than_a_group_is_refused():
    with pytest.raises(RecipeError, match=r"optim.batch_size = 2 is less than loss.group_size = 4"):
        load_recipe({}, overrides=["loss.ranking=1", "optim.batch_size=2"])
    with pytest.raises(RecipeError, match="nothing would be trained"):
        load_recipe({}, overrides=["loss.label=0"])
