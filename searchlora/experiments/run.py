"""The verb `run`: queries through a pipeline to a TREC run, and to results as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus
from searchlora.errors import PipelineError, RowError
from searchlora.eval.judgments.card import RunCard, read_run_card, write_run_with_card
from searchlora.eval.trec import is_word
from searchlora.experiments.lineage import run_lineage
from searchlora.files import check_writable, read_rows
from searchlora.inference.settings import EngineSettings
from searchlora.models.resolve import public_name
from searchlora.pipelines.config import (
    HitsSettings,
    adapters,
    encoders,
    produces_hits,
    read_pipeline,
    supplied_runs,
    zero_shot,
)
from searchlora.pipelines.pipeline import Pipeline, run_of
from searchlora.pipelines.results import result, write_results
from searchlora.progress import Steps, unwatched
from searchlora.records import Record, RejectedRow

#: Names of files that hold results as JSON lines; any other name is a TREC run.
_RESULTS = (".jsonl", ".jsonl.gz")


def run(
    pipeline: str | Path,
    queries: str | Path,
    corpus: Corpus | None = None,
    out: str | Path | Sequence[str | Path] = "run.trec",
    *,
    overrides: Sequence[str] = (),
    engine: EngineSettings | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = unwatched,
) -> tuple[str, int]:
    """Execute a pipeline on queries, and write a TREC run with a card beside it, results as JSON lines, or both.

    Args:
        pipeline: A YAML file, or the name of a built-in pipeline or of a YAML file here.
        queries: Rows with `id`, `query` and fields that stages read, such as `history` (JSONL, CSV, TSV, Parquet).
        corpus: Rows with `id`, `text` and optionally `title`. Default: the file that the pipeline names.
        out: One or more files. A name that ends in `.jsonl` or `.jsonl.gz` gets everything that stages wrote, one JSON
            object per query (`pipelines.results.result`); any other name gets the TREC run.
        overrides: Parameters of the pipeline, `name=value`.
        engine: Where the adapter stages are computed; replaces the engine of the pipeline.

    Returns:
        The tag of the run, with the pinned version of each adapter, and the number of queries.

    Raises:
        PipelineError: if the pipeline cannot be built, a query lacks id or text, or no stage produces hits for a run.
        RowError, DataError: for an invalid row, with its location, or if a file of `out` cannot be written.
    """
    outs = [Path(path) for path in ([out] if isinstance(out, str | Path) else out)]
    results = [path for path in outs if path.name.endswith(_RESULTS)]
    runs = [path for path in outs if path not in results]
    config = read_pipeline(pipeline, overrides, engine)
    if runs and not produces_hits(config.stages):
        raise PipelineError(
            "no stage produces hits, so there is no run to write",
            where=str(pipeline),
            fix="Write what the stages produce: --out results.jsonl.",
        )
    check_writable(*outs)
    searches = _queries(Path(queries))
    store = store if isinstance(store, Store) else Store(store)
    built = Pipeline.load(config, corpus=corpus, store=store, tasks=tasks, steps=steps)
    done = built.execute(searches, progress=steps("Searching"))
    for path in results:
        write_results(path, [result(*pair, built.labels) for pair in zip(searches, done, strict=True)])
    for path in runs:
        write_run_with_card(path, run_of(done), built.tag, run_card(config.name, built, store))
    return built.tag, len(done)


def run_card(system: str, built: Pipeline, store: Store) -> RunCard:
    """The adapters and encoders that took part in the run, so that none of them may judge it.

    The card of a run whose hits a stage takes is included. Hits without a card come from unknown models.
    """
    stages = built.settings
    own = adapters(stages)
    bare = [*encoders(stages), *(store.get(reference).manifest.base.name for reference in zero_shot(stages))]
    sources = {Path(run).name: read_run_card(run) for run in supplied_runs(stages)}
    cards = [card for card in sources.values() if card is not None]
    unknown = [name for name, card in sources.items() if card is None]
    if any(isinstance(stage, HitsSettings) and stage.run is None for stage in stages):
        unknown.append("hits of the queries")
    under = [store.get(adapter).manifest.base.name for adapter in own]
    bases = [*map(public_name, [*under, *bare]), *(base for card in cards for base in card.bases)]
    lineage = [*run_lineage(store, own, bare).references, *(each for card in cards for each in card.lineage)]
    return RunCard(
        system=system,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        adapters=tuple(dict.fromkeys([*own, *(each for card in cards for each in card.adapters)])),
        lineage=tuple(dict.fromkeys(lineage)),
        bases=tuple(dict.fromkeys(bases)),
        pipeline=built.tag,
        engines=tuple(dict.fromkeys([*built.made_by, *(each for card in cards for each in card.engines)])),
        unknown_sources=tuple(dict.fromkeys([*unknown, *(each for card in cards for each in card.unknown_sources)])),
    )


def _queries(path: Path) -> list[Record]:
    """All queries; unlike a dataset build, a run fails on any invalid row."""
    searches = []
    for row in read_rows(path, ("id", "query")):
        if isinstance(row, RejectedRow):
            raise RowError(row.reason, where=row.where, fix="Each row needs an id and a query.")
        if not is_word(str(row.data["id"])):
            raise RowError(
                f"the id '{row.data['id']}' cannot be used in a TREC file", where=row.where, fix="It must be one word."
            )
        searches.append(with_history(row.data, row.where))
    return searches


def with_history(search: Record, where: str) -> Record:
    """The search with `history` as a list of turns; a table cell may hold it as JSON. Raises `RowError`."""
    history = search.get("history")
    if history in (None, ""):
        return {key: value for key, value in search.items() if key != "history"}
    try:
        turns = json.loads(history) if isinstance(history, str) else history
        valid = all({"role", "text"} <= turn.keys() for turn in turns)
    except (ValueError, TypeError, AttributeError):
        valid = False
    if not valid:
        raise RowError(
            "'history' is not a list of turns", where=where, fix='A turn is {"role": "user", "text": "..."}.'
        )
    return {**search, "history": turns}
