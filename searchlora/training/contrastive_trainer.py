"""sentence-transformers' trainer, without what it writes and asks for beside training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.base.losses.merged_forward import column_merging_disabled

from searchlora.training.duplicate_free_sampler import DuplicateFreeBatchSampler
from searchlora.training.pairs import PairRow

_TRAINED = "trained.safetensors"


class PairTrainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """Contrastive training on rows of texts.

    Differences from its base class:

    * Batches come from `DuplicateFreeBatchSampler`.
    * Checkpoints hold what is trained, as safetensors; its base class would save, and load, a whole model, which
      does not know the adapter's modules.
    * No model card is written.
    * Each column of texts has a forward pass of its own: beside a long one the short ones would be padded to its
      length, which on a CPU costs more than one pass saves.
    """

    def __init__(self, model: Any, arguments: Any, rows: Sequence[PairRow], loss: Any) -> None:
        self.rows = rows
        self.tokens_seen = 0
        super().__init__(model=model, args=arguments, train_dataset=_dataset(rows), loss=loss)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of a batch, nats per row."""
        self.tokens_seen += sum(int(value.sum()) for name, value in inputs.items() if name.endswith("attention_mask"))
        with column_merging_disabled():
            return super().compute_loss(model, inputs, *args, **kwargs)

    def get_batch_sampler(self, dataset: Any, batch_size: int, *args: Any, **kwargs: Any) -> DuplicateFreeBatchSampler:
        """The batches of the rows; the dataset is in their order."""
        del args, kwargs
        return DuplicateFreeBatchSampler(self.rows, dataset, batch_size, self.args.seed)

    def add_model_card_callback(self, *args: Any, **kwargs: Any) -> None:
        """The store writes the card, from the manifest."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """As above."""

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


def _dataset(rows: Sequence[PairRow]) -> Any:
    from datasets import Dataset

    columns: dict[str, list[str]] = {"anchor": [row.anchor for row in rows], "positive": [row.positive for row in rows]}
    for place in range(len(rows[0].negatives)):
        columns[f"negative_{place + 1}"] = [row.negatives[place] for row in rows]
    return Dataset.from_dict(columns)
