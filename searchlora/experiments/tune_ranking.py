"""The verb `tune` with a ranking model: learn from judged topics how a fusion orders its documents.

LambdaMART learns from the documents that the parts of the fusion retrieve; one without a judgment counts as not
relevant. Its gain over the fusion is measured by cross-validation over topics. In each fold the number of trees is
chosen on another one, so that no topic both chooses and decides.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_high
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
from searchlora.eval.trec import Qrels, Run, ranked
from searchlora.experiments.tune_weights import JudgedFusion, judged_fusion
from searchlora.experiments.tuned_file import write_tuned
from searchlora.extras import importing
from searchlora.files import atomic_text, check_writable
from searchlora.pipelines.config import PipelineConfig
from searchlora.pipelines.stages.fuse import FuseSettings, part_names, ranking_features
from searchlora.pipelines.stages.retrieve import searched_queries
from searchlora.progress import Steps, no_progress
from searchlora.retrieval.learning_to_rank import Matrix, RankingFeatures

#: Names of the compared systems; folds, least topics with a relevant document, and numbers of trees.
FUSION, LEARNED = "fusion", "ranking model"
FOLDS, MIN_TOPICS, TREES = 5, 20, (25, 50, 100, 200, 400)

_SETTINGS: Mapping[str, Any] = {
    **{"objective": "lambdarank", "learning_rate": 0.05, "num_leaves": 15, "seed": 0},
    **{"deterministic": True, "force_row_wise": True, "verbosity": -1, "num_threads": 1},
}


@dataclass(frozen=True)
class TuneRankingResult:
    """What `tune_ranking` wrote, with the comparison that decides, and each feature's share of the splits' gain."""

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
class Topic:
    """A topic, after a rewrite, with the documents that it retrieves, and their scores without a model."""

    id: str
    group: str
    queries: Sequence[str]
    documents: Sequence[str]
    features: Matrix
    grades: Sequence[int]
    fused: Mapping[str, float]


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
    Arguments and errors as `tune_weights`; `fields` are fields of documents with numbers that the model reads.
    It needs LightGBM, and 20 topics with a relevant document among those retrieved.
    """
    with importing():
        import lightgbm  # noqa: F401
    out = Path(out)
    model = out.with_name(f"{out.stem}.ranking.txt")
    card = model.with_suffix(".json")
    check_writable(out, model, card)
    without = {"fields": tuple(dict.fromkeys(fields)), "model": None, "model_parts": None}
    options: dict[str, Any] = {"corpus": corpus, "allow_circular": allow_circular, "store": store, "tasks": tasks}
    fusion = judged_fusion(
        config, topics, qrels, check=lambda own: own.model_copy(update=without), steps=steps, **options
    )
    settings = fusion.settings
    if not isinstance(settings, FuseSettings):
        raise PipelineError(f"a stage '{settings.kind}' has no ranking model", where=config.name)
    features = ranking_features(settings, fusion.built.documents)
    read = _topics(fusion, features)
    if (learnable := len({topic.group for topic in read if any(topic.grades)})) < MIN_TOPICS:
        what = f"{learnable} topics have a relevant document among the retrieved ones, at least {MIN_TOPICS} are needed"
        raise DataError(what, where=str(qrels), fix="Judge more topics, or choose weights: leave --ranking-model out.")
    for column, field in enumerate(settings.fields, len(features.names) - len(settings.fields)):
        if all(np.isnan(topic.features[:, column]).all() for topic in read):
            raise DataError(f"no document has a number in the field '{field}'", where="--field-numbers")
    trees, comparison = cross_validated(read, features.names, fusion.grades, measure, settings.k)
    booster = trained(read, features.names, trees)
    gains = dict(zip(features.names, booster.feature_importance("gain").tolist(), strict=True))
    with atomic_text(model) as file:
        file.write(booster.model_to_string())
    total = sum(gains.values()) or 1.0
    shares = {name: gain / total for name, gain in sorted(gains.items(), key=lambda item: -item[1])}
    pair, judged_by = comparison.comparisons[0], read_card(qrels)
    written = {"model": str(model), "model_parts": list(part_names(settings)), "fields": list(settings.fields)}
    lineage = judged_by.judge_lineage if judged_by is not None else ()
    queries = sorted({query_hash(query) for topic in read for query in topic.queries})
    write_json(card, {**written, "queries": queries, "judge_lineage": lineage, "cross_validation": vars(pair)})
    origin = f"model: {measure} {pair.difference:+.4f} ({pair.low:+.4f} to {pair.high:+.4f}) in cross-validation"
    write_tuned(out, config, fusion.stages, fusion.place, written, f"{origin} over {pair.n} topics")
    return TuneRankingResult(out, model, comparison, trees, shares, fusion.circular)


