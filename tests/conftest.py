"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os

# Before torch is imported: waiting threads that spin take the cores from the tests' own child processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pathlib import Path

import pytest

from searchlora.models.resolve import BaseModel, resolve
from tests.tiny import build_tiny_base


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
