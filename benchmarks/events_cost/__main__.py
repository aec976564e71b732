"""What metrics, recording and shadow searches cost: searches per second and latency of a server with and without them.

    python -m benchmarks.events_cost [--turns 15]

Four servers search a shop of 600 products: one whose counters and histograms do nothing, one as it is by default, one
with `--events`, and one with `--events` and `--shadow`. They take turns of a few seconds, in another order each time,
with two pipelines: BM25 alone, where a search takes a millisecond and recording weighs most, and BM25 after an adapter
has rewritten the query. In each turn 8 clients first send one search after the other, for the searches per second; then
2 clients pause between searches, for the milliseconds, so that the server is idle for half of the time and shadow
searches run. They run for what was rewritten only: BM25 alone has no candidate.
"""

from __future__ import annotations

import random
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from benchmarks.common import WORK, parser, save_figures, single_row
from benchmarks.pipeline.adapters import stored_adapters
from benchmarks.servers import child_server
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.eval.formatting import markdown_table
from searchlora.models.resolve import resolve
from searchlora.recipe import load_recipe
from searchlora.shop import make_shop
from searchlora.task import load_generation_task

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "events_cost"
HERE = WORK / NAME

#: System -> further options of its server.
WITHOUT_METRICS, PLAIN, EVENTS, SHADOW = "no metrics", "nothing recorded", "--events", "--events --shadow"
SYSTEMS = {
    WITHOUT_METRICS: (),
    PLAIN: (),
    EVENTS: ("--events", "EVENTS"),
    SHADOW: ("--events", "EVENTS", "--shadow", "candidate"),
}
#: Pairs of systems of which the second lacks what the first has.
COMPARED = ((PLAIN, WITHOUT_METRICS), (EVENTS, PLAIN), (SHADOW, EVENTS), (SHADOW, PLAIN))

SERVE = "from searchlora.cli import main; main()"
#: Metrics cannot be switched off: for this measurement, nothing is counted.
SERVE_WITHOUT_METRICS = f"""import prometheus_client as metrics
nothing = lambda *arguments, **named: None
metrics.Counter.inc = metrics.Gauge.set = metrics.Histogram.observe = nothing
for kind in (metrics.Counter, metrics.Gauge, metrics.Histogram):
    kind.labels = lambda self, *arguments, **named: self
{SERVE}"""
PIPELINES = {
    "bm25": "name: bm25\nstages:\n  - bm25: {k: 10}\n",
    "rewritten": "name: rewritten\nstages:\n"
    "  - adapter: {name: rewriter@production, max_new_tokens: 4}\n  - bm25: {k: 10}\n",
}

#: Seconds of a turn without and with pauses, and the mean pause of a client, in times of a search's duration.
SECONDS, PAUSED_SECONDS, PAUSE = 2.0, 4.0, 3.0
#: Name of the measure -> its percentile of the milliseconds.
PER_SECOND, MILLISECONDS = "searches per second", {"p50, ms": 50, "p95, ms": 95, "p99, ms": 99}
LEAST_TURNS, DRAWS = 15, 1000
QUERIES = [
    f"{kind} {thing}" for kind in ("cheap", "red", "small", "warm") for thing in ("sofa", "tent", "lamp", "coat")
]


@dataclass
class Load:
    """What a server did in its turns: searches per second, and the milliseconds of each search beside pauses."""

    per_second: list[float] = field(default_factory=list)
    milliseconds: list[list[float]] = field(default_factory=list)

    def measures(self, turns: NDArray[np.intp] | slice = slice(None)) -> NDArray[np.float64]:
        """The mean of searches per second, and percentiles of the milliseconds, over turns."""
        milliseconds = np.concatenate([self.milliseconds[turn] for turn in np.arange(len(self.milliseconds))[turns]])
        return np.array(
            [np.mean(np.array(self.per_second)[turns]), *np.percentile(milliseconds, [*MILLISECONDS.values()])]
        )


def main() -> None:
    arguments = parser(NAME)
    arguments.add_argument("--turns", type=int, default=LEAST_TURNS, help=f"at least {LEAST_TURNS} for results")
    turns = arguments.parse_args().turns
    store, corpus, random_ = _store(), _corpus(), random.Random(13)
    loads = {(pipeline, system): Load() for pipeline in PIPELINES for system in SYSTEMS}
    with ExitStack() as stack:
        urls = {system: stack.enter_context(_served(system, store, corpus)) for system in SYSTEMS}
        for turn in range(turns + 1):
            for pipeline in PIPELINES:
                for system in random_.sample([*SYSTEMS], len(SYSTEMS)):
                    load = _turn(urls[system], pipeline)
                    if turn:  # the first one warms up
                        loads[pipeline, system].per_second.append(load[0])
                        loads[pipeline, system].milliseconds.append(load[1])
                    if system == SHADOW:
                        _wait_for_shadows(urls[system])
        shadows = _shadow_searches(urls[SHADOW])
    names = (PER_SECOND, *MILLISECONDS)
    rows = [
        {**single_row(f"{pipeline}, {system}", name, value), "n": turns}
        for (pipeline, system), load in loads.items()
        for name, value in zip(names, load.measures(), strict=True)
    ]
    pairs = [pair for pipeline in PIPELINES for pair in _ratios(pipeline, loads, turns)]
    shown = _table(rows, pairs, turns)
    print(shown, f"{shadows} shadow searches were done.", sep="\n\n")
    if turns >= LEAST_TURNS:
        save_figures(NAME, rows, pairs, {"shadow searches": shadows, "table": shown})


