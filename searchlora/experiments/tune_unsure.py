"""`tune --max-loss`: fit where a reranking stage may be left out, on judged topics; writes the pipeline with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus
from searchlora.errors import PipelineError
from searchlora.eval.measures import retrieval_values
from searchlora.eval.risk import CheapThreshold, threshold_at_loss
from searchlora.eval.trec import Qrels
from searchlora.experiments.tune_weights import judged_topics
from searchlora.experiments.tuned_file import write_tuned
from searchlora.files import check_writable, file_sha256
from searchlora.pipelines.config import PipelineConfig
from searchlora.pipelines.pipeline import Pipeline, run_of
from searchlora.pipelines.stages.adapter import AdapterSettings
from searchlora.pipelines.stages.guards import grades, score_gap
from searchlora.pipelines.stages.stage import StageSettings, pinned
from searchlora.progress import Steps, no_progress
from searchlora.records import SearchContext
from searchlora.task import GenerationTask, load_task

KEY = "only_if_unsure"


@dataclass(frozen=True)
class TuneUnsureResult:
    """What `tune_unsure` wrote: the pipeline file, the stage's adapter, and the threshold with its loss.

    Attributes:
        circular: Why the judgments are circular; empty: they are not.
    """

    path: Path
    adapter: str
    threshold: CheapThreshold
    circular: str = ""


def tune_unsure(
    config: PipelineConfig,
    topics: str | Path,
    qrels: str | Path,
    out: str | Path,
    max_loss: float,
    *,
    measure: str = "nDCG@10",
    corpus: Corpus | None = None,
    allow_circular: bool = False,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> TuneUnsureResult:
    """Fit `only_if_unsure` of a pipeline's last judge, so that the mean of a measure falls by `max_loss` at most.

    Arguments and errors as `tune_weights`.

    Raises:
        PipelineError: also if no adapter stage reranks.
        DataError: also if no threshold keeps the loss.
    """
    out, store = Path(out), Store.of(store)
    check_writable(out)
    stages = pinned(config.stages, store.pin)
    place = _reranking_stage(stages, store, tasks, config.name)
    until = (*stages[:place], stages[place].model_copy(update={KEY: None}))
    judged = judged_topics(config.name, until, topics, qrels, allow_circular=allow_circular, store=store)
    built = Pipeline.load(replace(config, stages=until), corpus=corpus, store=store, tasks=tasks, steps=steps)
    first = replace(built, stages=built.stages[:-1], settings=built.settings[:-1])
    before = first.execute(judged.searches, progress=steps("Searching"))
    judge = replace(built, stages=built.stages[-1:], settings=built.settings[-1:])
    after = judge.execute(before, progress=steps("Judging"))
    threshold = fitted(before, after, judged.grades, max_loss, measure)
    lost = f"{measure} {threshold.loss:.4f} lower on {threshold.rows} topics of {Path(topics).name}"
    write_tuned(out, config, stages, place, {KEY: threshold.above}, f"{KEY}: {lost}, sha256 {file_sha256(topics)}")
    return TuneUnsureResult(out, built.stages[-1].label, threshold, judged.circular)


def fitted(
    before: Sequence[SearchContext], after: Sequence[SearchContext], qrels: Qrels, max_loss: float, measure: str
) -> CheapThreshold:
    """The score gap from which searches may stay as they were before a judge, of those before and after it."""
    unranked, reranked = (retrieval_values(run_of(searches), qrels, [measure])[measure] for searches in (before, after))
    ids = [str(search["id"]) for search in before]
    losses = [reranked[id_] - unranked[id_] for id_ in ids]
    return threshold_at_loss([score_gap(search) for search in before], losses, max_loss)


def _reranking_stage(stages: Sequence[StageSettings], store: Store, tasks: str | Path | None, where: str) -> int:
    """The index of the last adapter stage with a judge."""
    for place in range(len(stages) - 1, -1, -1):
        stage = stages[place]
        if isinstance(stage, AdapterSettings):
            manifest = store.get(stage.name).manifest
            task = load_task(manifest.task, tasks)
            if isinstance(task, GenerationTask) and grades(task.bound(manifest.settings)):
                return place
    raise PipelineError("no stage reranks", where=where, fix="Give a pipeline with a judge, such as 'rerank'.")
