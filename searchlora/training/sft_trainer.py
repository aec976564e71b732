"""TRL's SFTTrainer with loss and logits at completion tokens only and fp32 adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft.optimizers import create_loraplus_optimizer
from trl import SFTTrainer

from searchlora.models.batch import completion_log_probabilities
from searchlora.training.rows import LengthGroupedBatches


class CompletionTrainer(SFTTrainer):  # type: ignore[misc]
    """Supervised fine-tuning on completions.

    Differences from the base class:

    * `compute_loss` computes the logits of the last columns only (see `models.batch`), and neither entropy nor token
      accuracy.
    * The adapter of a 4-bit base stays in fp32. SFTTrainer casts it to bf16, which loses small updates.
    * Batches hold rows of similar length in an order that depends only on seed and epoch, so resuming repeats it.
    * Checkpoints are plain PEFT folders, written without a request to the hub, a model card or telemetry.

    Args:
        plus_ratio: LoRA+ ratio of the learning rates of B and A (arXiv:2402.12354); None uses one rate.

    Attributes:
        tokens_seen: Tokens trained on in this process.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, plus_ratio: float | None = None, **kwargs: Any) -> None:
        model = kwargs["model"]
        weights = {name: value.detach().float().clone() for name, value in _trainable(model)}
        super().__init__(*args, **kwargs)
        for name, value in _trainable(self.model):
            value.data = weights[name].to(value.device)
        self.plus_ratio = plus_ratio
        self.tokens_seen = 0
        self._loss_shifts_labels = False  # `collate` aligns labels with the logits that predict them

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean negative log-likelihood in nats of the completion tokens of a batch from `models.batch.collate`."""
        del return_outputs
        log_probabilities = completion_log_probabilities(model, inputs)
        self.tokens_seen += int(inputs["attention_mask"].sum())
        loss = -log_probabilities.sum() / num_items_in_batch
        # The count is over all processes, whose gradients are averaged; transformers' own loss does the same.
        return loss * self.accelerator.num_processes if self.args.average_tokens_across_devices else loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """AdamW, or LoRA+ if the recipe has a ratio."""
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
        """Do nothing: the store writes the card from the manifest."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as `transformers.Trainer` does, without SFTTrainer's averages."""
        super(SFTTrainer, self).log(logs, start_time)

    def _send_telemetry(self) -> None:
        """Send nothing."""


def _trainable(model: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in model.named_parameters() if value.requires_grad]
