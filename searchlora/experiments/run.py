"""The verb `run`: queries through a pipeline to a TREC run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.collection import read_documents
from searchlora.data.files import read_rows
from searchlora.errors import PipelineError, RowError
from searchlora.eval.trec import write_run
from searchlora.experiments.evaluate import Steps
from searchlora.pipelines.config import build_pipeline, read_pipeline
from searchlora.pipelines.pipeline import run_of
from searchlora.progress import silent
from searchlora.records import Record, RejectedRow


def run(
    pipeline: str | Path,
    queries: str | Path,
    corpus: str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    store: Store | None = None,
    tasks: str | Path | None = None,
    steps: Steps = lambda _: silent,
) -> tuple[str, int]:
    """Take queries through a pipeline and write a TREC run, whole or not at all.

    Args:
        pipeline: A YAML file, or the name of a ready pipeline.
        queries: Rows with `id`, `query` and whatever the stages read (`history`), in JSONL, CSV, TSV or Parquet.
        corpus: Rows with `id`, `text` and, if there is one, `title`.
        overrides: `parameter=value` of the pipeline.

    Returns:
        The run's tag, in which each adapter stands with its pinned version, and the number of topics.

    Raises:
        PipelineError: for a pipeline that cannot be built, or a query without id or text.
        RowError, DataError: naming file and row.
    """
    name, stages = read_pipeline(pipeline, overrides)
    searches = _queries(Path(queries))
    documents = list(read_documents(Path(corpus)))
    built = build_pipeline(name, stages, store=store or Store(), documents=documents, tasks=tasks, steps=steps)
    done = built.run(searches, progress=steps("Searching"))
    if any("hits" not in search for search in done):
        raise PipelineError("no stage retrieves, so there is no run to write", where=str(pipeline))
    write_run(Path(out), run_of(done), built.tag)
    return built.tag, len(done)


def _queries(path: Path) -> list[Record]:
    """All rows; unlike a dataset's builder, a run goes on without none of them."""
    found = []
    for row in read_rows(path, ("id", "query")):
        if isinstance(row, RejectedRow):
            raise RowError(row.reason, where=row.where, fix="Each row needs an id and a query.")
        found.append(row.data)
    return found