def _ratios(pipeline: str, loads: Mapping[tuple[str, str], Load], turns: int) -> Iterator[dict[str, Any]]:
    """The ratio of each measure of two systems; the interval comes from a bootstrap of whole turns."""
    draws = np.random.default_rng(13).integers(0, turns, (DRAWS, turns))
    for a, b in COMPARED:
        above, below = loads[pipeline, a], loads[pipeline, b]
        ratio = above.measures() / below.measures()
        low, high = np.percentile([above.measures(drawn) / below.measures(drawn) for drawn in draws], [2.5, 97.5], 0)
        for place, name in enumerate((PER_SECOND, *MILLISECONDS)):
            pair = {"a": f"{pipeline}, {a}", "b": f"{pipeline}, {b}", "measure": name, "ratio": ratio[place]}
            yield {**pair, "low": low[place], "high": high[place], "n": turns}


def _table(rows: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]], turns: int) -> str:
    names = (PER_SECOND, *MILLISECONDS)
    cells: dict[str, list[str]] = {}
    for row in rows:
        cells.setdefault(row["system"], []).append(f"{row['value']:.3g}")
    ratios: dict[str, list[str]] = {}
    for pair in pairs:
        shown = f"{pair['ratio']:.2f} ({pair['low']:.2f}–{pair['high']:.2f})"
        ratios.setdefault(f"{pair['a']} / {pair['b'].partition(', ')[2]}", []).append(shown)
    tables = (("", cells), ("ratio", ratios))
    parts = [markdown_table([head, *names], [[name, *line] for name, line in of.items()]) for head, of in tables]
    return "\n\n".join([*parts, f"All searches of {turns} turns together; 95% intervals by bootstrap of turns."])


def _shadow_searches(url: str, outcome: str = "done") -> int:
    metrics = httpx.get(f"{url}/metrics").text
    found = re.findall(rf'searchlora_shadow_searches_total\{{outcome="{outcome}"\}} ([\d.]+)', metrics)
    return sum(int(float(each)) for each in found)


def _wait_for_shadows(url: str) -> None:
    """Wait until a server has done the shadow searches that wait: they would slow down the next server."""
    before = -1
    while (now := _shadow_searches(url, r"\w+")) != before:
        before = now
        time.sleep(1.0)


def _store() -> Store:
    """A rewriter with random weights in two versions: one in production, one that is its candidate."""
    base, task = resolve(load_recipe({}).base), load_generation_task("rewriting")
    store = stored_adapters(base, HERE, {"rewriter": task, "other": task})
    if len(store.versions("rewriter")) < 2:
        folder = store.get("other@1").path
        copy = HERE / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(folder / name, copy / name)
        recipe = load_recipe({}, overrides=["method=lora", "lora.r=16", f"base={base.name}"])
        store_adapter(store, "rewriter", copy, task=task, recipe=recipe, base=base)
    store.alias("rewriter", "production", 1)
    store.alias("rewriter", "candidate", 2)
    return store


def _corpus() -> Path:
    folder = HERE / "shop"
    if not folder.is_dir():
        make_shop(folder, products=600, queries=300)
    return folder / "corpus.jsonl"


def _served(system: str, store: Store, corpus: Path) -> AbstractContextManager[str]:
    number = list(SYSTEMS).index(system)
    events = HERE / f"events{number}"
    shutil.rmtree(events, ignore_errors=True)
    options = [str(events) if option == "EVENTS" else option for option in SYSTEMS[system]]
    for name, text in PIPELINES.items():
        (HERE / f"{name}.yaml").write_text(text, encoding="utf-8")
        options += ["--pipeline", str(HERE / f"{name}.yaml")]
    program = SERVE_WITHOUT_METRICS if system == WITHOUT_METRICS else SERVE
    command = [sys.executable, "-c", program, "serve", "--store", str(store.root), "--corpus", str(corpus), *options]
    return child_server(
        system, lambda port: [*command, "--port", str(port)], HERE / f"server{number}.log", ready="/readyz"
    )


def _turn(url: str, pipeline: str) -> tuple[float, list[float]]:
    """Searches per second with 8 busy clients, then the milliseconds of the searches of 2 that pause."""
    per_second = len(_searches(url, pipeline, 8, 0.0)) / SECONDS
    pause = PAUSE * float(np.median(_searches(url, pipeline, 1, 0.0, 0.5)))
    return per_second, [1000 * seconds for seconds in _searches(url, pipeline, 2, pause, PAUSED_SECONDS)]


def _searches(url: str, pipeline: str, clients: int, pause: float, duration: float = SECONDS) -> list[float]:
    """Seconds of each search."""
    until = time.monotonic() + duration

    def client(number: int) -> list[float]:
        rng, seconds = random.Random(number), []
        with httpx.Client(base_url=url, timeout=60) as http:
            while time.monotonic() < until:
                body = {"pipeline": pipeline, "query": rng.choice(QUERIES), "session": f"{number}"}
                begun = time.perf_counter()
                http.post("/v1/search", json=body).raise_for_status()
                seconds.append(time.perf_counter() - begun)
                if pause:
                    time.sleep(rng.expovariate(1 / pause))
        return seconds

    with ThreadPoolExecutor(clients) as pool:
        return [second for seconds in pool.map(client, range(clients)) for second in seconds]


if __name__ == "__main__":
    main()
