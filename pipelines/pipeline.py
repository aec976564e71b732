"""The pipeline itself, and the TREC run that comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from searchlora.errors import PipelineError
from searchlora.eval.trec import Run
from searchlora.pipelines.stages import Stage
from searchlora.progress import Progress, silent
from searchlora.records import SearchContext


@dataclass(frozen=True)
class Pipeline:
    """Stages in order."""

    name: str
    stages: Sequence[Stage]

    @property
    def tag(self) -> str:
        """Name and pinned stages without white space, for the last column of a run file."""
        return "-".join("_".join([self.name, *(stage.label for stage in self.stages)]).split())

    def run(
        self, searches: Sequence[SearchContext], *, batch: int = 256, progress: Progress = silent
    ) -> list[SearchContext]:
        """Take searches (each with `id` and `query`) through all stages.

        Raises:
            PipelineError: when a search lacks `id` or `query`, or two share an id.
        """
        _check(searches)
        done: list[SearchContext] = []
        for start in range(0, len(searches), batch):
            part = list(searches[start : start + batch])
            for stage in self.stages:
                part = stage(part)
            done += part
            progress(len(done), len(searches))
        return done


def run_of(searches: Sequence[SearchContext]) -> Run:
    """The TREC run of searches that went through a retrieving stage."""
    return {str(search["id"]): {hit.document: hit.score for hit in search["hits"]} for search in searches}


def _check(searches: Sequence[SearchContext]) -> None:
    seen: set[str] = set()
    for number, search in enumerate(searches, 1):
        for field in ("id", "query"):
            if field not in search:
                raise PipelineError(f"has no '{field}'", where=f"query {number}")
        if str(search["id"]) in seen:
            raise PipelineError(f"the id '{search['id']}' stands twice", where=f"query {number}")
        seen.add(str(search["id"]))
