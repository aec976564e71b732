"""Adapters of the query side: the linear map beside them, and their share of what both sides gain."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.embedding_msrd import linear_map
from benchmarks.embedding_msrd.__main__ import BOTH, MEASURE, QUERY, ZERO, share_of_gain
from searchlora.eval.evaluation import Evaluation


def test_the_map_learns_a_rotation_and_stays_near_the_identity_without_data(monkeypatch):
    random = np.random.default_rng(1)
    queries = random.normal(size=(400, 8))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    rotation, _ = np.linalg.qr(random.normal(size=(8, 8)))
    monkeypatch.setattr(linear_map, "WEIGHT", 1e-9)
    assert linear_map.fitted(queries, queries @ rotation) == pytest.approx(rotation)
    monkeypatch.setattr(linear_map, "WEIGHT", 1e9)
    assert linear_map.fitted(queries, queries @ rotation) == pytest.approx(np.eye(8), abs=1e-5)


def test_the_share_of_the_gain_is_a_ratio_of_means():
    families = {"a1": "a", "a2": "a", "b1": "b"}
    values = {ZERO: (0.2, 0.4, 0.6), BOTH: (0.4, 0.6, 0.8), QUERY: (0.3, 0.5, 0.7)}
    evaluations = {
        name: Evaluation(MEASURE, {MEASURE: dict(zip(families, of_rows, strict=True))}, families)
        for name, of_rows in values.items()
    }
    assert share_of_gain(evaluations, QUERY) == pytest.approx({"share": 0.5, "low": 0.5, "high": 0.5})
