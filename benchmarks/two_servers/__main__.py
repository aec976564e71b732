"""Two servers of one store and one PostgreSQL, for minutes: errors, wrong versions, lost events, memory, latency.

    python -m benchmarks.two_servers [--minutes 10] [--clients 64]

Clients search at either server, each with users of its own, while the alias of the pipeline's adapter is moved: shares
of two versions, then one alone. An answer is of a wrong version if the alias gave its user another one in all the time
from five seconds before the search until the answer. Each search is looked up in the database afterwards. Less than ten
minutes is a trial, which writes no results.
"""

from __future__ import annotations

import random
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.common import WORK, as_called, parser, save_figures, single_row
from benchmarks.multi_adapter.systems import made_adapters
from benchmarks.servers import child_server
from searchlora.adapters.alias_weights import choose_version
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.eval.formatting import markdown_table
from searchlora.events.log import EventLog
from searchlora.models.resolve import resolve
from searchlora.recipe import load_recipe
from searchlora.shop import make_shop
from searchlora.task import load_generation_task
from tests.retrieval import postgres_server

NAME = "two_servers"
HERE = WORK / NAME

ADAPTER, ALIAS = "rewriter", "production"
PIPELINE = f"""name: shop
stages:
  - adapter: {{name: {ADAPTER}@{ALIAS}, max_new_tokens: 4}}
  - bm25: {{k: 10}}
"""
USERS_PER_CLIENT = 4
QUERIES = [f"{kind} {thing}" for kind in ("cheap", "red", "small") for thing in ("sofa", "tent", "lamp", "coat")]

#: Shares of version 2, one after the other, and seconds between two moves at most.
SHARES, BETWEEN_MOVES_S = (0.1, 0.25, 0.5, 1.0, 0.5, 0.0), 30.0

#: Seconds within which each server must have seen a move.
SEEN_WITHIN_S = 5.0


@dataclass(frozen=True)
class Answer:
    """A search: times of `time.monotonic`, and what came: the id and the version of a success, or an error."""

    user: str
    sent: float
    received: float
    id: str = ""
    version: str = ""
    error: str = ""


@dataclass
class Moves:
    """The shares of version 2 in the order of time, each with the times before and after it was written."""

    store: Store
    log: list[tuple[float, float, float]] = field(default_factory=list)

    def move(self, share: float) -> None:
        """Give version 2 a share of the users."""
        before = time.monotonic()
        if share in (0.0, 1.0):
            self.store.alias(ADAPTER, ALIAS, 1 + int(share))
        else:
            self.store.split(ADAPTER, ALIAS, {1: 1 - share, 2: share}, main=1)
        self.log.append((before, time.monotonic(), share))

    def allowed(self, answer: Answer) -> set[str]:
        """The versions that the alias gave a user between five seconds before the search was sent and its answer."""
        ends = [before for before, _, _ in self.log[1:]] + [float("inf")]
        spans = zip(self.log, ends, strict=True)
        return {
            f"{ADAPTER}@{_version(share, answer.user)}"
            for (before, _, share), end in spans
            if before <= answer.received and end + SEEN_WITHIN_S >= answer.sent
        }

    def between(self, first: Answer, second: Answer) -> bool:
        """Whether the alias was moved in the time of two answers, or up to five seconds before."""
        return any(first.sent - SEEN_WITHIN_S <= after and before <= second.received for before, after, _ in self.log)


def _version(share: float, user: str) -> int:
    if share in (0.0, 1.0):
        return 1 + int(share)
    return choose_version({1: 1 - share, 2: share}, 1, f"{ADAPTER}@{ALIAS} {user}")


def main() -> None:
    arguments = parser(NAME)
    arguments.add_argument("--minutes", type=float, default=10.0, help="at least 10 for results")
    arguments.add_argument("--clients", type=int, default=64)
    options = arguments.parse_args()
    if (reason := postgres_server.why_not()) is not None:
        sys.exit(reason)
    moves, corpus = Moves(_store()), _corpus()
    moves.move(0.0)
    with postgres_server.running() as database:
        with ExitStack() as stack:
            urls = [stack.enter_context(_served(number, corpus, database)) for number in range(2)]
            answers, memory = _loaded(urls, options.minutes, options.clients, moves)
        recorded = {event["id"] for event, _ in EventLog(database).searches()}
    rows = [*_figures(answers, moves, recorded, options), *_memory_rows(memory)]
    table = _table(rows, options)
    print(table)
    errors = Counter(answer.error for answer in answers if answer.error)
    print(f"Errors: {dict(errors)}")
    if options.minutes >= 10:
        more = {
            "table": table,
            "searches": len(answers),
            "moves": [share for _, _, share in moves.log],
            "errors": dict(errors),
            "memory, MB": memory,
        }
        save_figures(NAME, rows, [], more, module=as_called(NAME))


