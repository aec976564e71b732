"""The stage `classical`: a classical model over an encoder answers a task in place of an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import ClassVar

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
    baseline: str | None = Field(
        None, description="which model, as `+ boosting`, if the task has several; default: its last one"
    )

    def needs(self) -> Needs:
        encoder = super().needs()
        return Needs(
            encoder.adapters, encoders=encoder.encoders, datasets=(self.data,), unversioned=encoder.unversioned
        )

    def decides_for(self, task: str, store: Store) -> bool:
        del store
        return not self.only_undecided and load_dataset(self.data).card.task == task

    def build(self, context: BuildContext) -> ClassicalStage:
        """Learn the model.

        Raises:
            PipelineError: for a task without such a model, or a rule that was fitted for another one.
            DataError: if the dataset does not exist.
            BaseModelError, NotInStore, LoadCheckFailed: if encoder or adapter is missing or fails its load check.
        """
        dataset = load_dataset(self.data)
        task = load_generation_task(dataset.card.task, context.tasks)
        task = task.bound(dataset.settings or task.default_settings)
        encoder = self.encoder(context)
        encode = partial(vectors_once, encoder.encode)
        named = [public_name(self.model), *([] if self.adapter is None else [self.adapter]), dataset.fingerprint[:8]]
        label = f"classical({task.name},{','.join(named)})"
        if self.decides is not None:
            self.decides.check(label, task, constrained=True)
        key = ("classical", self.model, self.adapter, self.server, self.dimensions, dataset.fingerprint)
        model = context.shared.get(key, lambda: self._learned(task, dataset, encode))
        return ClassicalStage(task, model, encode, label, self.decides, self.only_undecided)

    def _learned(self, task: GenerationTask, dataset: Dataset, encode: Encode) -> EncoderBaseline:
        model = next((each for each in task.encoder_baselines() if each.serves), None)
        if model is None:
            raise PipelineError(
                f"the task '{task.name}' has no classical model that a pipeline can use", where=self.data
            )
        training, validation = (
            list(islice(dataset.iter_records(split), MAX_ROWS)) for split in ("train", "validation")
        )
        if not training:
            raise PipelineError("has no training rows to learn from", where=self.data)
        model.fit(training, validation, encode)
        return model


@dataclass(frozen=True)
class ClassicalStage(AnsweringStage):
    """A fitted model answers the task.

    Args:
        encode: The encoder that the model has learned with.
    """

    task: GenerationTask
    model: EncoderBaseline
    encode: Encode
    label: str = ""
    decides: Decides | None = None
    only_undecided: bool = False

    def ask(self, records: Sequence[Record]) -> list[object]:
        return list(self.model.predict(records, self.encode)) if records else []
