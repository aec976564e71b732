"""The verb `run`: queries through a pipeline to a TREC run, and to results as JSON lines."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pydantic import TypeAdapter

from searchlora.adapters.store import Store
from searchlora.adapters.stored import package_versions
from searchlora.data.collection import INDEX_FILE, Corpus, CorpusFile, corpus_path, index_folder
from searchlora.data.dataset import load_dataset
from searchlora.errors import PipelineError, RowError, UsageError
from searchlora.eval.judgments.card import RunCard, write_run_with_card
from searchlora.eval.trec import is_word, run_lines
from searchlora.experiments.sharding import WHOLE, Sharding, run_shards
from searchlora.files import atomic_text, check_writable, file_sha256, read_rows
from searchlora.files.shards import Job, Parts, Shard
from searchlora.inference.answer_cache import AnswerCache
from searchlora.pipelines.config import PipelineConfig, read_pipeline
from searchlora.pipelines.engine_load import generations
from searchlora.pipelines.pipeline import Pipeline, run_of
from searchlora.pipelines.results import result, result_line
from searchlora.pipelines.stages.stage import needs_of, produces_hits
from searchlora.progress import Progress, Steps, no_progress
from searchlora.records import Record, RejectedRow, SearchContext
from searchlora.systems.pipeline import run_card, task_identity, with_history

#: Names of files that hold results as JSON lines; any other name is a TREC run.
_RESULTS = (".jsonl", ".jsonl.gz")

#: What a file says about searches: those before the first stage, and the same after the last.
_Writer: TypeAlias = Callable[[Pipeline, Sequence[SearchContext], Sequence[SearchContext]], Iterator[str]]


def run(
    pipeline: str | Path | PipelineConfig,
    queries: str | Path,
    corpus: Corpus | None = None,
    out: str | Path | Sequence[str | Path] = "run.trec",
    *,
    trace: str | Path | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    cache: str | Path | AnswerCache | None = None,
    sharding: Sharding = WHOLE,
    steps: Steps = no_progress,
) -> tuple[str, int] | None:
    """Execute a pipeline on queries, and write a TREC run with a card beside it, results as JSON lines, or both.

    Queries are read and written in batches, so memory does not grow with their number. After a kill or an error,
    the same call continues after the last complete batch: batches wait in a folder beside the first file of `out`, and
    are used for the same queries, documents, stages with pinned versions, and engines. The files of `out` appear when
    all queries are done.

    Args:
        pipeline: A YAML file, the name of a built-in pipeline or of a YAML file here, or what `read_pipeline` made of
            one, with overrides and an engine.
        queries: Rows with `id`, `query` and fields that stages read, such as `history` (JSONL, CSV, TSV, Parquet).
        corpus: Rows with `id`, `text` and optionally `title`. Default: the file that the pipeline names.
        out: One or more files. A name that ends in `.jsonl` or `.jsonl.gz` gets everything that stages wrote, one JSON
            object per query (`pipelines.results.result`); any other name gets the TREC run.
        trace: A file of JSON lines for what each stage did with each query: input, prompts, output, version, time,
            tokens, flags (`pipelines.execution.trace_row`). None: nothing of it is kept.
        cache: A file of answers of adapter stages, see `Pipeline.load`.
        sharding: Where and in how many shards the queries are executed.

    Returns:
        The tag of the run, with the pinned version of each adapter, and the number of queries; None for a shard alone,
        whose results `merge_run` joins with those of the others.

    Raises:
        UsageError: if two outputs have the same file.
        PipelineError: if the pipeline cannot be built, a query lacks id or text, or no stage produces hits for a run.
        RowError, DataError: for an invalid row, with its location, or if a file of `out` cannot be written.
    """
    outs = [Path(path) for path in ([out] if isinstance(out, str | Path) else out)]
    config = pipeline if isinstance(pipeline, PipelineConfig) else read_pipeline(pipeline)
    if not all(map(_holds_results, outs)) and not produces_hits(config.stages):
        raise PipelineError(
            "no stage produces hits, so there is no run to write",
            where=config.source,
            fix="Write what the stages produce: --out results.jsonl.",
        )
    traced = [] if trace is None else [Path(trace)]
    named: set[Path] = set()
    for path in (*outs, *traced):
        if path.resolve() in named:
            raise UsageError("two outputs are written to this file", where=str(path), fix="Name another one.")
        named.add(path.resolve())
    check_writable(*outs, *traced)
    work = partial(
        _run_shard,
        config=config,
        queries=Path(queries),
        corpus=corpus,
        outs=outs,
        traced=traced,
        store=Store.of(store),
        tasks=tasks,
        cache=cache,
        steps=steps if sharding.is_here else no_progress,
    )
    return merge_run(outs[0]) if run_shards(work, sharding, Parts.beside(outs[0]), steps("Searching")) else None


def _run_shard(
    shard: Shard,
    progress: Progress,
    *,
    config: PipelineConfig,
    queries: Path,
    corpus: Corpus | None,
    outs: Sequence[Path],
    traced: Sequence[Path],
    store: Store,
    tasks: str | Path | None,
    cache: str | Path | AnswerCache | None,
    steps: Steps,
) -> None:
    """Execute the queries of one shard, in this process."""
    count = _check_queries(queries)
    built = Pipeline.load(config, corpus=corpus, store=store, tasks=tasks, cache=cache, steps=steps)
    writers: list[_Writer] = [_result_lines if _holds_results(path) else _run_lines for path in outs]

    def compute(batch: Sequence[SearchContext]) -> list[list[str]]:
        """A text for each file."""
        rows: list[Mapping[str, Any]] = []
        executed = built.execute(batch, trace=rows.append if traced else None)
        texts = ["".join(writer(built, batch, executed)) for writer in writers]
        return [[*texts, *(["".join(map(result_line, rows))] if traced else [])]]

    files = [*(writer.__name__ for writer in writers), *(["trace"] if traced else [])]
    key = {**_depends_on(config, built, corpus if corpus is not None else config.corpus, store), "files": files}
    about = {
        "kind": "run",
        "card": asdict(replace(run_card(config.name, built, store), created="")),
        "tag": built.tag,
        "runs": [not _holds_results(path) for path in outs] + [False] * len(traced),
        "others": [_from(outs[0].parent, path) for path in (*outs[1:], *traced)],
        "queries": file_sha256(queries),
    }
    size = built.batch_size
    job = Job(key, _queries(queries), compute, size, about=about, part_rows=size)
    Parts.beside(outs[0]).compute(job, shard, progress, count)


def _from(folder: Path, file: Path) -> str:
    """The path of a file for `merge_run`, in any working directory: relative to a folder if it is in there."""
    file, folder = file.parent.resolve() / file.name, folder.resolve()
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)


def merge_run(out: str | Path) -> tuple[str, int]:
    """Write the files of a run from the parts of all its shards, and remove the parts; see `run`."""
    target, parts = Path(out), Parts.beside(out)
    merged = parts.merged()
    about = merged.about
    created = datetime.now(UTC).isoformat(timespec="seconds")
    card = replace(TypeAdapter(RunCard).validate_json(json.dumps(about["card"])), created=created)
    paths = [target, *(target.parent / other for other in about["others"])]
    for number, (path, is_run) in enumerate(zip(paths, about["runs"], strict=True)):
        write = partial(_write_texts, texts=map(itemgetter(number), merged))
        if is_run:
            write_run_with_card(path, card, write)
        else:
            write(path)
    parts.remove()
    return about["tag"], merged.rows


def _write_texts(path: Path, texts: Iterable[str]) -> None:
    with atomic_text(path) as file:
        file.writelines(texts)


def _holds_results(path: Path) -> bool:
    return path.name.endswith(_RESULTS)


def _result_lines(built: Pipeline, searches: Sequence[SearchContext], done: Sequence[SearchContext]) -> Iterator[str]:
    for search, executed in zip(searches, done, strict=True):
        yield result_line(result(search, executed, built.labels))


def _run_lines(built: Pipeline, searches: Sequence[SearchContext], done: Sequence[SearchContext]) -> Iterator[str]:
    del searches
    for topic, scores in run_of(done).items():
        yield from run_lines(topic, scores, built.tag)


def _depends_on(config: PipelineConfig, built: Pipeline, corpus: Corpus | None, store: Store) -> dict[str, Any]:
    """All that the output for a query depends on, as JSON: batches of a killed run are used for the same only."""
    from searchlora.models.fingerprint import fingerprint
    from searchlora.models.resolve import resolve

    documents = None
    if corpus is not None:
        folder = index_folder(corpus)
        fields = corpus.fields if isinstance(corpus, CorpusFile) else {}
        documents = [file_sha256(folder / INDEX_FILE if folder is not None else corpus_path(corpus)), dict(fields)]
    used = [*needs_of(built.settings).adapters, *needs_of(built.settings).zero_shot]
    return {
        **package_versions("searchlora"),
        "pipeline": built.tag,
        "stages": [[stage.kind, stage.identity()] for stage in built.settings],
        "batch": built.batch_size,
        "engines": built.engine_id,
        "adapters": {reference: dict(store.get(reference).manifest.files) for reference in used},
        "tasks": [task_identity(task) for stage in built.stages for task in stage.tasks()],
        "encoders": {name: fingerprint(resolve(name).path).model_dump() for name in needs_of(config.stages).encoders},
        "documents": documents,
        "indexes": generations(built.settings),
        "runs": {run: file_sha256(run) for run in needs_of(config.stages).runs},
        "datasets": {folder: load_dataset(folder).fingerprint for folder in needs_of(config.stages).datasets},
    }


def _queries(path: Path) -> Iterator[Record]:
    """The queries, one at a time; unlike a dataset build, a run fails on any invalid row."""
    for row in read_rows(path, ("id", "query")):
        if isinstance(row, RejectedRow):
            raise RowError(row.reason, where=row.where, fix="Each row needs an id and a query.")
        if row.data["id"] is None or not isinstance(row.data["query"], str):
            key = "id" if row.data["id"] is None else "query"
            raise RowError(f"'{key}' is {row.data[key]!r}", where=row.where, fix="Each row needs an id and a query.")
        if not is_word(str(row.data["id"])):
            raise RowError(
                f"the id '{row.data['id']}' cannot be used in a TREC file", where=row.where, fix="It must be one word."
            )
        yield with_history(row.data, row.where)


def _check_queries(path: Path) -> int:
    """The number of queries, after all rows were checked; 8 bytes of memory each."""
    hashes = array("q", (hash(str(search["id"])) for search in _queries(path)))
    ordered = np.sort(np.asarray(hashes))
    suspected = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    seen: set[str] = set()
    if suspected:  # ids with equal hashes are compared themselves
        for number, search in enumerate(_queries(path), 1):
            query = str(search["id"])
            if query in seen:
                raise PipelineError(f"the id '{query}' is repeated", where=f"{path}, query {number}")
            if hash(query) in suspected:
                seen.add(query)
    return len(hashes)
