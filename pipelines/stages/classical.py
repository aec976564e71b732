"""The stage `classical`: a classical model over an encoder answers a task in place of an adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field

from searchlora.adapters.store import Store
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.encoder_baseline import MAX_ROWS, Encode, EncoderBaseline
from searchlora.errors import PipelineError
from searchlora.models.resolve import public_name
from searchlora.pipelines.stages.answering import AnsweringSettings, AnsweringStage
from searchlora.pipelines.stages.deciding import Decides
from searchlora.pipelines.stages.encoder import EncoderSettings
from searchlora.pipelines.stages.stage import BuildContext, Needs
from searchlora.records import Record
from searchlora.retrieval.encoding import vectors_once
from searchlora.task import GenerationTask, load_generation_task


class ClassicalSettings(AnsweringSettings, EncoderSettings):
    """`- classical: {data: data/intents, model: all-minilm-l6-v2}`: a classical model over an encoder, not an adapter.

    It is the one that `evaluate` shows beside an adapter: logistic regression for intents, quoting for answers. It
    learns from the training rows of the dataset when the pipeline is loaded. `adapter: shop-embedder` adds an adapter
    to the encoder. With `data: null`, also as the value of a parameter, the stage is left out.
    """

    kind: ClassVar[str] = "classical"
    slot_key: ClassVar[str | None] = "data"
    works_on_records: ClassVar[bool] = True

    data: str = Field(description="folder of a dataset of a prompted task; relative to the working folder")

    def needs(self) -> Needs:
        return replace(super().needs(), datasets=(self.data,))

    def with_adapter(self, reference: str | None) -> Self:
        return super().with_adapter(reference).model_copy(update={"decides": self.rule_for(reference)})

    def decides_for(self, task: str, store: Store) -> bool:
        del store
        return not self.only_undecided and load_dataset(self.data).card.task == task

    def build(self, context: BuildContext) -> ClassicalStage:
        """Learn the model."""
        dataset = unchanged_dataset(self.data)
        task = load_generation_task(dataset.card.task, context.tasks).bound(dataset.settings)
        stored = self.stored_adapter(context.store)
        if stored is not None and stored.manifest.query_side_only:
            what = f"{stored.reference} is for queries only, and a classical model encodes other texts with it, too"
            raise PipelineError(what, where=f"{self.data}, adapter", fix="Leave it out, or use one of both sides.")
        label = f"classical({task.name},{','.join(self._what_counts(dataset))})"
        if self.decides is not None:
            self.decides.check(label, task, constrained=True)
        encode = partial(vectors_once, self.encoder(context).encode)
        key = ("classical", self.model, self.adapter, self.server, self.dimensions, dataset.fingerprint)
        model = context.shared.get(key, lambda: learned_model(task, dataset, encode))
        return ClassicalStage(task, model, encode, label, self.decides, self.only_undecided)

    def _what_counts(self, dataset: Dataset) -> Iterator[str]:
        yield public_name(self.model)
        if self.server is not None:
            yield "served"
        if self.adapter is not None:
            yield self.adapter
        if self.dimensions is not None:
            yield f"{self.dimensions}d"
        yield dataset.fingerprint[:8]


def unchanged_dataset(folder: str | Path) -> Dataset:
    """A dataset that a model learns from. Raises `DataError` if a file was changed after it was built."""
    dataset = load_dataset(folder)
    dataset.verify()
    return dataset


def learned_model(task: GenerationTask, dataset: Dataset, encode: Encode) -> EncoderBaseline:
    """The classical model of a task, learned from the training rows of a dataset."""
    model = next((each for each in task.encoder_baselines() if each.serves), None)
    where = str(dataset.folder)
    if model is None:
        raise PipelineError(f"the task '{task.name}' has no classical model that a pipeline can use", where=where)
    rows = {split: list(islice(dataset.iter_records(split), MAX_ROWS)) for split in ("train", "validation")}
    if not rows["train"]:
        raise PipelineError("has no training rows to learn from", where=where)
    model.fit(rows["train"], rows["validation"], encode)
    return model


@dataclass(frozen=True)
class ClassicalStage(AnsweringStage):
    """A fitted model answers the task."""

    task: GenerationTask
    model: EncoderBaseline
    encode: Encode
    label: str = ""
    decides: Decides | None = None
    only_undecided: bool = False

    def ask(self, records: Sequence[Record]) -> list[object]:
        return list(self.model.predict(records, self.encode)) if records else []