def _loaded(
    urls: Sequence[str], minutes: float, clients: int, moves: Moves
) -> tuple[list[Answer], dict[str, list[float]]]:
    """The answers of a load, and the memory of each server in MB: before it, after each minute, and at its end."""
    servers = {f"server {number}": _process(url) for number, url in enumerate(urls, 1)}
    memory: dict[str, list[float]] = {name: [] for name in servers}
    ended, until = threading.Event(), time.monotonic() + 60 * minutes

    def watch() -> None:
        while True:
            for name, process in servers.items():
                memory[name].append(process.memory_info().rss / 1e6)
            if ended.wait(min(60.0, max(0.1, until - time.monotonic()))) or time.monotonic() >= until:
                return

    def move() -> None:
        between = min(BETWEEN_MOVES_S, 60 * minutes / (len(SHARES) + 1))
        for number in count():
            if ended.wait(between) or time.monotonic() + between > until:
                return
            moves.move(SHARES[number % len(SHARES)])

    threads = [threading.Thread(target=watch), threading.Thread(target=move)]
    for thread in threads:
        thread.start()
    try:
        with ThreadPoolExecutor(clients) as pool:
            found = pool.map(lambda number: _searches(urls, number, until), range(clients))
            answers = [answer for each in found for answer in each]
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    for name, process in servers.items():
        memory[name].append(process.memory_info().rss / 1e6)
    return answers, memory


def _searches(urls: Sequence[str], number: int, until: float) -> list[Answer]:
    """What a client was answered that searches all the time, at either server, for one of its users."""
    rng, answers = random.Random(number), []
    with httpx.Client(timeout=120) as client:
        while (sent := time.monotonic()) < until:
            user = f"user {number}.{rng.randrange(USERS_PER_CLIENT)}"
            body = {"pipeline": "shop", "query": rng.choice(QUERIES), "user": user}
            try:
                response = client.post(f"{rng.choice(urls)}/v1/search", json=body)
            except httpx.TransportError as error:
                answers.append(Answer(user, sent, time.monotonic(), error=type(error).__name__))
                continue
            received = time.monotonic()
            if response.is_success:
                found = response.json()
                answers.append(Answer(user, sent, received, found["id"], found["stages"][0]["adapter"]))
            else:
                answers.append(Answer(user, sent, received, error=str(response.status_code)))
    return answers


def _figures(answers: Sequence[Answer], moves: Moves, recorded: set[str], options: Any) -> list[dict[str, Any]]:
    """What the clients saw, and what the database holds."""
    served = [answer for answer in answers if not answer.error]
    by_user: dict[str, list[Answer]] = {}
    for answer in served:
        by_user.setdefault(answer.user, []).append(answer)
    pairs = [pair for each in by_user.values() for pair in pairwise(each)]
    ids = {answer.id for answer in served}
    milliseconds = [1000 * (answer.received - answer.sent) for answer in served]
    values = {
        "searches answered": len(served),
        "errors": len(answers) - len(served),
        "of a wrong version": sum(answer.version not in moves.allowed(answer) for answer in served),
        "of another version than the user's last one, without a move": sum(
            first.version != second.version and not moves.between(first, second) for first, second in pairs
        ),
        "of version 2": sum(answer.version == f"{ADAPTER}@2" for answer in served),
        "answered and not in the database": len(ids - recorded),
        "in the database and not answered": len(recorded - ids),
        "searches per second": len(served) / (60 * options.minutes),
        "p50, ms": float(np.percentile(milliseconds, 50)),
        "p99, ms": float(np.percentile(milliseconds, 99)),
    }
    return [single_row("both servers", measure, value) for measure, value in values.items()]


def _memory_rows(memory: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Memory of each server at the start and the end, and its slope after the first minute, in MB per minute."""
    rows = []
    for name, values in memory.items():
        steady = values[1:-1]  # at full minutes
        figures = {"memory at the start, MB": values[0], "memory at the end, MB": values[-1]}
        if len(steady) > 1:
            slope = float(np.polyfit(range(len(steady)), steady, 1)[0])
            figures["memory, slope after a minute, MB per minute"] = slope
        rows += [single_row(name, measure, value) for measure, value in figures.items()]
    return rows


def _table(rows: Sequence[Mapping[str, Any]], options: Any) -> str:
    shown = []
    for row in rows:
        value = row["value"]
        text = f"{value:,}" if isinstance(value, int) else f"{value:,.2f}" if abs(value) < 10 else f"{value:,.0f}"
        shown.append([f"{row['system']}: {row['measure']}", text])
    return f"{markdown_table(['', ''], shown)}\n\n{options.clients} clients, {options.minutes:g} minutes, once."


def _store() -> Store:
    """A store with two versions of a rewriter with random weights, and no history of an alias."""
    shutil.rmtree(HERE / "store", ignore_errors=True)
    base, store = resolve(load_recipe({}).base), Store(HERE / "store")
    task = load_generation_task("rewriting")
    recipe = load_recipe({}, overrides=["method=lora", "lora.r=16", f"base={base.name}"])
    for folder in made_adapters(base, HERE, 2, 16):
        store_adapter(store, ADAPTER, folder, task=task, recipe=recipe, base=base)
    return store


def _corpus() -> Path:
    if not (HERE / "shop").is_dir():
        make_shop(HERE / "shop", products=600, queries=300)
    return HERE / "shop" / "corpus.jsonl"


def _served(number: int, corpus: Path, database: str) -> Any:
    (HERE / "shop.yaml").write_text(PIPELINE, encoding="utf-8")
    command = [sys.executable, "-m", "searchlora", "serve", "--store", str(HERE / "store"), "--events", database]
    command += ["--pipeline", str(HERE / "shop.yaml"), "--corpus", str(corpus)]
    log = HERE / f"server{number}.log"
    return child_server(f"server {number + 1}", lambda port: [*command, "--port", str(port)], log, ready="/readyz")


def _process(url: str) -> psutil.Process:
    """The child process that serves at a URL."""
    port = url.rpartition(":")[2]
    return next(child for child in psutil.Process().children() if child.cmdline()[-1] == port)


if __name__ == "__main__":
    main()
