"""Systems that execute the same stages on the same inputs, and the time of each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from searchlora.inference.engine import Engine
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.pipelines.stages.answering import with_outputs
from searchlora.pipelines.stages.stage import Stage
from searchlora.records import Record, SearchContext

#: Task -> the stage in tables; all other stages are one row.
STAGES = {"rewriting": "rewrite", "intent": "intent", "judgment": "judge", "rag_answer": "answer"}
OTHERS = "BM25 and passages"


@dataclass
class Block:
    """What the systems did with one block of queries.

    Attributes:
        queries: Number of queries.
        seconds: System -> stage -> seconds for the block. Where a system graded a sample of the pairs, the time of the
            sample divided by its share.
        outputs: System -> stage -> id of the record -> output.
        records: Stage -> its records.
    """

    queries: int
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    outputs: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    records: dict[str, list[Record]] = field(default_factory=dict)

    def speed(self, system: str) -> float:
        """Queries per second."""
        return self.queries / sum(self.seconds[system].values())


def with_engine(stages: Sequence[Stage], engine: Engine) -> list[Stage]:
    """The stages, with another engine for those with an adapter."""
    return [replace(stage, engine=engine) if isinstance(stage, AdapterStage) else stage for stage in stages]


def measured(
    systems: Mapping[str, Sequence[Stage]],
    searches: Sequence[SearchContext],
    *,
    part: int = 0,
    parts: int = 1,
    batch: int = 32,
) -> Block:
    """Execute a pipeline stage by stage with each system; the outputs of the first are the input of the next stage.

    So every system gets the same texts in every stage. The systems take turns in each stage. The first one judges all
    pairs; the others judge every `parts`-th batch of them, from number `part` on, in the order of their lengths.

    Args:
        systems: Name -> stages; those without an adapter are executed once, and count for all.
    """
    block = Block(
        len(searches),
        {name: dict.fromkeys([*STAGES.values(), OTHERS], 0.0) for name in systems},
        {name: {} for name in systems},
    )
    first = next(iter(systems))
    for place, stage in enumerate(systems[first]):
        if isinstance(stage, AdapterStage):
            asked = {name: stages[place] for name, stages in systems.items()}
            searches = _asked(asked, stage, searches, block, part, parts, batch)
            continue
        begun = time.perf_counter()
        searches = stage(searches)
        taken = time.perf_counter() - begun
        for seconds in block.seconds.values():
            seconds[OTHERS] += taken
    return block


def _asked(
    systems: Mapping[str, Stage],
    own: AdapterStage,
    searches: Sequence[SearchContext],
    block: Block,
    part: int,
    parts: int,
    batch: int,
) -> list[SearchContext]:
    """Let each system answer the records of a stage; the searches with the outputs of the first one."""
    name = STAGES[own.task.name]
    by_search = [own.task.records_from(search) for search in searches]
    records = [record for of_search in by_search for record in of_search]
    block.records[name] = records
    sample = _sample(records, part, parts, batch) if own.task.name == "judgment" else records
    for number, (system, stage) in enumerate(systems.items()):
        assert isinstance(stage, AdapterStage)
        chosen = records if number == 0 else sample
        begun = time.perf_counter()
        outputs = stage.ask(chosen)
        block.seconds[system][name] = (time.perf_counter() - begun) * len(records) / len(chosen)
        by_id = {str(record["id"]): output for record, output in zip(chosen, outputs, strict=True)}
        block.outputs[system][name] = by_id
    answers = block.outputs[next(iter(systems))][name]
    return [
        with_outputs(own.task, search, of_search, [answers[str(record["id"])] for record in of_search])
        for search, of_search in zip(searches, by_search, strict=True)
    ]


def _sample(records: Sequence[Record], part: int, parts: int, batch: int) -> list[Record]:
    """Every `parts`-th batch of records, from number `part` on, in the order of their lengths; at least one."""
    ordered = sorted(records, key=lambda record: len(str(record["passage"])))
    batches = [ordered[start : start + batch] for start in range(0, len(ordered), batch)]
    return [record for batch in batches[part % min(parts, len(batches)) :: parts] for record in batch]
