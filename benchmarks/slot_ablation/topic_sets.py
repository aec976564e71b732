"""Chorus, MSRD and MT-RAG with the adapters that other benchmarks train, in the slots of the ready pipelines."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, copied
from benchmarks.embedding_msrd.__main__ import QUERY, SYSTEMS
from benchmarks.judgment_chorus.folds import FOLDS as CHORUS_FOLDS
from benchmarks.judgment_chorus.folds import Chorus
from benchmarks.rag_mtrag.data import FOLDS as MTRAG_FOLDS
from benchmarks.rag_mtrag.data import MtRag, fold_of
from benchmarks.rewriting_msrd.__main__ import dataset_of_queries
from benchmarks.slot_ablation.folds import Fold, TestSet
from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.data.collection import CorpusFile
from searchlora.data.dataset import load_dataset
from searchlora.errors import UsageError

#: The pipeline of `benchmarks.ranking`.
RANKED = Path(__file__).parents[1] / "ranking" / "pipeline.yaml"

#: Retrieval measures of the tables; the first is tested.
MEASURES = ("nDCG@10", "MRR@10", "Recall@100")

#: Test queries of MSRD whose hits are judged.
JUDGED_QUERIES = 600

_JUDGE_OF_MOVIES = {"judge": ("slot_ablation/movies/store", "msrd-judge", "slot_ablation.movies")}

#: Test set -> slot -> the store in `benchmarks/work` with its adapter, the adapter's name, and the benchmark that
#: trains it; `{fold}` stands for the number of the fold.
TRAINED: Mapping[str, Mapping[str, tuple[str, str, str]]] = {
    "chorus": {
        "intent": ("slot_ablation/intents/store", "chorus-intent", "slot_ablation.intents"),
        "judge": ("judgment_chorus/store", "chorus-judge-{fold}", "judgment_chorus"),
    },
    "msrd": {
        "rewriter": ("store", "msrd-rewriter", "rewriting_msrd"),
        "embedder": ("embedding_msrd/store", SYSTEMS[QUERY][0], "embedding_msrd"),
    },
    "chorus_base05": {"judge": ("bases/Qwen2.5-Coder-0.5B/store", "chorus-all-{fold}", "bases")},
    "msrd_judge": _JUDGE_OF_MOVIES,
    "msrd_judge_ranked": _JUDGE_OF_MOVIES,
    "mtrag": {
        "rewriter": ("store", "canard-rewriter", "rewriting_canard"),
        "embedder": ("rag_mtrag/store", "mtrag-embedder-{fold}", "rag_mtrag"),
    },
}


def chorus(data: Path, slots: Sequence[str]) -> TestSet:
    """All judged queries of Chorus; each is judged by the adapter that was trained on the other folds."""
    pairs = Chorus.read(data, WORK / "judgment_chorus" / "all")
    graded: dict[str, dict[str, int]] = {}
    with (data / "chorus" / "rated.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            graded.setdefault(row["query"], {})[row["docid"]] = int(row["rating"])
    folds, qrels = [], {}
    for number, groups in enumerate(pairs.folds(), 1):
        topics = {str(record["id"]).split()[0]: str(record["query"]) for record in pairs.of(groups)}
        qrels.update({topic: graded[query] for topic, query in topics.items() if query in graded})
        rows = [{"id": topic, "query": query} for topic, query in topics.items() if topic in qrels]
        folds.append(Fold(number, _named("chorus", slots, number), rows))
    assert len(folds) == CHORUS_FOLDS
    columns = {"text": ("short_description",), "brand": ("supplier",), "category": ("attr_t_product_type",)}
    corpus = CorpusFile(data / "chorus" / "products.jsonl.gz", columns)
    return TestSet("chorus", "product_search", corpus, folds, qrels, MEASURES)


def msrd(data: Path, slots: Sequence[str]) -> TestSet:
    """The test queries of MSRD that neither the rewriter nor the embedding adapter was trained on."""
    del data  # the dataset of the rewriter is read
    dataset = dataset_of_queries()
    tested = {str(record["id"]) for record in dataset.records("test")}
    if "embedder" in slots:
        tested &= {str(record["id"]) for record in load_dataset(WORK / "embedding_msrd" / "data").records("test")}
    qrels = {topic: grades for topic, grades in (dataset.qrels() or {}).items() if topic in tested}
    topics = [
        {"id": record["id"], "query": record["query"], "family": record["group"]}
        for record in dataset.records("test")
        if record["id"] in qrels
    ]
    fold = Fold(None, _named("msrd", slots), topics)
    return TestSet(
        "msrd",
        "movie_search",
        dataset.folder / "corpus.jsonl",
        [fold],
        qrels,
        MEASURES,
        cluster="family",
    )


def chorus_base05(data: Path, slots: Sequence[str]) -> TestSet:
    """As `chorus`, for the judge of a larger base alone, which `benchmarks.bases` trains on the same folds."""
    return _adapters_only(chorus(data, ()), "chorus_base05", slots)


def msrd_judge(data: Path, slots: Sequence[str]) -> TestSet:
    """Test queries of MSRD for the judge alone, which takes half a second for each; other slots are empty."""
    return _adapters_only(msrd(data, ()).sampled(JUDGED_QUERIES), "msrd_judge", slots)


def msrd_judge_ranked(data: Path, slots: Sequence[str]) -> TestSet:
    """As `msrd_judge`, after a ranking model in place of rank fusion: that of `benchmarks.ranking` for 3,000 topics."""
    model = WORK / "ranking" / "msrd" / "tuned0.ranking.txt"
    if not model.is_file():
        raise UsageError("there is no ranking model of MSRD yet", fix="Train it: python -m benchmarks.ranking msrd.")
    test = msrd_judge(data, slots)
    folds = [replace(fold, slots={**fold.slots, "model": str(model)}) for fold in test.folds]
    return replace(test, name="msrd_judge_ranked", pipeline=str(RANKED), folds=folds)


def _adapters_only(test: TestSet, name: str, slots: Sequence[str]) -> TestSet:
    folds = [replace(fold, slots=_named(name, slots, fold.number)) for fold in test.folds]
    return replace(test, name=name, folds=folds, adapters_only=True)


def mtrag(data: Path, slots: Sequence[str]) -> TestSet:
    """MT-RAG's questions with a conversation before them; the adapters of a question were trained on other folds."""
    folder = WORK / "slot_ablation" / "mtrag_questions"
    if not folder.is_dir():
        source = data / "mtrag" / "reference.jsonl"
        build("rewriting", source, format="mtrag", out=folder, split_ratios=(1.0, 0.0, 0.0))
    dataset = load_dataset(folder)
    questions = {record["id"]: record for record in dataset.records("train") if record["history"]}
    # Underspecified questions have no fold, and no adapter was trained or tested on them.
    rows = [row for row in MtRag.read(data).official if row["id"] in questions]
    folds = [
        Fold(
            number + 1,
            _named("mtrag", slots, number + 1),
            [
                {**_conversation(questions[row["id"]]), "conversation": str(row["group"])}
                for row in rows
                if fold_of(row) == number
            ],
        )
        for number in range(MTRAG_FOLDS)
    ]
    qrels = {topic: grades for topic, grades in (dataset.qrels() or {}).items() if topic in questions}
    return TestSet(
        "mtrag",
        "conversational_search",
        folder / "corpus.jsonl",
        folds,
        qrels,
        MEASURES,
        cluster="conversation",
    )


TEST_SETS: Mapping[str, Callable[[Path, Sequence[str]], TestSet]] = {
    "chorus": chorus,
    "chorus_base05": chorus_base05,
    "msrd": msrd,
    "msrd_judge": msrd_judge,
    "msrd_judge_ranked": msrd_judge_ranked,
    "mtrag": mtrag,
}


def gathered(test: TestSet, slots: Sequence[str], store: Path, work: Path = WORK) -> Store:
    """A store with copies of the adapters of all folds.

    Raises:
        UsageError: for an adapter that was not trained yet; names the benchmark that trains it.
    """
    for fold in test.folds:
        for slot in slots:
            place, name, benchmark = TRAINED[test.name][slot]
            fix = f"Train it: python -m benchmarks.{benchmark}. Or leave the slot empty: --without {slot}."
            copied(Store(work / place), name.format(fold=fold.number), store, fix)
    return Store(store)


def _named(test: str, slots: Sequence[str], fold: int | None = None) -> dict[str, str | int]:
    """Slot -> name of its adapter in a fold."""
    return {slot: TRAINED[test][slot][1].format(fold=fold) for slot in slots}


def _conversation(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("id", "query", "history")}
