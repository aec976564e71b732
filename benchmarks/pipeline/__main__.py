"""Queries per second of a pipeline with four LLM adapters, against the same pipeline on PEFT with `set_adapter`.

    python -m benchmarks.pipeline                          everything, on an idle machine
    python -m benchmarks.pipeline --queries 8 --repeats 2 --try    a part; nothing is stored
    python -m benchmarks.pipeline --without-whole          without the run over all queries

Queries and movies of MSRD, SmolLM2-135M in bf16, four adapters of rank 16 with random weights. `pipeline.yaml` rewrites
each query, names its intent, retrieves 20 movies by BM25, grades them, and answers in at most 64 tokens from the best
three. In each repeat, all systems execute each stage in turn on the same texts, 32 other queries each time. PEFT
and the variants of the engine grade every fifth batch of 32 pairs, so that the five repeats together grade each place
once; that time counts five-fold. The engine itself grades all.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, parser, print_or_save_speeds, real_data
from benchmarks.pipeline.adapters import stored_adapters
from benchmarks.pipeline.measuring import STAGES, Block, measured, with_engine
from benchmarks.pipeline.peft_engine import PeftEngine
from benchmarks.readers.msrd import msrd_movies, read_msrd
from benchmarks.speed import speed_ratio, speed_row
from searchlora.inference.local import LocalEngine
from searchlora.inference.settings import LocalSettings
from searchlora.models.resolve import BaseModel, resolve
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.pipelines.stages.stage import Stage, needs_of
from searchlora.recipe import load_recipe
from searchlora.records import Document, SearchContext

HERE = Path(__file__).parent
QUERIES, BATCH, GOAL = 200, 32, 5.0
ENGINE, INVARIANT, NO_PREFIXES = "engine", "engine, batch invariant", "engine, no prefix cache"
PEFT = "PEFT set_adapter"
SPEED = "queries/s"

#: A stage that asks its adapter twice about one prompt: the abstention is scored, then the answer is generated.
TWICE = "answer, abstention scored first"


def main() -> None:
    options = _arguments()
    data = real_data() / "msrd"
    documents = list(msrd_movies(data))
    searches = drawn(data, max(QUERIES, options.queries * options.repeats))
    results = benchmark(resolve(load_recipe({}).base), WORK / "pipeline", documents, searches, options)
    rows, comparisons = results.pop("rows"), results.pop("comparisons")
    print_or_save_speeds("pipeline", rows, comparisons, results, trial=options.trial)
    print(json.dumps(results, indent=1))


def _arguments() -> argparse.Namespace:
    arguments = parser("pipeline")
    arguments.add_argument("--queries", type=int, default=BATCH, help="of each repeat")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument(
        "--parts", type=int, default=5, help="PEFT and variants grade one of so many batches of pairs"
    )
    arguments.add_argument("--without-whole", action="store_true", help=f"do not run all {QUERIES} queries at once")
    arguments.add_argument("--try", dest="trial", action="store_true", help="print only")
    return arguments.parse_args()


def drawn(data: Path, count: int) -> list[SearchContext]:
    """Queries of MSRD with different texts."""
    texts = sorted({str(row.data["query"]) for row in read_msrd(data)})
    return [{"id": f"q{n}", "query": text} for n, text in enumerate(random.Random(13).sample(texts, count))]


def benchmark(
    base: BaseModel,
    folder: Path,
    documents: Sequence[Document],
    searches: Sequence[SearchContext],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Measure all systems; `rows`, `comparisons` and what else the results file holds."""
    store = stored_adapters(base, folder)
    pipelines = {
        name: Pipeline.load(HERE / "pipeline.yaml", corpus=documents, engine=settings, store=store)
        for name, settings in {
            ENGINE: LocalSettings(max_num_seqs=BATCH, batch_invariant=False),
            INVARIANT: LocalSettings(max_num_seqs=BATCH),
            NO_PREFIXES: LocalSettings(max_num_seqs=BATCH, batch_invariant=False, prefix_tokens=0),
        }.items()
    }
    pinned = {name: store.get(name) for name in needs_of(pipelines[ENGINE].settings).adapters}
    peft = PeftEngine(base, pinned, BATCH)
    systems: dict[str, Sequence[Stage]] = {name: pipeline.stages for name, pipeline in pipelines.items()}
    systems[PEFT] = with_engine(pipelines[ENGINE].stages, peft)
    warm = measured(systems, searches[:2], batch=BATCH)  # compiles kernels and loads adapters
    for name in (ENGINE, NO_PREFIXES):
        _asked_twice(systems[name], warm)  # compiles the grammar
    blocks, costs, twice = [], [], []
    for repeat in range(options.repeats):
        block = searches[repeat * options.queries : (repeat + 1) * options.queries]
        before = _engine(systems[ENGINE]).stats()
        blocks.append(measured(systems, block, part=repeat, parts=options.parts, batch=BATCH))
        after = _engine(systems[ENGINE]).stats()
        costs.append({name: getattr(after, name) - getattr(before, name) for name in _COUNTED})
        twice.append({name: _asked_twice(systems[name], blocks[-1]) for name in (ENGINE, NO_PREFIXES)})
        print(
            f"repeat {repeat + 1}: " + ", ".join(f"{name} {blocks[-1].speed(name):.3f}" for name in systems), flush=True
        )
    results = _figures(systems, blocks, twice)
    results["per_query"] = {
        name: sum(cost[name] for cost in costs) / (options.repeats * options.queries) for name in _COUNTED
    }
    results["judged_by_others"] = f"1 of {options.parts} batches of {BATCH} pairs"
    if not options.without_whole:
        begun = time.perf_counter()
        pipelines[ENGINE].execute(searches[:QUERIES])
        results["whole"] = {"queries": len(searches[:QUERIES]), "seconds": time.perf_counter() - begun}
    return results


