"""TRL's SFTTrainer with loss and logits at completion tokens only and fp32 adapters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState
from trl import SFTTrainer

from searchlora.models.batch import completion_log_probabilities, completion_logits, log_probabilities
from searchlora.prompts import IGNORED
from searchlora.recipe import Recipe
from searchlora.training.graded import choice_columns, choice_log_probabilities, ranking_loss
from searchlora.training.rows import GroupedBatches, LengthGroupedBatches, Rows


class CompletionTrainer(SFTTrainer):  # type: ignore[misc]
    """Supervised fine-tuning on completions.

    Differences from the base class:

    * `compute_loss` computes the logits of the last columns only (`models.batch`), and neither entropy nor token
      accuracy.
    * The adapter of a 4-bit base stays in fp32. SFTTrainer casts it to bf16, which loses small updates.
    * Rows have weights; with graded targets, soft labels and a ranking loss are available (`training.graded`).
    * Batches hold rows of similar length, or with a ranking loss rows of the same group, in an order that depends only
      on seed and epoch, so resuming repeats it.
    * Checkpoints are plain PEFT folders (model folders where all weights are trained), written without a request to
      the hub, a model card or telemetry.

    `rows` are in the order of `train_dataset`.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, rows: Rows, recipe: Recipe, **kwargs: Any) -> None:
        self.rows, self.recipe, self.loss = rows, recipe, recipe.loss
        model = kwargs["model"]
        adapter = {} if recipe.is_full else {name: value.detach().float().clone() for name, value in _trainable(model)}
        super().__init__(*args, **kwargs)
        for name, value in _trainable(self.model) if adapter else ():
            value.data = adapter[name].to(value.device)
        self.tokens_seen = 0
        self.model_accepts_loss_kwargs = True  # else no tokens are counted, which `compute_loss` needs
        self._loss_shifts_labels = False  # `collate` aligns labels with the logits that predict them
        self.add_callback(_EpochOfSampler(self))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch from `models.batch.collate` with `row`, the index of each row: labels and, if the recipe
        has one, ranking.
        """
        del return_outputs
        labels, indices = inputs["labels"], inputs["row"].tolist()
        self.tokens_seen += int(inputs["attention_mask"].sum())
        weights = torch.tensor([self.rows.weights[row] for row in indices], device=labels.device)
        ranking = None
        if self.rows.graded is None:
            nll = -completion_log_probabilities(model, inputs)
        else:
            logits = completion_logits(model, inputs)
            nll, ranking = self._graded(logits, labels, -log_probabilities(logits, labels), weights, indices)
        loss = self.loss.label * (nll.sum(1) * weights).sum() / num_items_in_batch
        if ranking is not None:  # a mean over this batch, which is a part of the step
            loss = loss + self.loss.ranking * ranking * (labels != IGNORED).sum() / num_items_in_batch
        return loss

    def _graded(
        self, logits: torch.Tensor, labels: torch.Tensor, nll: torch.Tensor, weights: torch.Tensor, indices: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The negative log-likelihood with soft labels, and the ranking loss; None without one."""
        graded = self.rows.graded
        assert graded is not None
        columns = choice_columns(labels, graded.position)
        of_choices = choice_log_probabilities(logits, columns, graded.token_ids)
        shares = torch.tensor([graded.shares[row] for row in indices], device=logits.device)
        grades = torch.tensor(graded.grades, device=logits.device)
        is_graded = shares.sum(-1) > 0  # a row with a teacher's score alone has no label
        if self.loss.soft_labels:
            of_label = -(shares * of_choices).sum(1, keepdim=True)
        else:
            of_label = nll.gather(1, columns[:, None]) * is_graded[:, None]
        # Of a row without a grade no token is learned, neither that of a grade nor others.
        nll = nll.scatter(1, columns[:, None], of_label) * is_graded[:, None]
        if not self.loss.ranking:
            return nll, None
        groups = torch.tensor([graded.groups[row] for row in indices], device=logits.device)
        if self.loss.ranking_score == "log_odds":
            relevant = of_choices[:, graded.relevant :].logsumexp(-1)
            scores = relevant - of_choices[:, : graded.relevant].logsumexp(-1)
        else:
            scores = of_choices.softmax(-1) @ grades
        target, has_target = shares @ grades, is_graded
        if self.loss.ranking_target == "teacher":
            target = torch.tensor([graded.teacher[row] for row in indices], device=logits.device)
            target *= self.loss.teacher_scale
            has_target = target.isfinite()
        temperature = self.loss.temperature
        scores, target = scores[has_target] / temperature, target[has_target] / temperature
        return nll, ranking_loss(scores, target, groups[has_target], weights[has_target], kind=self.loss.ranking_loss)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        self.sampler = self._sampler()
        return self.sampler

    def _sampler(self) -> LengthGroupedBatches:
        lengths = [len(example.input_ids) for example in self.rows.examples]
        if self.loss.ranking and self.rows.graded is not None:
            graded, size = self.rows.graded, self.args.train_batch_size
            targets = graded.expected
            if self.loss.ranking_target == "teacher":
                targets = [-math.inf if math.isnan(score) else score for score in graded.teacher]
            return GroupedBatches(lengths, graded.groups, targets, size, self.loss.group_size, self.args.seed)
        rows_per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedBatches(lengths, rows_per_step, self.args.seed)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        del state_dict
        folder = Path(output_dir or self.args.output_dir)
        options = {} if self.recipe.is_full else {"save_embedding_layers": False}
        self.model.save_pretrained(folder, safe_serialization=True, **options)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None: ...

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as `transformers.Trainer` does, without SFTTrainer's averages."""
        super(SFTTrainer, self).log(logs, start_time)

    def _send_telemetry(self) -> None: ...


class _EpochOfSampler(TrainerCallback):  # type: ignore[misc]
    """Tells the sampler its epoch, which transformers may not find behind the wrappers of a resumed run."""

    def __init__(self, trainer: CompletionTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, args: object, state: TrainerState, control: object, **_: object) -> None:
        del args, control
        self._trainer.sampler.set_epoch(int((state.epoch or 0) + 1e-6))


def _trainable(model: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in model.named_parameters() if value.requires_grad]
