"""Evaluate an adapter by what its rewrites retrieve, with 95% intervals and a paired test."""

from __future__ import annotations

import sample

import searchlora

adapter = sample.rewriter()
result = searchlora.evaluate(adapter.reference, sample.rewriting_data(), store=sample.STORE)

for system in result.comparison.systems:
    row = result.comparison.row(system, "nDCG@10")
    print(f"{system:24} nDCG@10 {row.value:.3f} ({row.low:.3f} to {row.high:.3f}), n = {row.n}")
for pair in result.comparison.comparisons:
    if pair.measure == "nDCG@10":
        interval = f"{pair.difference:+.3f} ({pair.low:+.3f} to {pair.high:+.3f})"
        print(f"{pair.a} - {pair.b}: {interval}, p = {pair.p_corrected:.3f}")