_COUNTED = ("prompt_tokens", "cached_prompt_tokens", "generated_tokens")


def _engine(stages: Sequence[Stage]) -> LocalEngine:
    engine = next(stage.engine for stage in stages if isinstance(stage, AdapterStage))
    assert isinstance(engine, LocalEngine)
    return engine


def _stage(stages: Sequence[Stage], name: str) -> AdapterStage:
    return next(stage for stage in stages if isinstance(stage, AdapterStage) and STAGES[stage.task.name] == name)


def _asked_twice(stages: Sequence[Stage], block: Block) -> float:
    """Seconds for the answers where the abstention is scored first, as the stage does by default."""
    stage = replace(_stage(stages, "answer"), constrained=True)
    begun = time.perf_counter()
    stage.ask(block.records["answer"])
    return time.perf_counter() - begun


def _figures(
    systems: Mapping[str, Any], blocks: Sequence[Block], twice: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    speeds = {name: [block.speed(name) for block in blocks] for name in systems}
    seconds = {
        (name, stage): [block.seconds[name][stage] for block in blocks]
        for name in systems
        for stage in blocks[0].seconds[name]
    }
    rows = [speed_row(name, SPEED, values) for name, values in speeds.items()]
    rows += [speed_row(name, f"{stage}, s", values) for (name, stage), values in seconds.items()]
    rows += [speed_row(name, f"{TWICE}, s", [seconds[name] for seconds in twice]) for name in twice[0]]
    pairs = [(ENGINE, PEFT), (INVARIANT, PEFT), (NO_PREFIXES, PEFT), (ENGINE, NO_PREFIXES)]
    comparisons = [speed_ratio(a, b, SPEED, speeds[a], speeds[b]) for a, b in pairs]
    for a, b in pairs:
        comparisons += [speed_ratio(a, b, stage, seconds[b, stage], seconds[a, stage]) for stage in STAGES.values()]
    slow, quick = ([seconds[name] for seconds in twice] for name in (NO_PREFIXES, ENGINE))
    comparisons.append(speed_ratio(ENGINE, NO_PREFIXES, TWICE, slow, quick))
    return {"rows": rows, "comparisons": comparisons, "goal": GOAL, "queries_of_a_repeat": blocks[0].queries}


if __name__ == "__main__":
    main()
