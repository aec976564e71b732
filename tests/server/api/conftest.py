"""Fixtures: a store with three LLM adapters and one encoder adapter, and a running server per test module."""

from __future__ import annotations

import httpx
import openai
import pytest

from searchlora.adapters.store import Store
from tests.factories import first_word, random_adapter, random_encoder_adapter, shout
from tests.server.api.serving import made_service, served

NAMES = ("one", "two", "three")

#: The task of these adapters, whose prompt is a text as it is.
PLUGIN = """
from pathlib import Path

from tests.factories import FirstWord

task = FirstWord(Path(__file__).parent)
"""


@pytest.fixture(scope="session")
def store(tmp_path_factory, tiny_base, encoder_base):
    folder = tmp_path_factory.mktemp("served")
    store = Store(folder / "store")
    task = first_word(folder / "tasks" / "first-word")
    (folder / "tasks" / "first-word" / "__init__.py").write_text(PLUGIN, encoding="utf-8")
    for seed, name in enumerate(NAMES):
        random_adapter(store, name, task, tiny_base, folder / name, seed=seed)
    store.alias("two", "production", 1)
    random_encoder_adapter(store, "meaning", shout(folder / "shout"), encoder_base, folder / "meaning")
    return store


@pytest.fixture(scope="module")
def service(store, tiny_base, encoder_base):
    return made_service(tiny_base, store, encoder_base, tasks=store.root.parent / "tasks")


@pytest.fixture(scope="module")
def url(service):
    with served(service) as url:
        yield url


@pytest.fixture(scope="module")
def official(url):
    """OpenAI's unmodified client."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def client(url):
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client
