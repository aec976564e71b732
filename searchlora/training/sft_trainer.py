"""TRL's SFTTrainer, without what costs time and nobody asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft.optimizers import create_loraplus_optimizer
from trl import SFTTrainer

from searchlora.models.batch import completion_log_probabilities
from searchlora.training.rows import LengthGroupedBatches


class CompletionTrainer(SFTTrainer):  # type: ignore[misc]
    """SFT on completions: loss and logits at completion tokens only, adapters as fp32 masters.

    Differences from its base class, each measured or needed:

    * `compute_loss` asks the model for the logits of the last columns only (see `models.batch`), and computes neither
      entropy nor token accuracy.
    * SFTTrainer casts the adapter of a 4-bit base to bf16, in which small updates are lost; here it stays in fp32.
    * Batches are grouped by length in random order, the same again after a resume.
    * Checkpoints are plain PEFT folders written without a look-up on the hub; no model card, no telemetry.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, plus_ratio: float | None = None, **kwargs: Any) -> None:
        model = kwargs["model"]
        masters = {name: value.detach().float().clone() for name, value in _trainable(model)}
        super().__init__(*args, **kwargs)
        for name, value in _trainable(self.model):
            value.data = masters[name].to(value.device)
        self.plus_ratio = plus_ratio
        self.tokens_seen = 0
        self._loss_shifts_labels = False  # `collate` gives labels that stand where they are predicted

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean negative log-likelihood (nats) of the completion tokens of a batch made by `models.batch.collate`."""
        del return_outputs
        found = completion_log_probabilities(model, inputs)
        self.tokens_seen += int(inputs["attention_mask"].sum())
        loss = -found.sum() / num_items_in_batch
        # The count is over all processes, and their gradients are averaged: as transformers' own loss does.
        return loss * self.accelerator.num_processes if self.args.average_tokens_across_devices else loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """AdamW, or LoRA+ (arXiv:2402.12354) where the recipe gives a ratio."""
        if self.plus_ratio is None:
            return super().create_optimizer(*args, **kwargs)
        optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer: Any = create_loraplus_optimizer(
            self.model, optimizer_class, loraplus_lr_ratio=self.plus_ratio, **settings
        )
        return self.optimizer

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        rows_per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedBatches(lengths, rows_per_step, self.args.seed)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        del state_dict
        folder = Path(output_dir or self.args.output_dir)
        self.model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The store writes the card, from the manifest."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the plain Trainer logs, without SFTTrainer's averages."""
        super(SFTTrainer, self).log(logs, start_time)

    def _send_telemetry(self) -> None:
        """Nothing phones home."""


def _trainable(model: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in model.named_parameters() if value.requires_grad]
