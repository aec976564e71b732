"""The `judge` command: qrels from an LLM judge, with a card that marks them as such.

With an engine that is not batch invariant, a server for example, the last digits of a score depend on the other rows
of a batch. Batches are therefore a function of the set of pairs: they are sorted, cut at fixed boundaries, and a batch
is graded and reused as a whole. So a resumed run, a run in shards, and one with its pairs in another order give the
same grades as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus, CorpusFile, corpus_path, mapped_sha256
from searchlora.eval.judgments.card import JudgmentsCard, check_new
from searchlora.eval.judgments.lineage import RunLineage, doubts, read_lineage, refuse_circular
from searchlora.experiments.judge.llm_judge import Judge, load_judge
from searchlora.experiments.judge.merge import JudgeResult, merge_grades
from searchlora.experiments.judge.pair_table import PairTable, pair_table
from searchlora.experiments.judge.pairs import QueryPassage, stream_pairs
from searchlora.experiments.sharding import WHOLE, Sharding, run_shards
from searchlora.files import check_writable, file_sha256
from searchlora.files.shards import Job, Parts, Shard
from searchlora.inference.settings import EngineSettings
from searchlora.outputs import Grade, InvalidOutput
from searchlora.progress import Progress, Steps, no_progress
from searchlora.records import SearchContext

#: Smallest number of pairs that are graded together and then written; a server gets more at a time. Several batches of
#: a local engine, which sorts them by length.
BATCH_SIZE = 128


def judge(
    topics: str | Path,
    corpus: Corpus,
    out: str | Path,
    *,
    adapter: str | None = None,
    base: str | None = None,
    teacher: str | None = None,
    task: str | None = None,
    runs: Sequence[str | Path] = (),
    depth: int = 10,
    pairs: str | Path | None = None,
    generate: bool = False,
    allow_circular: bool = False,
    settings: str | Path | None = None,
    engine: EngineSettings | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    sharding: Sharding = WHOLE,
    steps: Steps = no_progress,
) -> JudgeResult | None:
    """Grade the pool of some runs, or a file of pairs, and write qrels, their card and the grades' probabilities.

    By default every label of the task's scale is scored and the most probable one is the grade. Pairs are read, graded
    and written in the order of topic and document, a part at a time, so memory does not grow with the texts. A killed
    run resumes when it is started again: `<out>.partial` holds the grades so far.

    Args:
        topics: The queries, in any topics format; `llm_judge` lists the fields that a judging task reads.
        corpus: Rows with `id`, `text` and optionally `title`.
        out: The qrels file, in the format of its extension (`.txt`: TREC). Written beside it: `<out>.card.json`,
            `<out>.probabilities.jsonl` (with the judge's reasons, if it gives any; not with `generate`), and
            `<out>.invalid.jsonl` if an answer is invalid.
        adapter: The judge; None: `base`, or `teacher` for a model of a service, and `task` name a zero-shot judge.
        runs: Run files that are pooled to `depth`; or `pairs`, a file of pairs (`read_pairs`).
        generate: Generate the answer and parse it, instead of scoring the labels.
        settings: For a bare base, a dataset folder whose scale and guideline are used.
        engine: Where the judge is computed; None: in this process.
        allow_circular: Judge even if the judge is part of a run or was trained on a topic.
        sharding: Where and in how many shards the pairs are graded.

    Returns:
        The result; None for a shard alone, whose grades `merge_grades` joins with those of the others.

    Raises:
        UsageError: when `out` exists or its extension is not that of a qrels format, the judge or the pairs are given
            in neither or both of their two ways, the task cannot judge, or the judge is circular.
        DataError: naming the file, when a topic or document is missing, or no answer is a grade.
        NotInStore, LoadCheckFailed, BaseModelError: when the judge does not exist or must not be loaded.
        EngineError: when a server cannot be asked.
    """
    target = Path(out)
    check_new(target)
    check_writable(target)
    work = partial(
        _grade_shard,
        topics=topics,
        corpus=corpus,
        out=target,
        runs=tuple(runs),
        depth=depth,
        pairs=pairs,
        allow_circular=allow_circular,
        judge={
            **{"adapter": adapter, "base": base, "teacher": teacher, "task": task},
            **{"generate": generate, "settings": settings},
            **{"engine": engine, "store": Store.of(store), "tasks": tasks},
        },
    )
    if not run_shards(work, sharding, Parts.beside(target), steps("Judging")):
        return None
    return merge_grades(target)


def _grade_shard(
    shard: Shard,
    progress: Progress,
    *,
    topics: str | Path,
    corpus: Corpus,
    out: Path,
    runs: Sequence[str | Path],
    depth: int,
    pairs: str | Path | None,
    allow_circular: bool,
    judge: Mapping[str, Any],
) -> None:
    """Grade the pairs of one shard, in this process."""
    parts = Parts.beside(out)
    streamed = stream_pairs(runs, depth, pairs)
    inputs = {
        "topics": topics,
        "corpus": corpus_path(corpus),
        **{f"run {n} {Path(path).name}": path for n, path in enumerate(runs, 1)},
    }
    inputs = inputs if pairs is None else {**inputs, "pairs": pairs}
    made_from = {label: file_sha256(path) for label, path in inputs.items()}
    if isinstance(corpus, CorpusFile):
        made_from["corpus"] = mapped_sha256(made_from["corpus"], corpus.fields)
    loaded = load_judge(**judge)
    table = pair_table(streamed, topics, corpus, [made_from, depth], parts.folder)
    card, systems = _card(loaded, made_from), _systems(runs)
    about = {
        "kind": "judge",
        "card": asdict(card),
        "scored": not loaded.generate,
        "circular": refuse_circular(card, systems, table.queries, allow=allow_circular),
        "doubts": doubts(card, systems),
    }
    parts.compute(_grading_job(loaded, table, about), shard, progress, len(table))


def _grading_job(judge: Judge, table: PairTable, about: Mapping[str, Any]) -> Job:
    """The pairs of a table as rows; a result is what `_graded_row` makes of a pair and its grade."""

    def read(numbers: Sequence[int]) -> list[dict[str, Any]]:
        return [
            {"topic": pair.topic, "document": pair.document.id, "record": judge.record(_context(pair))}
            for pair in table.read(numbers)
        ]

    def compute(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        grades = judge.grade([row["record"] for row in rows])
        graded = [_graded_row(judge, row, grade) for row, grade in zip(rows, grades, strict=True)]
        if judge.served:
            graded[0]["served"] = sorted(judge.served)
        return graded

    batch = max(BATCH_SIZE, judge.engine.call_size)
    return Job(judge.key, range(len(table)), compute, batch, read=read, about=about)


def _context(pair: QueryPassage) -> SearchContext:
    """The search context of a pair."""
    passage = {"passage": pair.document.text, "title": pair.document.title}
    return {**pair.topic_fields, "id": f"{pair.topic} {pair.document.id}", **passage}


def _graded_row(judge: Judge, row: Mapping[str, Any], grade: Grade | InvalidOutput) -> dict[str, Any]:
    """What is written of a pair; probabilities of labels with the same grade are added."""
    scale = judge.output(row["record"]).scale
    pair = {"topic": row["topic"], "document": row["document"], "scale": sorted(set(scale.values()))}
    if isinstance(grade, InvalidOutput):
        return {**pair, "invalid": {"raw": grade.raw, "reason": grade.reason}}
    sums = dict.fromkeys(scale.values(), 0.0)
    for value, probability in zip(scale.values(), grade.probabilities or (), strict=grade.probabilities is not None):
        sums[value] += probability
    probabilities = {str(value): probability for value, probability in sums.items()}
    return {**pair, "grade": grade.value, "probabilities": probabilities, "reason": grade.reason}


def _systems(runs: Sequence[str | Path]) -> dict[str, RunLineage | None]:
    """Models of each pooled run; pairs from a file have none."""
    if not runs:
        return {"the given pairs": RunLineage(())}
    return {str(path): read_lineage(path) for path in runs}


def _card(judge: Judge, made_from: Mapping[str, str]) -> JudgmentsCard:
    """The card without what only the grades tell."""
    relevant = judge.task.settings.get("relevant")
    return replace(judge.card(made_from), relevant=relevant if type(relevant) is int else None)
