"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public datasets: SEARCHLORA_DATA, else ../shared/data beside the checkout; skips without it."""
    checkout = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("SEARCHLORA_DATA") or checkout.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SEARCHLORA_DATA to the folder that holds it")
    return folder
