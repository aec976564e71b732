"""The tables of the benchmark of LoRA's claims: each figure stands beside its method and its claim."""

from __future__ import annotations

import pytest

from benchmarks.lora_claims import __main__ as lora_claims
from benchmarks.lora_claims.report import tables
from benchmarks.lora_claims.timing import median_ratio

TITLE = "MSRD, all-MiniLM-L6-v2"


def row(system: str, measure: str, value: float, low: float | None = None, high: float | None = None, n: int = 1):
    return {
        "system": system,
        "measure": measure,
        "value": value,
        "low": low,
        "high": high,
        "n": n,
        "collection": TITLE,
    }


def test_methods_have_their_costs_and_claims_their_figures():
    rows = [
        row("zero-shot", "nDCG@10", 0.5, 0.45, 0.55, 260),
        row("adapter, LoRA", "nDCG@10", 0.625, 0.6, 0.65, 260),
        row("adapter, LoRA", "parameters trained", 1_179_648),
        row("adapter, LoRA", "share of parameters", 0.0493),
    ]
    pair = {"a": "adapter, LoRA", "b": "zero-shot", "measure": "nDCG@10", "difference": 0.125, "low": 0.1, "high": 0.15}
    time = {"a": "msrd, merged", "b": "msrd, base", "measure": "seconds", "ratio": 1.004, "low": 0.99, "high": 1.02}
    comparisons = [{**pair, "p_corrected": 0.0004, "collection": TITLE}, {**time, "n": 7, "collection": TITLE}]
    claims = [
        {"collection": TITLE, "claim": "trains 0.1 to 1% of the parameters", "figure": "4.93%", "met": False},
        {"collection": "BANKING77", "claim": "trains 0.1 to 1% of the parameters", "figure": "0.9%", "met": True},
        {"collection": TITLE, "claim": "trains faster", "figure": "0.98", "met": None},
    ]
    lines = tables(rows, comparisons, claims).splitlines()
    assert lines[0] == f"**{TITLE}**: n = 260; nDCG@10 with its 95% interval."
    assert "| zero-shot | 0.500 (0.450 to 0.550) | – | – | – | – | – |" in lines
    assert "| adapter, LoRA | 0.625 (0.600 to 0.650) | 1,179,648 | 4.93% | – | – | – |" in lines
    assert "| adapter, LoRA − zero-shot | +0.125 (+0.100 to +0.150) | <0.001 |" in lines
    assert "| msrd, merged | 1.004 (0.990 to 1.020) | 7 |" in lines
    assert "| trains 0.1 to 1% of the parameters | **no**: 4.93% | yes: 0.9% |" in lines
    assert "| trains faster | not shown: 0.98 | – |" in lines


def test_a_time_within_the_variation_shows_neither():
    assert [lora_claims.is_faster(ratio) for ratio in (0.41, 0.79, 0.98, 1.5)] == [True, None, None, False]
    intervals = [(1.055, 1.116), (0.917, 1.049), (0.992, 1.02)]
    assert [lora_claims.is_slower(*interval) for interval in intervals] == [True, None, False]


def test_one_slow_repeat_does_not_move_the_ratio():
    base = [1.0, 1.02, 0.98, 1.01, 0.99] * 4
    found = median_ratio([1.05 * second for second in base[:-1]] + [9.0], base)
    assert found["ratio"] == pytest.approx(1.05)
    assert found["low"] == pytest.approx(1.05) and found["high"] == pytest.approx(1.05)
    assert median_ratio([1.0, 1.1, 1.2], [1.0, 1.0, 1.0]) == {"ratio": 1.1, "low": 1.0, "high": 1.2}
