"""TRL's DPOTrainer and GRPOTrainer on token ids that this project renders, with the adapter held in fp32."""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer, GRPOTrainer


class RenderedDpoTrainer(DPOTrainer):  # type: ignore[misc]
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) on rows of token ids.

    TRL's trainer tokenises texts, in which a user's text could become a control token. Here `train_dataset` has the
    columns `prompt_ids`, `chosen_ids` and `rejected_ids` already. The reference is a copy of the adapter at the start.
    """

    tokens_seen = 0

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        return dataset

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.tokens_seen += int(inputs["attention_mask"].sum())
        return super().compute_loss(model, inputs, *args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None: ...


class RenderedGrpoTrainer(GRPOTrainer):  # type: ignore[misc]
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300) on prompts of token ids.

    `train_dataset` has the column `prompt`, the index of a row as text, and `rendered` has the token ids of its prompt.
    """

    tokens_seen = 0

    def __init__(self, *args: Any, rendered: list[list[int]], **kwargs: Any) -> None:
        self.rendered = rendered
        super().__init__(*args, **kwargs)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.rendered[int(prompt)] for prompt in prompts], None, {}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.tokens_seen += int(inputs["prompt_mask"].sum() + inputs["completion_mask"].sum())
        return super().compute_loss(model, inputs, *args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None: ...