def _topics(fusion: JudgedFusion, features: RankingFeatures) -> list[Topic]:
    # Grades by their order, since LambdaMART doubles the gain with each; LightGBM knows 31 of them.
    scale = sorted({max(0, grade) for row in fusion.grades.values() for grade in row.values()} | {0})
    step = max(1.0, (len(scale) - 1) / 30)
    read = []
    for search in fusion.searched.searches:
        id_, queries = str(search["id"]), searched_queries(search)
        hits, grades = fusion.searched.hits[id_][-1], fusion.grades[id_]  # those of the last query
        documents, matrix = features.of(queries[-1], hits)
        graded = [int(scale.index(max(0, grades.get(document, 0))) / step) for document in documents]
        fused = {hit.document: hit.score for hit in fusion.settings.fused_hits([hits], fusion.settings.part_weights)}
        group = normalised(str(search["query"])) or id_
        read.append(Topic(id_, group, queries, documents, matrix, graded, fused))
    return read


def cross_validated(
    topics: Sequence[Topic], names: Sequence[str], grades: Qrels, measure: str, k: int
) -> tuple[int, Comparison]:
    """The median of the folds' best numbers of trees on the next fold, and the comparison with the fusion."""
    groups = sorted({topic.group for topic in topics})
    random.Random(0).shuffle(groups)
    of_fold = [set(groups[fold::FOLDS]) for fold in range(FOLDS)]
    folds = [[topic for topic in topics if topic.group in members] for members in of_fold]
    run: dict[str, Mapping[str, float]] = {}
    chosen = []
    for fold in range(FOLDS):
        following = (fold + 1) % FOLDS
        rest = [topic for place, of_fold in enumerate(folds) if place not in (fold, following) for topic in of_fold]
        chosen.append(_best_number(trained(rest, names, max(TREES)), folds[following], grades, measure, k))
        booster = trained([*rest, *folds[following]], names, chosen[-1])
        run |= {topic.id: _scores(booster, topic, chosen[-1], k) for topic in folds[fold]}
    runs: dict[str, Run] = {FUSION: {topic.id: topic.fused for topic in topics}, LEARNED: run}
    clusters = {topic.id: topic.group for topic in topics}  # topics with one query are no two observations
    evaluated = {name: evaluate_run(own, grades, measures=(measure,), unjudged=False) for name, own in runs.items()}
    evaluated = {name: replace(own, clusters=clusters) for name, own in evaluated.items()}
    return median_high(chosen), compare(evaluated, candidate=LEARNED)


def _best_number(booster: Any, topics: Sequence[Topic], grades: Qrels, measure: str, k: int) -> int:
    """The number of trees with which a model orders topics best; the smallest of equally good ones."""
    own, means = {topic.id: grades[topic.id] for topic in topics}, {}
    for trees in TREES:
        run = {topic.id: _scores(booster, topic, trees, k) for topic in topics}
        values = evaluate_run(run, own, measures=(measure,), unjudged=False).values[measure]
        means[trees] = float(np.mean(list(values.values())))
    return max(TREES, key=means.__getitem__)


def _scores(booster: Any, topic: Topic, trees: int, k: int) -> dict[str, float]:
    values = booster.predict(topic.features, num_iteration=trees, num_threads=1) if topic.documents else []
    scores = dict(zip(topic.documents, map(float, values), strict=True))
    return {document: scores[document] for document in ranked(scores)[:k]}


def trained(topics: Sequence[Topic], names: Sequence[str], trees: int) -> Any:
    """A booster; topics without a relevant document teach nothing."""
    import lightgbm

    useful = [topic for topic in topics if any(topic.grades)]
    grades = [grade for topic in useful for grade in topic.grades]
    matrix, sizes = np.concatenate([topic.features for topic in useful]), [len(topic.grades) for topic in useful]
    quiet = {"verbosity": -1}
    data = lightgbm.Dataset(matrix, label=grades, group=sizes, feature_name=list(names), params=quiet)
    least = min(50, max(5, len(grades) // 40))  # few documents would not fill one leaf
    return lightgbm.train({**_SETTINGS, "min_data_in_leaf": least}, data, num_boost_round=trees)
