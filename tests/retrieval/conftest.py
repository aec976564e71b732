"""The encoder of the tests of retrieval."""

from __future__ import annotations

import pytest

from searchlora.models.resolve import BaseModel
from searchlora.retrieval import Encoder


@pytest.fixture(scope="module")
def encoder(encoder_base: BaseModel) -> Encoder:
    return Encoder.load(str(encoder_base.path))
