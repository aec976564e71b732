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
    """Take queries through a pipeline and write a TREC run, whole or not at all, and its card beside it.

    Args:
        pipeline: A YAML file, or the name of a ready pipeline.
        queries: Rows with `id`, `query` and whatever the stages read (`history`), in JSONL, CSV, TSV or Parquet.
        corpus: Rows with `id`, `text` and, if there is one, `title`.
        overrides: `parameter=value` of the pipeline.
        engine: The server that adapters are asked of, in place of what the pipeline says.

    Returns:
        The run's tag, in which each adapter stands with its pinned version, and the number of topics.

    Raises:
        PipelineError: for a pipeline that cannot be built, or a query without id or text.
        RowError, DataError: naming file and row; also where `out` cannot be written.
    """
    name, stages = read_pipeline(pipeline, overrides, engine)
    if not any(isinstance(stage, RetrieveSettings) for stage in stages):
        raise PipelineError("no stage retrieves, so there is no run to write", where=str(pipeline))
    check_writable(Path(out))
    searches = _queries(Path(queries))
    documents = list(read_documents(Path(corpus)))
    for document in documents:
        check_id(document.id)
    place = store if isinstance(store, Store) else Store(store)
    stages = pinned(stages, place.pin)
    built = build_pipeline(name, stages, store=place, documents=documents, tasks=tasks, steps=steps)
    done = built.execute(searches, progress=steps("Searching"))
    write_run(Path(out), run_of(done), built.tag)
    write_run_card(out, run_card(name, built, stages, place))
    return built.tag, len(done)


def run_card(system: str, built: Pipeline, stages: Sequence[Settings], store: Store) -> RunCard:
    """Which adapters and encoders had a part in the run, so that none of them is let judge it (law 6).

    Args:
        stages: With every adapter by its version.
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
    """All rows; unlike a dataset's builder, a run goes on without none of them."""
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
    """A conversation may stand in a table's cell, as JSON; anything but turns of role and text is refused."""
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
