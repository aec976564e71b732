from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from searchlora.adapters.golden import golden_of
from searchlora.adapters.store import Store
from searchlora.models.resolve import resolve
from searchlora.testing import build_tiny_base
from tests.factories import draft_for, echo_task, trained_adapter_folder


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return resolve(str(build_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")))


@pytest.fixture(scope="session")
def other_base(tmp_path_factory):
    return resolve(str(build_tiny_base(tmp_path_factory.mktemp("bases") / "other", seed=1)))


@pytest.fixture(scope="session")
def trained(base, tmp_path_factory):
    """A plain PEFT folder; tests copy it before they change anything."""
    return trained_adapter_folder(base, tmp_path_factory.mktemp("trained") / "adapter")


@pytest.fixture
def task(tmp_path):
    return echo_task(tmp_path / "tasks" / "echo")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Fingerprints are remembered in the test's own folder."""
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def draft(base, trained, tmp_path_factory):
    """The draft of `trained`, golden renders and logits included."""
    task = echo_task(tmp_path_factory.mktemp("tasks") / "echo")
    return draft_for(base, task, golden=golden_of(task, base, trained))


@pytest.fixture
def stored(store, trained, draft):
    """`echo@1`, as `store_adapter` stores it, without the time that its check takes."""
    return store.add("echo", trained, draft)


@pytest.fixture
def writable(trained, tmp_path):
    """A copy of the trained folder that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "spoilt"))
