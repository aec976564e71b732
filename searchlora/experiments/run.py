"""The verb `run`: queries through a pipeline to a TREC run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.collection import check_id, read_documents
from searchlora.errors import PipelineError, RowError
from searchlora.eval.judgments.card import RunCard, write_run_card
from searchlora.eval.trec import is_word, write_run
from searchlora.experiments.lineage import run_lineage
from searchlora.files import check_writable, read_rows
from searchlora.models.resolve import public_name
from searchlora.pipelines.config import (
    EngineSettings,
    RetrieveSettings,
    Settings,
    adapters,
    encoders,
    pinned,
    read_pipeline,
)
from searchlora.pipelines.pipeline import Pipeline, build_pipeline, run_of
from searchlora.progress import Steps, unwatched
from searchlora.records import Record, RejectedRow


def run(
    pipeline: str | Path,
    queries: str | Path,
    corpus: str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    engine: EngineSettings | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = unwatched,
) -> tuple[str, int]:
    """Execute a pipeline on queries, and write a TREC run (atomically) with a card beside it.

    Args:
        pipeline: A YAML file, or the name of a built-in pipeline.
        queries: Rows with `id`, `query` and fields that stages read, such as `history` (JSONL, CSV, TSV, Parquet).
        corpus: Rows with `id`, `text` and optionally `title`.
        overrides: Parameters of the pipeline, `name=value`.
        engine: The server that generates; replaces the engine of the pipeline.

    Returns:
        The tag of the run, with the pinned version of each adapter, and the number of topics.

    Raises:
        PipelineError: if the pipeline cannot be built, or a query lacks id or text.
        RowError, DataError: for an invalid row, with its location, or if `out` cannot be written.
    """
    name, stages = read_pipeline(pipeline, overrides, engine)
    if not any(isinstance(stage, RetrieveSettings) for stage in stages):
        raise PipelineError("no stage retrieves, so there is no run to write", where=str(pipeline))
    check_writable(Path(out))
    searches = _queries(Path(queries))
    documents = list(read_documents(Path(corpus)))
    for document in documents:
        check_id(document.id)
    store = store if isinstance(store, Store) else Store(store)
    stages = pinned(stages, store.pin)
    built = build_pipeline(name, stages, store=store, documents=documents, tasks=tasks, steps=steps)
    done = built.execute(searches, progress=steps("Searching"))
    write_run(Path(out), run_of(done), built.tag)
    write_run_card(out, run_card(name, built, stages, store))
    return built.tag, len(done)


def run_card(system: str, built: Pipeline, stages: Sequence[Settings], store: Store) -> RunCard:
    """The adapters and encoders that took part in the run, so that none of them may judge it.

    Args:
        stages: The settings of the stages, with pinned adapters.
    """
    working = adapters(stages)
    under = [store.get(adapter).manifest.base.name for adapter in working]
    searching = encoders(stages)
    return RunCard(
        system=system,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        adapters=working,
        lineage=run_lineage(store, working, searching).references,
        bases=tuple(dict.fromkeys(map(public_name, [*under, *searching]))),
        pipeline=built.tag,
    )


def _queries(path: Path) -> list[Record]:
    """All queries; unlike a dataset build, a run fails on any invalid row."""
    found = []
    for row in read_rows(path, ("id", "query")):
        if isinstance(row, RejectedRow):
            raise RowError(row.reason, where=row.where, fix="Each row needs an id and a query.")
        if not is_word(str(row.data["id"])):
            raise RowError(
                f"the id '{row.data['id']}' cannot stand in a TREC file", where=row.where, fix="It must be one word."
            )
        found.append(with_history(row.data, row.where))
    return found


def with_history(search: Record, where: str) -> Record:
    """The search with `history` as a list of turns; a table cell may hold it as JSON. Raises `RowError`."""
    history = search.get("history")
    if history in (None, ""):
        return {key: value for key, value in search.items() if key != "history"}
    try:
        turns = json.loads(history) if isinstance(history, str) else history
        whole = all({"role", "text"} <= turn.keys() for turn in turns)
    except (ValueError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise RowError(
            "'history' is not a list of turns", where=where, fix='A turn is {"role": "user", "text": "..."}.'
        )
    return {**search, "history": turns}
