"""What recording and shadow searches cost: searches per second and latency of a server with and without them.

    python -m benchmarks.events_cost [--repeats 5]

A server without events, one with `--events`, and one with `--events` and `--shadow` are loaded in turn, in each repeat,
by clients that search a shop of 600 products: through BM25 alone, where a search takes a millisecond and recording
weighs most, and after an adapter has rewritten the query. Searches per second: 8 clients, each sends its next search at
once. Milliseconds: 2 clients with pauses, so that the server is idle for half of the time and shadow searches run. They
run for what was rewritten only: BM25 alone has no candidate.
"""

from __future__ import annotations

import random
import re
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import httpx
import numpy as np

from benchmarks.common import WORK, parser, print_or_save_speeds
from benchmarks.pipeline.adapters import stored_adapters
from benchmarks.servers import child_server
from benchmarks.speed import speed_ratio, speed_row
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.models.resolve import resolve
from searchlora.recipe import load_recipe
from searchlora.shop import make_shop
from searchlora.task import load_generation_task

NAME = "events_cost"
HERE = WORK / NAME

#: System -> further options of its server.
SYSTEMS = {
    "nothing recorded": (),
    "--events": ("--events", "EVENTS"),
    "--events --shadow": ("--events", "EVENTS", "--shadow", "candidate"),
}
PIPELINES = {
    "bm25": "name: bm25\nstages:\n  - bm25: {k: 10}\n",
    "rewritten": "name: rewritten\nstages:\n"
    "  - adapter: {name: rewriter@production, max_new_tokens: 8}\n  - bm25: {k: 10}\n",
}

#: Seconds of the load without and with pauses, and the mean pause of a client, in times of a search's duration.
SECONDS, PAUSED_SECONDS, PAUSE = 3.0, 6.0, 3.0
#: Percentile -> name of the measure.
MILLISECONDS = {50: "p50, ms", 95: "p95, ms", 99: "p99, ms"}
QUERIES = [
    f"{kind} {thing}" for kind in ("cheap", "red", "small", "warm") for thing in ("sofa", "tent", "lamp", "coat")
]


def main() -> None:
    arguments = parser(NAME)
    arguments.add_argument("--repeats", type=int, default=5, help="at least 5 for results")
    repeats = arguments.parse_args().repeats
    store, corpus = _store(), _corpus()
    figures: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        urls = {system: stack.enter_context(_served(system, store, corpus)) for system in SYSTEMS}
        for repeat in range(repeats + 1):
            for pipeline in PIPELINES:
                for system, url in urls.items():
                    for measure, value in _loaded(url, pipeline):
                        if repeat:
                            figures.setdefault((f"{pipeline}, {system}", measure), []).append(value)
                    _wait_for_shadows(url)
        shadows = _shadow_searches(urls["--events --shadow"])
    rows = [speed_row(system, measure, values) for (system, measure), values in figures.items()]
    ratios = []
    for pipeline in PIPELINES:
        plain, *others = (f"{pipeline}, {system}" for system in SYSTEMS)
        for system in others:
            for measure in ("searches per second", *MILLISECONDS.values()):
                ratios.append(speed_ratio(system, plain, measure, figures[system, measure], figures[plain, measure]))
    print(f"{shadows} shadow searches were done.")
    print_or_save_speeds(NAME, rows, ratios, {"shadow searches": shadows}, trial=repeats < 5)


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
    command = [sys.executable, "-c", "from searchlora.cli import main; main()", "serve", "--store", str(store.root)]
    command += ["--corpus", str(corpus), *options]
    return child_server(
        system, lambda port: [*command, "--port", str(port)], HERE / f"server{number}.log", ready="/readyz"
    )


def _loaded(url: str, pipeline: str) -> Iterator[tuple[str, float]]:
    """Searches per second with 8 busy clients, then the latency in milliseconds with 2 that pause."""
    seconds = _searches(url, pipeline, 8, 0.0)
    yield "searches per second", len(seconds) / SECONDS
    pause = PAUSE * float(np.median(_searches(url, pipeline, 1, 0.0, 0.5)))
    seconds = _searches(url, pipeline, 2, pause, PAUSED_SECONDS)
    for quantile, measure in MILLISECONDS.items():
        yield measure, 1000 * float(np.percentile(seconds, quantile))


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
