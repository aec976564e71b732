"""Fixtures shared by the tests of several packages."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from searchlora.cli import main
from searchlora.eval.report import plots as report_plots
from searchlora.models.resolve import BaseModel, resolve
from searchlora.testing import build_tiny_base, build_tiny_encoder
from searchlora.threads import choose_threads
from searchlora.training import processes
from tests.child_scripts import TrainingChild
from tests.retrieval import postgres_server

choose_threads()  # before a test imports PyTorch, here and in child processes

# The same examples in every run.
hypothesis.settings.register_profile("suite", derandomize=True, max_examples=50)
hypothesis.settings.load_profile("suite")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while tests are collected: importing libraries allocates much and frees nothing."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Share the files with slow tests between two processes, which begin with them and end with those of fast tests.

    A process that has finished takes the last half of what the other still has to do; with slow files there, both would
    build their models, and one would wait long for the last test of the other.
    """
    if not hasattr(config, "workerinput"):
        return  # one process
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    slow = {file: sum(item.get_closest_marker("slow") is not None for item in each) for file, each in files.items()}
    halves: tuple[list[pytest.Item], list[pytest.Item]] = ([], [])
    number = 0
    for file, each in files.items():
        if slow[file]:
            halves[number > sum(slow.values()) / 2].extend(each)
            number += slow[file]
    for file, each in files.items():
        if not slow[file]:
            halves[len(halves[0]) >= len(items) // 2].extend(each)
    items[:] = [*halves[0], *halves[1]]


_seen: set[str] = set()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before the first test of a file, exempt what is alive from garbage collection.

    Each training run collects garbage, which takes half a second over the objects of all imported libraries.
    """
    file = item.nodeid.partition("::")[0]
    if file not in _seen:
        _seen.add(file)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public datasets: SEARCHLORA_DATA, else ../shared/data beside the checkout; skips without it."""
    checkout = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("SEARCHLORA_DATA") or checkout.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SEARCHLORA_DATA to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A random base with real architecture and tokenizer."""
    return resolve(str(build_tiny_base(tmp_path_factory.mktemp("bases") / "tiny", hidden=64)))


@pytest.fixture(scope="session", autouse=True)
def reports_without_plots() -> Generator[None, None, None]:
    """Reports have no plots, as in the core install: to draw them takes longer than the rest of many a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_plots, "find_spec", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def training_starts_at_once() -> Generator[object, None, None]:
    """Training processes are forked from one that has the libraries imported; each would import them for seconds.

    Yields what really starts one.
    """
    start = processes.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "start", TrainingChild)
        yield start


@pytest.fixture(scope="module")
def plots() -> Generator[None, None, None]:
    """Reports have plots."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_plots, "find_spec", importlib.util.find_spec)
        yield


@dataclass(frozen=True)
class Called:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """`cli("adapters", "list")` runs the command line in this process, as the installed script would."""

    def call(*arguments: object) -> Called:
        monkeypatch.setattr(sys, "argv", ["searchlora", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        reported = capsys.readouterr()
        return Called(code, reported.out, reported.err)

    return call


@pytest.fixture
def refused(cli: Callable[..., Called]) -> Callable[..., str]:
    """The one paragraph with which a command refuses; fails if it succeeds, or shows a traceback."""

    def call(*arguments: object) -> str:
        called = cli(*arguments)
        assert called.code not in (0, 70), called
        assert "Traceback" not in called.err
        complaint = [line for line in called.err.splitlines() if line.startswith("searchlora: ")]
        assert len(complaint) == 1, called.err
        return complaint[0]

    return call


@pytest.fixture(scope="session")
def encoder_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A random encoder of texts."""
    return resolve(str(build_tiny_encoder(tmp_path_factory.mktemp("encoders"))))


@pytest.fixture
def computes_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 is computed in bf16, even by a processor that is slow at it."""
    monkeypatch.setattr("searchlora.models.load.multiplies_bf16", lambda: True)


# Search engines


@pytest.fixture(scope="session")
def postgres_url() -> Generator[str, None, None]:
    """The address of a PostgreSQL with pgvector that this process of the tests starts."""
    reason = postgres_server.why_not()
    if reason is not None:
        pytest.skip(reason)
    with postgres_server.running() as url:
        yield url


@pytest.fixture(scope="session")
def milvus_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of the embedded Milvus.

    When pymilvus is imported it configures logging anew and so closes all handlers. absl's closes its stream unless
    that is the present sys.stderr; absl was imported in another test, whose sys.stderr is pytest's capture.
    """
    if (absl := sys.modules.get("absl.logging")) is not None:
        absl.get_absl_handler().python_handler.stream = sys.__stderr__
    return str(tmp_path_factory.mktemp("milvus") / "engine.db")


@pytest.fixture(scope="session")
def opensearch_url() -> str:
    """The address of a live OpenSearch, without a password."""
    url = os.environ.get("OPENSEARCH_URL")
    if not url:
        pytest.skip("OPENSEARCH_URL names no OpenSearch; requests and answers are tested in tests/retrieval")
    return url


@pytest.fixture(scope="session")
def s3():
    """The URL of a bucket of a local server."""
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    server = pytest.importorskip("moto.server", reason="moto[server], a local S3 server, is not installed")
    running = server.ThreadedMotoServer(port=0)
    running.start()
    host, port = running.get_host_and_port()
    own = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("adapters")
        yield "s3://adapters"
    running.stop()
