"""A rolling update of two servers, as processes: no request and no event is lost."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count

import httpx
import pytest
import yaml

from benchmarks.servers import is_ready
from searchlora.adapters.store import Store
from searchlora.events.log import EventLog
from searchlora.task import load_task
from tests.child_scripts import COMMAND, Script
from tests.factories import random_adapter
from tests.server import haproxy

#: Seconds in which a server that was told to stop goes on serving; the proxy needs three to notice.
DRAIN_S = 5


@contextmanager
def proxy(ports: list[int]) -> Iterator[Callable[[], str]]:
    """HAProxy with the settings of the guide; the address for a request."""
    with haproxy.running(ports) as url:
        yield lambda: url


@contextmanager
def probes(ports: list[int]) -> Iterator[Callable[[], str]]:
    """No proxy: clients take turns with the servers that a probe finds ready, and keep their connections to them.

    Kubernetes distributes connections in this way.
    """
    ready, turns, ended = [*ports], count(), threading.Event()

    def probe() -> None:
        while not ended.wait(0.5):
            for port in ports:
                answers = False
                with suppress(httpx.TransportError):
                    answers = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).is_success
                if answers != (port in ready):
                    ready.append(port) if answers else ready.remove(port)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield lambda: f"http://127.0.0.1:{ready[next(turns) % len(ready)]}"
    finally:
        ended.set()
        thread.join()


class Clients:
    """Clients that search all the time, read every fifth answer as a stream, and click after every third."""

    def __init__(self, address: Callable[[], str], number: int) -> None:
        self._address, self._ended = address, threading.Event()
        self.statuses: Counter[object] = Counter()
        self.versions: dict[str, str] = {}  # id of a search -> version of the adapter
        self.clicked: set[str] = set()
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in range(number)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, user: int) -> None:
        with httpx.Client(timeout=60) as client:
            for turn in count():
                if self._ended.is_set():
                    return
                try:
                    self._turn(client, {"pipeline": "shop", "query": "red couch", "user": f"{user}"}, turn)
                except httpx.TransportError as error:
                    self.statuses[repr(error)] += 1

    def _turn(self, client: httpx.Client, body: dict, turn: int) -> None:
        streamed = turn % 5 == 0
        response = client.post(f"{self._address()}/v1/search", json=body | {"stream": streamed})
        self.statuses[response.status_code] += 1
        if response.is_success:
            text = response.text.rpartition("data: ")[2] if streamed else response.text
            found = json.loads(text)
            self.versions[found["id"]] = found["stages"][0]["adapter"]
            if turn % 3 == 0:
                click = {"search": found["id"], "action": "click", "document": found["hits"][0]["document"]}
                clicked = client.post(f"{self._address()}/v1/events", json={"events": [click]})
                self.statuses[clicked.status_code] += 1
                if clicked.is_success:
                    self.clicked.add(found["id"])


@pytest.mark.slow
@pytest.mark.parametrize("distributor", [proxy, probes])
def test_servers_that_are_replaced_in_turn_lose_nothing(
    distributor, tiny_base, corpus_of_search, postgres_url, tmp_path
):
    store, ports = Store(tmp_path / "store"), haproxy.free_ports(2)
    for version in (1, 2):
        task = load_task("rewriting").bound(None)
        random_adapter(store, "rewriter", task, tiny_base, tmp_path / f"{version}", version)
        stages = [{"adapter": {"name": f"rewriter@{version}", "max_new_tokens": 4}}, {"bm25": {"k": 3}}]
        (tmp_path / f"{version}.yaml").write_text(yaml.safe_dump({"name": "shop", "stages": stages}), encoding="utf-8")

    def start(version: int, port: int) -> Script:
        words = ["serve", "--base", tiny_base.path, "--precision", "fp32", "--store", store.root, "--port", port]
        words += ["--pipeline", tmp_path / f"{version}.yaml", "--corpus", corpus_of_search]
        return Script(COMMAND, *words, "--events", postgres_url, "--drain-time", DRAIN_S)

    def ready(server: Script, port: int) -> None:
        assert is_ready(server, f"http://127.0.0.1:{port}/readyz"), server.stderr

    servers = [start(1, port) for port in ports]
    try:
        for server, port in zip(servers, ports, strict=True):
            ready(server, port)
        with distributor(ports) as address:
            clients = Clients(address, 4)
            try:
                time.sleep(1)
                for place, port in enumerate(ports):
                    servers[place].terminate()
                    assert servers[place].wait(60) == 0, servers[place].stderr
                    servers[place] = start(2, port)
                    ready(servers[place], port)
                    time.sleep(2)  # the proxy finds that, too
                before = len(clients.versions)
                time.sleep(2)
            finally:
                clients.end()
    finally:
        for _ in range(2):  # the second time ends the draining
            for server in servers:
                server.terminate()
            time.sleep(0.3)
        codes = [server.wait(60) for server in servers]
    assert codes == [0, 0]
    assert clients.statuses.keys() == {200}, clients.statuses
    versions = [*clients.versions.values()]
    assert set(versions) == {"rewriter@1", "rewriter@2"}
    assert set(versions[before:]) == {"rewriter@2"}
    log = EventLog(postgres_url)
    recorded = {event["id"]: bool(feedback) for event, feedback in log.searches()}
    assert clients.versions.keys() <= recorded.keys()
    assert clients.clicked == {id_ for id_ in clients.versions if recorded[id_]}
    assert clients.clicked
