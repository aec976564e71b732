"""The verb `gate`: learn the weights of a hybrid search for each query, and measure what that brings.

`fit` measures every fixed mix on training queries, weights in tenths that add up to 1 (66 mixes of three parts, 11 of
two), and learns to choose among them from what is known of a query before retrieval. `evaluate` compares the gate on
other queries with the mix that was best on the training queries, and with the best choice there is (the oracle).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus, CorpusFile, corpus_path
from searchlora.errors import DataError, PipelineError, UsageError, some
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.formats import read_qrels, read_topics
from searchlora.eval.judgments.card import JudgmentsCard, read_card
from searchlora.eval.judgments.lineage import lineage_of, query_hash, refuse_circular
from searchlora.eval.trec import Qrels
from searchlora.experiments.fixed_mixes import PARTS, PartHits, mix_table, part_hits, values_under
from searchlora.files import atomic_text, check_writable, file_sha256
from searchlora.inference.settings import EngineSettings
from searchlora.machine import versions
from searchlora.pipelines.config import PipelineConfig, read_pipeline
from searchlora.pipelines.pipeline import Pipeline, build_pipeline, own_corpus, retrievers
from searchlora.pipelines.stage_lists import adapters, check_order, encoders, part_keys, pinned
from searchlora.pipelines.stage_settings import FuseSettings, Settings
from searchlora.pipelines.stages import FUSED_QUERIES, RetrieveStage
from searchlora.progress import Steps, no_progress
from searchlora.records import SearchContext
from searchlora.retrieval.fusion import Fused
from searchlora.retrieval.gate import Gate, GateWeigher, features_of, learn, read_gate
from searchlora.retrieval.retriever import Retriever
from searchlora.systems.pipeline import run_card, with_history

#: Systems of an evaluation besides the parts alone.
GATE, FIXED, EQUAL = "gate", "best fixed mix of training", "equal weights"
BEST_HERE, ORACLE = "best fixed mix of these queries", "oracle"


@dataclass(frozen=True)
class FittedGate:
    """A gate with the file that it was written to.

    Attributes:
        circular: Why the judgments are circular; empty: they are not.
    """

    path: Path
    gate: Gate
    circular: str = ""


@dataclass(frozen=True)
class GateEvaluation:
    """A gate on queries that it was not fitted on.

    Attributes:
        comparison: The gate against each part alone, equal weights, and the best fixed mix of the training queries;
            and, as bounds, against the best fixed mix of these queries and the best mix of each query (the oracle).
        gate: The gate.
        chosen: Weights -> the number of queries for which the gate took them, most frequent first.
        fixed, best_here: The best fixed mixes of the training queries and of these queries.
    """

    comparison: Comparison
    gate: Gate
    chosen: Mapping[tuple[float, ...], int]
    fixed: tuple[float, ...]
    best_here: tuple[float, ...]


def fit_gate(
    pipeline: str | Path | PipelineConfig,
    topics: str | Path,
    qrels: str | Path,
    out: str | Path,
    *,
    corpus: Corpus | None = None,
    overrides: Sequence[str] = (),
    engine: EngineSettings | None = None,
    measure: str = "nDCG@10",
    cluster: str | None = None,
    vectors: bool = True,
    allow_circular: bool = False,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> FittedGate:
    """Fit a gate for the fusion of a pipeline, and write it as JSON.

    Args:
        pipeline: A pipeline with one stage `fuse` of two or three parts. `combsum` adds scores, so its weights say more
            than those of `rrf`. Stages behind it are not executed.
        topics: Training queries: rows with `id`, `query` and fields that stages read.
        qrels: Their judgments.
        out: The JSON file; a pipeline names it as `gate` of the stage.
        measure: What the weights are chosen by.
        cluster: Topic field with the group of dependent queries, which cross-validation keeps together.
        vectors: Whether the query vector of a dense part may be among the features.
        allow_circular: Accept a judge that is part of the pipeline or was trained on these queries; the result, and the
            gate's `origin`, are marked as circular.
        corpus, overrides, engine, store, tasks, steps: See `Pipeline.load`.

    Raises:
        PipelineError: for a pipeline without such a stage, or where a rewrite before it searches with several queries.
        DataError: for too few judged queries, or a file that cannot be read or written.
        UsageError: for an unknown measure, a field that no topic has, or a circular judge.
        BaseModelError, NotInStore, LoadCheckFailed: if a model or an adapter is missing or fails its load check.
    """
    out = Path(out)
    check_writable(out)
    found = _Searched.load(
        pipeline, topics, qrels, corpus, overrides, engine, store, tasks, steps, allow_circular=allow_circular
    )
    mixes, values = found.table(measure, steps)
    names, text, vector = features_of(found.queries, found.part_retrievers, vectors=vectors)
    learned = learn(text, vector, values, found.groups(cluster))
    gate = Gate(
        parts=part_keys(found.settings.of),
        method=found.settings.method,
        constant=found.settings.constant,
        measure=measure,
        mixes=tuple(mixes),
        fixed=mixes[learned.fixed],
        features=names,
        dimensions=vector.shape[1] if learned.with_vectors else 0,
        mean=learned.mean,
        scale=learned.scale,
        coefficients=learned.coefficients,
        intercepts=learned.intercepts,
        validation=dict(learned.validation),
        origin=found.origin(Path(topics), Path(qrels)),
        queries=tuple(sorted({query_hash(query) for query in found.asked.values()})),
    )
    with atomic_text(out) as file:
        file.write(gate.model_dump_json(indent=1) + "\n")
    return FittedGate(out, gate, found.circular)


def evaluate_gate(
    pipeline: str | Path | PipelineConfig,
    gate: str | Path,
    topics: str | Path,
    qrels: str | Path,
    *,
    corpus: Corpus | None = None,
    overrides: Sequence[str] = (),
    engine: EngineSettings | None = None,
    cluster: str | None = None,
    allow_circular: bool = False,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> GateEvaluation:
    """Measure a gate on queries that it was not fitted on, by its own measure.

    Args:
        pipeline: The pipeline that it was fitted for.
        gate: The file that `fit_gate` wrote.
        topics: Test queries.
        allow_circular: As `fit_gate`; all figures are marked.
        Otherwise as `fit_gate`; intervals and tests resample whole groups of `cluster`.

    Raises:
        UsageError: if a test query is one that the gate was fitted on, or for a circular judge.
        PipelineError: for a gate of another fusion; also as `fit_gate`.
    """
    fitted = read_gate(Path(gate))
    found = _Searched.load(
        pipeline,
        topics,
        qrels,
        corpus,
        overrides,
        engine,
        store,
        tasks,
        steps,
        gate=Path(gate),
        allow_circular=allow_circular,
    )
    trained = set(fitted.queries)
    seen = [topic for topic, query in found.asked.items() if query_hash(query) in trained]
    if seen:
        raise UsageError(
            f"the gate was fitted on {len(seen)} of the {len(found.asked)} queries ({some(seen)})",
            where=str(topics),
            fix="Leave these queries out, or fit the gate without them.",
        )
    mixes, values = found.table(fitted.measure, steps)
    numbers = {mix: number for number, mix in enumerate(mixes)}
    here = int(np.argmax(values.mean(axis=0)))
    taken = [
        _nearest(numbers, weights) for weights in GateWeigher(fitted, found.part_retrievers).weights(found.queries)
    ]
    rows = np.arange(len(values))
    systems = {
        GATE: values[rows, taken],
        FIXED: values[:, numbers[fitted.fixed]],
        EQUAL: found.under((1.0,) * len(found.settings.of), fitted.measure),
        **{f"{name} alone": values[:, numbers[mix]] for name, mix in found.alone(mixes).items()},
        BEST_HERE: values[:, here],
        ORACLE: values.max(axis=1),
    }
    clusters = dict(zip(found.asked, found.groups(cluster), strict=True))
    evaluations = {
        name: Evaluation(
            fitted.measure,
            {fitted.measure: dict(zip(found.asked, column.tolist(), strict=True))},
            clusters=clusters,
            notes=(_BOUNDS,) if name == ORACLE else (),
            circular=found.circular,
        )
        for name, column in systems.items()
    }
    chosen = Counter(mixes[number] for number in taken)
    return GateEvaluation(
        compare(evaluations, candidate=GATE), fitted, dict(chosen.most_common()), fitted.fixed, mixes[here]
    )


_BOUNDS = f"'{BEST_HERE}' and '{ORACLE}' were chosen by the judgments of these queries: they are bounds, no systems."


@dataclass(frozen=True)
class _Searched:
    """The judged queries of a pipeline, with the hits of each part of its fusion.

    Attributes:
        config, stages, settings: The pipeline, its pinned stages up to the fusion, and the settings of the fusion.
        stage: The fusion without a gate.
        topics: Judged topic -> its fields.
        asked: Topic -> its query as it was asked. (Where a stage rewrites it, `queries` are the rewritten ones.)
        judgments: The card of the judgments; None: their source is unknown.
        circular: Why the judgments are circular; empty: they are not.
    """

    config: PipelineConfig
    stages: tuple[Settings, ...]
    settings: FuseSettings
    stage: RetrieveStage
    executed: Sequence[SearchContext]
    topics: Mapping[str, Mapping[str, Any]]
    qrels: Qrels
    hits: Mapping[str, PartHits]
    corpus: Corpus | None
    store: Store
    judgments: JudgmentsCard | None
    circular: str

    @classmethod
    def load(
        cls,
        pipeline: str | Path | PipelineConfig,
        topics: str | Path,
        qrels: str | Path,
        corpus: Corpus | None,
        overrides: Sequence[str],
        engine: EngineSettings | None,
        store: Store | str | Path | None,
        tasks: str | Path | None,
        steps: Steps,
        *,
        gate: Path | None = None,
        allow_circular: bool,
    ) -> _Searched:
        """Refuse a circular judge, execute the stages up to the fusion, and search each part once."""
        config = pipeline if isinstance(pipeline, PipelineConfig) else read_pipeline(pipeline, overrides, engine)
        check_order(config.stages, config.source)
        store = store if isinstance(store, Store) else Store(store)
        place, settings = _fusion(config)
        stages = (*pinned([*config.stages[:place], settings], store.pin),)
        fusion = stages[-1]
        assert isinstance(fusion, FuseSettings)
        judged, grades = _judged(Path(topics), Path(qrels))
        card = read_card(qrels)
        lineage = lineage_of(run_card(config.name, Pipeline(config.name, (), stages), store))
        asked = {topic: str(fields["query"]) for topic, fields in judged.items()}
        circular = refuse_circular(card, {config.name: lineage}, asked, allow=allow_circular).get(config.name, "")
        if corpus is None:
            corpus = own_corpus(config)
        documents = retrievers(corpus if corpus is not None else (), config)
        with_gate = (*stages[:-1], fusion.model_copy(update={"gate": str(gate)})) if gate is not None else stages
        # Built with the gate, so that a gate of another fusion is refused; searched without it.
        built = build_pipeline(config.name, with_gate, store=store, documents=documents, tasks=tasks, steps=steps)
        stage = built.stages[-1]
        assert isinstance(stage, RetrieveStage)
        before = Pipeline(config.name, built.stages[:-1], stages[:-1], built.documents)
        searches = [{"id": topic, **fields} for topic, fields in judged.items()]
        executed = before.execute(searches, progress=steps("Executing the stages before the fusion"))
        for search in executed:
            if len(search.get(FUSED_QUERIES, ())) > 1:
                raise PipelineError(
                    "a stage before the fusion searches with several queries, and a gate weights one",
                    where=config.source,
                    fix="Use 'rewrite: replace'.",
                )
        found = part_hits(stage, executed)
        hits = dict(zip(judged, found, strict=True))
        return cls(config, stages, fusion, stage, executed, judged, grades, hits, corpus, store, card, circular)

    @property
    def asked(self) -> dict[str, str]:
        """Topic -> query, as it was asked."""
        return {topic: str(fields["query"]) for topic, fields in self.topics.items()}

    @property
    def queries(self) -> list[str]:
        """The queries as they are searched with."""
        return [str(search["query"]) for search in self.executed]

    @property
    def part_retrievers(self) -> list[Retriever]:
        """The retrievers of the parts."""
        assert isinstance(self.stage.retriever, Fused)
        return [source.retriever for source in self.stage.retriever.sources]

    def table(self, measure: str, steps: Steps) -> tuple[list[tuple[float, ...]], NDArray[np.float64]]:
        """The mixes, and the measure of each, shape (queries, mixes)."""
        return mix_table(self.hits, self.settings, self.qrels, measure=measure, progress=steps("Measuring mixes"))

    def under(self, weights: Sequence[float], measure: str) -> NDArray[np.float64]:
        """The measure of each query under other weights."""
        return np.array(values_under(weights, self.hits, self.settings, self.qrels, measure))

    def alone(self, mixes: Sequence[tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        """Kind of a part -> the mix that takes this part only."""
        kinds = [kind for kind, _ in part_keys(self.settings.of)]
        names = [f"{kind} ({n + 1})" if kinds.count(kind) > 1 else kind for n, kind in enumerate(kinds)]
        return {name: next(mix for mix in mixes if mix[place] == 1) for place, name in enumerate(names)}

    def groups(self, cluster: str | None) -> list[str]:
        """The group of each query; its own, if it has none."""
        if cluster is not None and not any(cluster in fields for fields in self.topics.values()):
            raise UsageError(f"no topic has the field '{cluster}'", where="--cluster")
        own = [fields.get(cluster) if cluster is not None else None for fields in self.topics.values()]
        return [topic if each in (None, "") else f"group {each}" for topic, each in zip(self.topics, own, strict=True)]

    def origin(self, topics: Path, qrels: Path) -> dict[str, Any]:
        """What the gate was fitted on."""
        from searchlora.models.fingerprint import fingerprint
        from searchlora.models.resolve import resolve

        corpus = corpus_path(self.corpus) if self.corpus is not None else None
        columns = self.corpus.fields if isinstance(self.corpus, CorpusFile) else {}
        return {
            "pipeline": self.config.name,
            "stages": [list(key) for key in part_keys(self.stages)],
            "topics": {"name": topics.name, "sha256": file_sha256(topics)},
            "qrels": {
                "name": qrels.name,
                "sha256": file_sha256(qrels),
                "source": self.judgments.source if self.judgments is not None else None,
                **({"circular": self.circular} if self.circular else {}),
            },
            "corpus": {"name": corpus.name, "sha256": file_sha256(corpus), "map": dict(columns)} if corpus else None,
            "adapters": {name: dict(self.store.get(name).manifest.files) for name in adapters(self.stages)},
            "encoders": {name: fingerprint(resolve(name).path).model_dump() for name in encoders(self.stages)},
            "versions": versions(),
        }


def _fusion(config: PipelineConfig) -> tuple[int, FuseSettings]:
    """The place of the one fusion of a pipeline, and its settings without weights and gate."""
    places = [place for place, stage in enumerate(config.stages) if isinstance(stage, FuseSettings)]
    if len(places) != 1:
        raise PipelineError(
            f"the pipeline has {len(places)} stages 'fuse', and a gate is for one",
            where=config.source,
            fix="Give a pipeline such as 'hybrid'.",
        )
    settings = config.stages[places[0]]
    assert isinstance(settings, FuseSettings)
    if len(settings.of) not in PARTS:
        raise PipelineError(
            f"the fusion has {len(settings.of)} parts, and a gate weights two or three", where=config.source
        )
    plain = {"weights": None, "gate": None, "gate_sha256": None, "gate_parts": None}
    return places[0], settings.model_copy(update=plain)


def _judged(topics: Path, qrels: Path) -> tuple[dict[str, Mapping[str, Any]], Qrels]:
    fields = read_topics(topics)
    grades = read_qrels(qrels, topics=fields)
    judged = {topic: with_history(each, f"{topics}, {topic}") for topic, each in fields.items() if topic in grades}
    if not judged:
        raise DataError(
            "none of the judged topics is among the topics",
            where=str(qrels),
            fix=f"The topics are those of {topics}; their ids must be the same.",
        )
    return judged, {topic: dict(grades[topic]) for topic in judged}


def _nearest(numbers: Mapping[tuple[float, ...], int], weights: Sequence[float]) -> int:
    """The number of a mix whose weights were divided by their sum."""
    return min(numbers.items(), key=lambda each: sum(abs(a - b) for a, b in zip(each[0], weights, strict=True)))[1]
