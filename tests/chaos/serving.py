"""Checks of a running `searchlora serve`: load over many adapters, and requests generated from its OpenAPI document."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import quantiles

import httpx

from benchmarks.servers import child_server
from tests.chaos.findings import Finding

CLIENTS, ADAPTERS, TOKENS = 64, 8, 16
PROMPTS = ("tent", "boot for two", "stove, red", "a rope of ten metres", "lamp")


def make_store(folder: Path) -> tuple[Path, Path, list[str]]:
    """A tiny base, a store, and adapters whose answers differ; in a process of its own, for it uses torch."""
    script = f"""
from pathlib import Path
from searchlora.adapters.store import Store
from searchlora.models.resolve import resolve
from tests.factories import draft_for, echo_task, trained_adapter_folder
from searchlora.testing import build_tiny_base
folder = Path({str(folder)!r})
base = resolve(str(build_tiny_base(folder / "base", hidden=64)))
store, task = Store(folder / "store"), echo_task(folder / "task")
for n in range({ADAPTERS}):
    peft = trained_adapter_folder(base, folder / f"peft{{n}}", steps=4 + 3 * n, seed=n)
    store.add(f"a{{n}}", peft, draft_for(base, task))
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    return folder / "base", folder / "store", [f"a{n}@1" for n in range(ADAPTERS)]


def server(folder: Path, base: Path, store: Path, *more: str) -> AbstractContextManager[str]:
    """The address of a server process of its own."""
    script = "import sys; from searchlora.cli import main; sys.argv[0] = 'searchlora'; main()"
    options = ["serve", "--base", base, "--store", store, "--precision", "fp32", *more]
    command = [sys.executable, "-c", script, *map(str, options)]
    log = folder / "server.log"
    return child_server("searchlora serve", lambda port: [*command, "--port", str(port)], log, ready="/readyz")


def load(folder: Path, seconds: float, seed: int) -> list[Finding]:
    """Many clients over many adapters: every answer is the one that its adapter gives when it is asked alone."""
    base, store, adapters = make_store(folder)
    with server(folder, base, store, "--max-loras", str(ADAPTERS)) as url:
        expected = {
            (adapter, prompt): _answer(
                httpx.post(f"{url}/v1/chat/completions", json=_body(adapter, prompt), timeout=60)
            )
            for adapter in adapters
            for prompt in PROMPTS
        }
        seen: Counter[str] = Counter()
        times: list[float] = []
        asyncio.run(_clients(url, adapters, expected, time.monotonic() + seconds, seed, seen, times))
    different = len({tuple(expected[adapter, prompt] for prompt in PROMPTS) for adapter in adapters})
    p50, p99 = (quantiles(times, n=100)[place] for place in (49, 98)) if len(times) > 1 else (0.0, 0.0)
    finding = Finding(
        f"load: {CLIENTS} clients, {ADAPTERS} adapters, {seconds:.0f} s",
        sum(seen.values()),
        "answers",
        f"{seen['same']:,} as alone; p50 {p50:.2f} s, p99 {p99:.2f} s; answers of {different} adapters differ",
        [f"{count} answers: {what}" for what, count in seen.items() if what != "same"],
    )
    if not seen["same"]:
        finding.problems.append("no answer was compared")
    if different < ADAPTERS:
        finding.problems.append("adapters of the check answer alike, so a mix-up could not be seen")
    return [finding]


async def _clients(
    url: str,
    adapters: list[str],
    expected: dict[tuple[str, str], str],
    until: float,
    seed: int,
    seen: Counter[str],
    times: list[float],
) -> None:
    async def client(number: int, http: httpx.AsyncClient) -> None:
        choose = random.Random(f"{seed}/{number}")
        while time.monotonic() < until:
            adapter, prompt = choose.choice(adapters), choose.choice(PROMPTS)
            started = time.monotonic()
            try:
                answer = await _posted(http, f"{url}/v1/chat/completions", _body(adapter, prompt))
            except httpx.HTTPError as error:
                seen[type(error).__name__] += 1
                continue
            times.append(time.monotonic() - started)
            if answer.status_code != 200:
                seen[f"status {answer.status_code}"] += 1
            else:
                seen["same" if _answer(answer) == expected[adapter, prompt] else "another adapter's answer"] += 1

    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(timeout=60, limits=limits) as http:
        await asyncio.gather(*(client(number, http) for number in range(CLIENTS)))


async def _posted(http: httpx.AsyncClient, url: str, body: dict[str, object]) -> httpx.Response:
    """The answer to a request, which is sent again once where its idle connection was just being closed."""
    try:
        return await http.post(url, json=body)
    except (httpx.ReadError, httpx.RemoteProtocolError):
        return await http.post(url, json=body)


def _body(adapter: str, prompt: str) -> dict[str, object]:
    return {"model": adapter, "max_tokens": TOKENS, "messages": [{"role": "user", "content": prompt}]}


def _answer(response: httpx.Response) -> str:
    return str(response.json()["choices"][0]["message"]["content"])


def generated_requests(folder: Path, seconds: float, seed: int) -> list[Finding]:
    """schemathesis over the OpenAPI document: no 5xx, and only the statuses and content types that it names."""
    base, store, _ = make_store(folder)
    document = folder / "openapi.json"
    script = f"""
import json, sys
from searchlora.server.api.app import create_app
from tests.server.api.serving import made_service
from searchlora.adapters.store import Store
from searchlora.models.resolve import resolve
service = made_service(resolve({str(base)!r}), Store({str(store)!r}))
open({str(document)!r}, "w").write(json.dumps(create_app(service).openapi()))
service.close()
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    with server(folder, base, store, "--timeout", "20") as url:
        checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
        options = ["--url", url, "--max-time", str(int(seconds)), "--seed", str(seed), "--checks", checks, "--no-color"]
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                "run",
                document,
                *options,
                "--phases",
                "examples,coverage,fuzzing",
            ],
            capture_output=True,
            text=True,
            cwd=folder,
        )
    printed = done.stdout + done.stderr
    cases = re.search(r"([\d,]+) generated", printed)
    failures = re.findall(r"^\s*- (.+)$", printed, re.M) if done.returncode else []
    (folder / "schemathesis.log").write_text(printed)
    finding = Finding("generated requests", int(cases[1].replace(",", "")) if cases else 0, "requests")
    finding.seen = "no 5xx; only documented statuses and content types"
    finding.problems = list(dict.fromkeys(failures)) or ([printed[-600:]] if done.returncode else [])
    if not finding.attempts and not finding.problems:
        finding.problems.append("no request was generated")
    return [finding]
