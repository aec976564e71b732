"""Move the alias `production` only if the adapter holds a policy; a refusal is kept in its history, too."""

from __future__ import annotations

from pathlib import Path

import sample

import searchlora

adapter = sample.rewriter()
Path("policy.yaml").write_text(
    """\
measure: nDCG@10
beat:
  base: {margin: 0.0}          # lower end of the 95% interval of the difference to the base model
  baselines: all               # the same for every rule of the task, such as the query as typed
max_invalid_rate: 0.05
judgments: [human]             # as declared when the dataset was built
""",
    encoding="utf-8",
)
promoted = searchlora.promote(
    adapter.reference, "production", "policy.yaml", sample.rewriting_data(), store=sample.STORE
)
for rule in promoted.results:
    print("held  " if rule.passed else "broken", rule.rule)
print("refused" if promoted.refused else f"production means {adapter.reference} now")
