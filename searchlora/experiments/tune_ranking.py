"""The verb `tune` with a ranking model: learn from judged topics how a fusion orders its documents.

LambdaMART learns from the documents that the parts of the fusion retrieve; one without a judgment counts as not
relevant. By cross-validation over topics, so on topics that a model has not learned from, the number of trees is
chosen and the gain over the fusion without a model is measured.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus
from searchlora.errors import DataError, PipelineError
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import evaluate_run
from searchlora.eval.formatting import write_json
from searchlora.eval.judgments.card import read_card
from searchlora.eval.judgments.lineage import query_hash
from searchlora.eval.significance import LEVEL
from searchlora.eval.text_identity import normalised
from searchlora.eval.trec import Run, ranked
from searchlora.experiments.tune_weights import JudgedFusion, judged_fusion
from searchlora.experiments.tuned_file import write_tuned
from searchlora.extras import importing
from searchlora.files import atomic_text, check_writable, file_sha256
from searchlora.pipelines.config import PipelineConfig
from searchlora.pipelines.stages.fuse import FuseSettings, part_names, ranking_features
from searchlora.pipelines.stages.retrieve import searched_queries
from searchlora.pipelines.stages.stage import StageSettings
from searchlora.progress import Steps, no_progress
from searchlora.records import Hit
from searchlora.retrieval.fusion import fuse
from searchlora.retrieval.learning_to_rank import Matrix, RankingFeatures

#: Names of the compared systems.
FUSION, LEARNED = "fusion", "ranking model"

#: Parts of the topics in cross-validation, least topics with a relevant document, and numbers of trees.
FOLDS, MIN_TOPICS, TREES = 5, 20, (25, 50, 100, 200, 400)

_SETTINGS: Mapping[str, Any] = {
    **{"objective": "lambdarank", "learning_rate": 0.05, "num_leaves": 15, "seed": 0},
    **{"deterministic": True, "force_row_wise": True, "verbosity": -1, "num_threads": 1},
}


@dataclass(frozen=True)
class TuneRankingResult:
    """What `tune_ranking` wrote.

    Attributes:
        path, model: The pipeline file, and the file of the model.
        comparison: The model against the fusion without a model, by cross-validation over topics. The number of trees
            was chosen on the same folds, so the gain is slightly optimistic.
        trees: How many the model has.
        gains: Feature -> its share of the gain of all splits, largest first.
        circular: Why the judgments are circular; empty: they are not.
    """

    path: Path
    model: Path
    comparison: Comparison
    trees: int
    gains: Mapping[str, float]
    circular: str = ""

    @property
    def is_better(self) -> bool:
        """Whether the model is significantly better than the fusion, by cross-validation."""
        (pair,) = self.comparison.comparisons
        return self.comparison.gain(pair.measure, pair.difference) > 0 and pair.p_corrected <= LEVEL


@dataclass(frozen=True)
class _Topic:
    """A topic with what its queries retrieve, and the order without a model.

    Attributes:
        queries: All that are searched; the last one is that of the topic, after a rewrite.
        candidates: Of each query the documents and their features.
        grades: Of the documents of the last query.
    """

    id: str
    group: str
    queries: Sequence[str]
    candidates: Sequence[tuple[Sequence[str], Matrix]]
    grades: Sequence[int]
    fused: Mapping[str, float]

    @property
    def features(self) -> Matrix:
        """Of the documents of the last query."""
        return self.candidates[-1][1]


def tune_ranking(
    config: PipelineConfig,
    topics: str | Path,
    qrels: str | Path,
    out: str | Path,
    *,
    measure: str = "nDCG@10",
    fields: Sequence[str] = (),
    corpus: Corpus | None = None,
    allow_circular: bool = False,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> TuneRankingResult:
    """Train a ranking model for a pipeline's first fusion, and write the pipeline with it.

    Beside the pipeline, `<out without extension>.ranking.txt` holds the model and `<...>.ranking.json` its card.

    Args:
        config, topics, qrels, corpus, allow_circular: As of `tune_weights`.
        out: The YAML file to write.
        measure: The retrieval measure of cross-validation.
        fields: Fields of documents with numbers that the model reads.

    Raises:
        PipelineError: if no stage fuses.
        DataError: for fewer than 20 topics with a relevant document among those retrieved, for a field without numbers,
            or if no feature tells relevant documents from others.
        MissingExtra: without LightGBM.
        Otherwise as `tune_weights`.
    """
    with importing():
        import lightgbm  # noqa: F401

    out = Path(out)
    model = out.with_name(f"{out.stem}.ranking.txt")
    card = model.with_suffix(".json")
    check_writable(out, model, card)
    fusion = judged_fusion(
        config,
        topics,
        qrels,
        check=partial(_without_model, config.name, fields),
        corpus=corpus,
        allow_circular=allow_circular,
        store=store,
        tasks=tasks,
        steps=steps,
    )
    settings = fusion.settings
    assert isinstance(settings, FuseSettings)  # `_without_model` checks it
    features = ranking_features(settings, fusion.built.documents)
    read = _topics(fusion, features)
    learnable = len({topic.group for topic in read if any(topic.grades)})
    if learnable < MIN_TOPICS:
        raise DataError(
            f"{learnable} topics have a relevant document among the retrieved ones, at least {MIN_TOPICS} are needed",
            where=str(qrels),
            fix="Judge more topics, or choose weights instead: leave --ranking-model out.",
        )
    for column, field in enumerate(settings.fields, len(features.names) - len(settings.fields)):
        if all(np.isnan(topic.features[:, column]).all() for topic in read):
            raise DataError(f"no document has a number in the field '{field}'", where="--field-numbers")
    trees, run = _cross_validated(read, features.names, fusion, measure)
    compared = {
        name: replace(
            evaluate_run(of_system, fusion.grades, measures=(measure,), unjudged=False),
            clusters={topic.id: topic.group for topic in read},  # topics with one query are no two observations
        )
        for name, of_system in ((FUSION, {topic.id: topic.fused for topic in read}), (LEARNED, run))
    }
    comparison = compare(compared, candidate=LEARNED)
    booster = _trained(read, features.names, trees)
    gains = dict(zip(features.names, booster.feature_importance("gain").tolist(), strict=True))
    total = sum(gains.values())
    if not total:
        raise DataError(
            "no feature tells relevant documents from the others",
            where=str(qrels),
            fix="Choose weights instead: leave --ranking-model out.",
        )
    with atomic_text(model) as file:
        file.write(booster.model_to_string())
    shares = {name: gain / total for name, gain in sorted(gains.items(), key=lambda item: -item[1])}
    pair = comparison.comparisons[0]
    judged_by = read_card(qrels)
    write_json(
        card,
        {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "sha256": file_sha256(model),
            "parts": part_names(settings),
            "fields": settings.fields,
            "queries": sorted({query_hash(query) for topic in read for query in topic.queries}),
            "judge_lineage": judged_by.judge_lineage if judged_by is not None else (),
            "topics": {"file": Path(topics).name, "sha256": file_sha256(topics), "judged": len(read)},
            "qrels": {"file": Path(qrels).name, "sha256": file_sha256(qrels)},
            "trees": trees,
            "cross_validation": {
                "folds": FOLDS,
                "figures": [vars(row) for row in comparison.rows],
                "difference": vars(pair),
            },
            "gains": shares,
            "circular": fusion.circular.strip(),
        },
    )
    origin = f"model: {measure} {pair.difference:+.4f} ({pair.low:+.4f} to {pair.high:+.4f}) in cross-validation"
    written = {"model": str(model), "model_parts": list(part_names(settings)), "fields": list(settings.fields)}
    write_tuned(out, config, fusion.stages, fusion.place, written, f"{origin} over {pair.n} topics")
    return TuneRankingResult(out, model, comparison, trees, shares, fusion.circular)


def _without_model(name: str, fields: Sequence[str], settings: StageSettings) -> StageSettings:
    """The settings of a fusion as they are before a model is trained. Raises `PipelineError` for another stage."""
    if not isinstance(settings, FuseSettings):
        raise PipelineError(
            f"a stage of the kind '{settings.kind}' has no ranking model", where=name, fix="Leave --ranking-model out."
        )
    return settings.model_copy(update={"fields": tuple(dict.fromkeys(fields)), "model": None, "model_parts": None})


def _topics(fusion: JudgedFusion, features: RankingFeatures) -> list[_Topic]:
    grades_of = fusion.grades
    scale = sorted({max(0, grade) for row in grades_of.values() for grade in row.values()} | {0})
    read = []
    for search in fusion.searched.searches:
        id_ = str(search["id"])
        hits, queries, grades = fusion.searched.hits[id_], searched_queries(search), grades_of[id_]
        candidates = [features.of(query, of_query) for query, of_query in zip(queries, hits, strict=True)]
        # Grades by their order, since LambdaMART doubles the gain with each; LightGBM knows 31 of them.
        step = max(1.0, (len(scale) - 1) / 30)
        graded = [int(scale.index(max(0, grades.get(document, 0))) / step) for document in candidates[-1][0]]
        fused = {hit.document: hit.score for hit in fusion.settings.fused_hits(hits, fusion.settings.part_weights)}
        group = normalised(str(search["query"])) or id_
        read.append(_Topic(id_, group, queries, candidates, graded, fused))
    return read


def _cross_validated(
    topics: Sequence[_Topic], names: Sequence[str], fusion: JudgedFusion, measure: str
) -> tuple[int, Run]:
    """The best number of trees, and the run of models that have not learned from the topics that they order."""
    k = int(getattr(fusion.settings, "k", 100))
    groups = sorted({topic.group for topic in topics})
    random.Random(0).shuffle(groups)
    fold_of = {group: place % FOLDS for place, group in enumerate(groups)}
    runs: dict[int, dict[str, dict[str, float]]] = {trees: {} for trees in TREES}
    for fold in range(FOLDS):
        booster = _trained([topic for topic in topics if fold_of[topic.group] != fold], names, max(TREES))
        for topic in topics:
            if fold_of[topic.group] != fold:
                continue
            for trees in TREES:
                runs[trees][topic.id] = _scores(booster, topic, trees, k)

    def mean(trees: int) -> float:
        measured = evaluate_run(runs[trees], fusion.grades, measures=(measure,), unjudged=False)
        return float(np.mean(list(measured.values[measure].values())))

    best = max(TREES, key=lambda trees: (mean(trees), -trees))
    return best, runs[best]


def _scores(booster: Any, topic: _Topic, trees: int, k: int) -> dict[str, float]:
    """The first k documents with their scores, as the stage has them: each query is ordered, then all are fused."""
    rankings = []
    for documents, matrix in topic.candidates:
        scores = booster.predict(matrix, num_iteration=trees, num_threads=1) if documents else []
        of_query = dict(zip(documents, map(float, scores), strict=True))
        rankings.append([Hit(document, of_query[document]) for document in ranked(of_query)[:k]])
    fused = rankings[0] if len(rankings) == 1 else fuse(rankings)[:k]
    return {hit.document: hit.score for hit in fused}


def _trained(topics: Sequence[_Topic], names: Sequence[str], trees: int) -> Any:
    """A booster; topics without a relevant document teach nothing."""
    import lightgbm

    useful = [topic for topic in topics if any(topic.grades)]
    data = lightgbm.Dataset(
        np.concatenate([topic.features for topic in useful]),
        label=[grade for topic in useful for grade in topic.grades],
        group=[len(topic.grades) for topic in useful],
        feature_name=list(names),
        params={"verbosity": -1},
    )
    documents = sum(len(topic.grades) for topic in useful)
    least = min(50, max(5, documents // 40))  # few documents would not fill one leaf
    return lightgbm.train({**_SETTINGS, "min_data_in_leaf": least}, data, num_boost_round=trees)
