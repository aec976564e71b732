"""The verb `train` for encoder tasks: an adapter, or a whole model, in the store."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from searchlora.adapters.load_check import check_files
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import RecipeError, TrainingError
from searchlora.experiments.training_runs import TrainingJob
from searchlora.experiments.validation import EncoderValidator
from searchlora.models.resolve import BaseModel
from searchlora.recipe import AnyRecipe, EncoderRecipe
from searchlora.records import Document, Record
from searchlora.retrieval.retriever import Retriever
from searchlora.retrieval.shared_model import Vectors
from searchlora.task import EncoderTask
from searchlora.training.contrastive import train_encoder
from searchlora.training.pairs import PairRow, made_rows, one_relevance, pair_rows, text_key, title_rows
from searchlora.training.training_run import TrainingResult


@dataclass(frozen=True)
class EncoderJob(TrainingJob):
    """Contrastive training of an encoder task."""

    task: EncoderTask
    recipe: EncoderRecipe
    store: Store = field(default_factory=Store, compare=False)

    def train(self, folder: Path, resume: bool) -> TrainingResult:
        records = self.dataset.records("train")
        return train_encoder(
            self.recipe,
            self.base,
            self._rows(records),
            folder,
            validate=self._validator(records),
            encode_documents=self._encode_documents,
            teach=self._teach if self._teacher is not None else None,
            resume=resume,
            start=None if self.start is None else self.start.path,
            progress=self.steps("Training"),
        )

    def _encode_documents(self, texts: Sequence[str]) -> Vectors:
        from searchlora.models.load import load_encoder
        from searchlora.retrieval.encoder import Encoder

        return Encoder(load_encoder(self.base), self.base.name).encode(texts, progress=self.steps("Encoding"))

    @cached_property
    def _teacher(self) -> StoredAdapter | None:
        reference = self.recipe.query_side.teacher
        return None if reference is None else self.store.get(reference)

    def parents(self) -> Sequence[StoredAdapter]:
        both = [*super().parents(), *([self._teacher] if self._teacher is not None else [])]
        return [*{parent.reference: parent for parent in both}.values()]

    def _teach(self, queries: Sequence[str], documents: Sequence[str]) -> tuple[Vectors, Vectors]:
        """The teacher's vectors."""
        from searchlora.retrieval.encoder import Encoder

        assert self._teacher is not None
        encoder = Encoder.load(self._teacher.manifest.base.name, adapter=self._teacher)
        progress = self.steps("Encoding: teacher")
        return encoder.encode(queries, progress=progress), encoder.encode_documents(documents, progress=progress)

    def queries(self) -> Iterator[str]:
        records = (record for split in ("train", "validation") for record in self.dataset.iter_records(split))
        return chain(map(self.task.query, records), (row.anchor for row in self._from_documents))

    def _validator(self, labelled: Sequence[Record]) -> EncoderValidator | None:
        """None if the validation split has no two pairs, for example one record per class."""
        records = self.dataset.records("validation")[: self.recipe.validation.rows]
        try:
            return EncoderValidator(self.task, self.recipe, self.base, records, labelled)
        except TrainingError:
            return None

    def _rows(self, records: Sequence[Record]) -> list[PairRow]:
        settings = self.recipe.negatives
        mined: dict[str, list[str]] = {}
        if settings.source != "none" and records and self.task.label(records[0]) is None:
            mined = self._mined(records)
        rows = pair_rows(
            self.task,
            records,
            mined=mined,
            negatives=settings.per_query,
            judged=self._judged() if self._from_documents else {},
            seed=self.recipe.seed,
        )
        return one_relevance([*rows, *self._from_documents]) if self._from_documents else rows

    @cached_property
    def _from_documents(self) -> list[PairRow]:
        """The rows with titles and made queries, without those that are queries of validation or test rows."""
        if self.recipe.sides != "query":
            return []
        wanted, seed = self.recipe.query_side, self.recipe.seed
        documents = self.dataset.documents() or ()
        usual = self._as_many_as_pairs([document for document in documents if document.title and document.text])
        keys = {text_key(document.searchable) for document in usual}
        titled = title_rows(documents)
        if wanted.titles and not titled:
            raise RecipeError(
                "query_side.titles needs documents with titles, which the dataset lacks",
                where="recipe",
                fix="Build it with --corpus and --qrels, or leave the key out.",
            )
        if wanted.titles is None:
            titled = [row for row in titled if row.shown[0] in keys]
        else:
            titled *= wanted.titles
        if wanted.made is None:
            made = made_rows(usual, f"{seed} 0")
        else:
            made = [row for number in range(wanted.made) for row in made_rows(documents, f"{seed} {number}")]
        held_out = {
            text_key(self.task.query(record))
            for split in ("validation", "test")
            for record in self.dataset.iter_records(split)
        }
        return [row for row in (*titled, *made) if text_key(row.anchor) not in held_out]

    def _as_many_as_pairs(self, documents: Sequence[Document]) -> Sequence[Document]:
        """All documents, or as many at random as there are pairs to train on."""
        pairs = sum(len(self.task.positives(record)) for record in self.dataset.iter_records("train"))
        return documents if len(documents) <= pairs else random.Random(self.recipe.seed).sample(documents, pairs)

    def _read(self, recipe: Mapping[str, Any]) -> AnyRecipe | None:
        section = recipe.get("query_side", {})
        # Before titles and made queries had a default, there were none, and 0 for both sides.
        older = {"query_side": {"titles": 0, "made": 0, **section}} if recipe.get("sides") == "query" else {}
        return super()._read({**{key: value for key, value in recipe.items() if key != "query_side"}, **older})

    def _judged(self) -> dict[str, frozenset[int]]:
        """Record id -> keys of the documents that were judged relevant to any degree: no negatives of its query."""
        keys = {document.id: text_key(document.searchable) for document in self.dataset.documents() or ()}
        return {
            topic: frozenset(keys[name] for name, grade in grades.items() if grade > 0 and name in keys)
            for topic, grades in (self.dataset.qrels() or {}).items()
        }

    def _mined(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Hard negatives of the training records, mined from the dataset's documents."""
        from searchlora.models.load import load_encoder
        from searchlora.retrieval.bm25 import BM25Index
        from searchlora.retrieval.dense import DenseIndex
        from searchlora.retrieval.encoder import Encoder
        from searchlora.retrieval.mining import MiningQuery, mine

        settings = self.recipe.negatives
        documents = self.dataset.documents()
        if not documents:
            raise RecipeError(
                f"negatives.source = '{settings.source}' needs documents, which the dataset lacks",
                where="recipe",
                fix="Build it with --corpus and --qrels, or set negatives.source=none.",
            )
        retrievers: list[Retriever] = []
        if settings.source in ("bm25", "both"):
            retrievers.append(BM25Index(documents, progress=self.steps("Indexing")))
        if settings.source in ("model", "both"):
            encoder = Encoder(load_encoder(self.base), self.base.name)
            retrievers.append(DenseIndex(documents, encoder, progress=self.steps("Encoding")))
        qrels = self.dataset.qrels() or {}
        sought = [
            MiningQuery(
                str(record["id"]),
                self.task.query(record),
                self.task.positives(record),
                {name for name, grade in qrels.get(str(record["id"]), {}).items() if grade > 0},
            )
            for record in records
        ]
        return mine(sought, documents, retrievers, settings, self.recipe.seed, self.steps("Mining negatives"))


def pinned(recipe: EncoderRecipe, task: EncoderTask, base: BaseModel, store: Store) -> EncoderRecipe:
    """A recipe with the version of its teacher."""
    if recipe.query_side.teacher is None:
        return recipe
    teacher = store.get(store.pin(recipe.query_side.teacher))
    if teacher.manifest.task != task.name or teacher.manifest.query_side_only:
        what = "encodes queries only" if teacher.manifest.task == task.name else f"is of '{teacher.manifest.task}'"
        raise RecipeError(
            f"{teacher.reference} {what}, so it teaches nothing about documents",
            where="query_side.teacher",
            fix=f"Name an adapter of '{task.name}' that was trained with sides=both.",
        )
    check_files(teacher, base)
    named = recipe.query_side.model_copy(update={"teacher": teacher.reference})
    return recipe.model_copy(update={"query_side": named})
