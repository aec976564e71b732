"""The systems that an evaluated adapter is compared with: its base, other adapters, whole models, and BM25."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.errors import DataError, UsageError
from searchlora.eval.trec import Qrels
from searchlora.inference.engines import Engines
from searchlora.models.resolve import public_name
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.progress import Progress
from searchlora.records import Record
from searchlora.systems.encoder import EncoderData, RetrieverSystem, StoredEncoder
from searchlora.systems.lineage import run_lineage
from searchlora.systems.models import AdapterSystem, ZeroShotSystem
from searchlora.systems.system import BASE, System
from searchlora.task import EncoderTask, GenerationTask

#: The baseline of encoders that are evaluated by retrieval.
BM25 = "BM25"


def generating_systems(
    task: GenerationTask,
    records: Sequence[Record],
    adapters: Sequence[StoredAdapter],
    engines: Engines,
    *,
    unconstrained: bool,
) -> Iterator[System]:
    """The base of the first adapter, the other adapters, and the first; base and it unconstrained before that.

    The base generates as many tokens as the first adapter.
    """
    candidate, *others = adapters
    base = ZeroShotSystem(candidate, task, engines)
    models = [AdapterSystem(stored, task, engines) for stored in (*others, candidate)]
    for model in models:
        model.check()
    if unconstrained:
        form = task.output(records[0])
        if form.choices is None and form.grammar is None:
            raise UsageError(f"the outputs of '{task.name}' are not constrained", fix="Leave --unconstrained out.")
        yield ZeroShotSystem(candidate, task, engines, name=f"{BASE}, unconstrained", constrained=False)
        yield AdapterSystem(candidate, task, engines, name=f"{candidate.reference}, unconstrained", constrained=False)
    yield from (base, *models)


def encoder_data(
    task: EncoderTask, dataset: Dataset, records: Sequence[Record], qrels: Qrels | None, labelled: Sequence[Record]
) -> EncoderData:
    """What encoders are evaluated on: the documents of a dataset, or training rows with labels."""
    if task.label(records[0]) is not None:
        if not labelled:
            raise DataError(
                "there is no training row from which classes can be predicted",
                where=str(dataset.folder),
                fix="Give a dataset with training rows as --baseline-data.",
            )
        return EncoderData(task, labelled=labelled)
    documents = dataset.documents()
    if not documents or not qrels:
        raise DataError(
            "has no documents and judgments to evaluate an encoder on",
            where=str(dataset.folder),
            fix="Build it with --corpus and --qrels.",
        )
    return EncoderData(task, documents)


def bm25_system(data: EncoderData, settings: Bm25Settings | None, progress: Progress) -> RetrieverSystem:
    """BM25 over the documents that encoders are evaluated on."""
    stage = (settings or Bm25Settings()).over(data.documents, progress)
    return RetrieverSystem(BM25, data.task, stage.retriever)


def encoding_systems(
    data: EncoderData, adapters: Sequence[StoredAdapter], models: Sequence[str | Path], store: Store
) -> Iterator[System]:
    """The base of the first adapter, whole models, the other adapters, and the first.

    The vectors of an adapter are classified as its own recipe says, those of the base and of whole models as the recipe
    of the first adapter says.
    """
    candidate, *others = adapters
    base, classifier = candidate.manifest.base, candidate.manifest.classifier
    base.resolve()  # the name of a folder that was moved must not become a hub look-up
    lineage = run_lineage(store, (), [base.name])
    yield StoredEncoder(
        BASE, data, base.name, lineage, classifier=classifier, fingerprint=base.fingerprint, revision=base.revision
    )
    for model in map(str, models):
        yield StoredEncoder(public_name(model), data, model, run_lineage(store, (), [model]), classifier=classifier)
    for stored in (*others, candidate):
        manifest = stored.manifest
        yield StoredEncoder(
            stored.reference,
            data,
            manifest.base.name,
            run_lineage(store, [stored.reference]),
            classifier=manifest.classifier,
            adapter=stored,
            fingerprint=manifest.base.fingerprint,
        )
