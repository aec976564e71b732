"""sentence-transformers' trainer with each document of a batch once, and checkpoints of the trained weights only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer

from searchlora.recipe import EncoderRecipe
from searchlora.training.pair_batches import PairBatchSampler, PairCollator
from searchlora.training.pairs import PairRow

if TYPE_CHECKING:
    import torch

_TRAINED = "trained.safetensors"


class PairTrainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """Contrastive training on rows of texts.

    Differences from the base class:

    * Batches come from `PairBatchSampler`, and are tokenised by `PairCollator` where documents are encoded.
    * Checkpoints hold the trained weights as safetensors. The base class saves and loads a whole model, which lacks
      the adapter's modules.
    * No model card is written: the store writes one from the manifest.
    """

    def __init__(
        self,
        model: Any,
        arguments: Any,
        rows: Sequence[PairRow],
        loss: torch.nn.Module,
        recipe: EncoderRecipe,
    ) -> None:
        self.rows = rows
        self.recipe = recipe
        self.tokens_seen = 0
        # The loss finds a row by its index, and its documents by the row.
        dataset = Dataset.from_dict({"anchor": [row.anchor for row in rows], "label": list(range(len(rows)))})
        super().__init__(model=model, args=arguments, train_dataset=dataset, loss=loss)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.tokens_seen += sum(int(value.sum()) for name, value in inputs.items() if name.endswith("attention_mask"))
        return super().compute_loss(model, inputs, *args, **kwargs)

    def get_batch_sampler(self, dataset: Any, batch_size: int, *args: Any, **kwargs: Any) -> PairBatchSampler:
        del args, kwargs
        return PairBatchSampler(self.rows, dataset, batch_size, self.args.seed, by_length=self._encodes_documents)

    def get_data_collator(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._encodes_documents:
            return super().get_data_collator(model, *args, **kwargs)
        return PairCollator(model.preprocess, rows=self.rows)

    @property
    def _encodes_documents(self) -> bool:
        return self.recipe.sides == "both"

    def add_model_card_callback(self, *args: Any, **kwargs: Any) -> None: ...

    def create_model_card(self, *args: Any, **kwargs: Any) -> None: ...

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        del state_dict
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.detach().cpu().contiguous() for name, value in self._trained()}, folder / _TRAINED)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        saved = load_file(Path(checkpoint_path) / _TRAINED)
        for name, value in self._trained():
            value.data.copy_(saved[name])

    def _trained(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]
