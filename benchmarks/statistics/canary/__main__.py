"""Rollouts of simulated candidates: a broken one, a slow one, ones with fewer clicks, and a harmless one.

    python -m benchmarks.statistics.canary

README.md in this folder describes the figures. Some minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks.common import parser, save_figures
from searchlora.eval.formatting import markdown_table
from searchlora.eval.intervals import proportion
from searchlora.eval.sequential import Sum
from searchlora.events.guardrails import Compared
from searchlora.experiments.rollout import RolloutPolicy

NAME, DRAWS = "canary", 100

#: Shares of the sessions of the incumbent.
INCUMBENT: Mapping[str, float] = {
    "unserved": 0.0,
    "invalid": 0.01,
    "skipped": 0.005,
    "no_hits": 0.04,
    "slow": 0.05,
    "chosen": 0.5,
}

#: What differs in the candidate.
CANDIDATES: Mapping[str, Mapping[str, float]] = {
    "harmless": {},
    "broken, every output invalid": {"invalid": 1.0},
    "broken, a third of the outputs invalid": {"invalid": 0.33},
    "slow, half of the searches": {"slow": 0.5},
    "fewer clicks by .02": {"chosen": 0.48},
    "fewer clicks by .05": {"chosen": 0.45},
    "fewer clicks by .10": {"chosen": 0.4},
}

#: Policies: of the guide, one that accepts no loss of clicks, and one that asks for safety.
POLICIES: Mapping[str, RolloutPolicy] = {
    "defaults": RolloutPolicy(),
    "5,000 sessions a step, no loss accepted": RolloutPolicy(
        min_users=5000, guardrails={**RolloutPolicy().guardrails, "chosen": 0.0}
    ),
    "safe": RolloutPolicy(advance="safe", guardrails={**RolloutPolicy().guardrails, "chosen": 0.03, "slow": 0.05}),
}

#: A look after each of this many sessions at first, then whenever they have grown by a fiftieth; and the end of a step.
_FIRST, _GROWTH, _MOST = 20, 1.02, 500_000


def main() -> None:
    arguments = parser(f"statistics.{NAME}")
    arguments.add_argument("--draws", type=int, default=DRAWS, help="rollouts of each candidate; fewer for a trial")
    draws = arguments.parse_args().draws
    rows = []
    with ProcessPoolExecutor() as pool:
        for policy in POLICIES:
            for candidate in CANDIDATES:
                found = list(pool.map(partial(rolled_out, policy, candidate), range(draws), chunksize=10))
                for row in _rows(f"{candidate}; {policy}", found):
                    print(f"{row['value']:,.3f}  {row['system']}; {row['measure']}")
                    rows.append(row)
    if draws == DRAWS:
        save_figures(NAME, rows, [], {"table": table(rows)}, module=f"statistics.{NAME}")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for each policy."""
    found = {(row["system"], row["measure"]): row for row in rows}
    parts = []
    for policy in POLICIES:
        lines = []
        for candidate in CANDIDATES:
            back, sessions = (found[f"{candidate}; {policy}", measure] for measure in ("taken back", "sessions"))
            seen = f"{sessions['value']:,.0f} ({sessions['low']:,.0f} to {sessions['high']:,.0f})"
            lines.append([candidate, f"{back['value']:.2f} ({back['low']:.2f} to {back['high']:.2f})", seen])
        head = [policy, "taken back", "its sessions until the end"]
        parts.append(markdown_table(head, lines, words=3))
    return "\n\n".join([*parts, f"{DRAWS} rollouts of each candidate; median and quartiles of the sessions."])


def rolled_out(policy_name: str, candidate: str, seed: int) -> tuple[bool, int]:
    """Whether a candidate was taken back, and how many of its sessions there were until the rollout was over."""
    policy, rng = POLICIES[policy_name], np.random.default_rng(seed)
    rates = [{**INCUMBENT, **CANDIDATES[candidate]}, INCUMBENT]
    before = 0
    for share in policy.steps[:-1]:
        sums = [dict.fromkeys(policy.guardrails, 0) for _ in rates]
        counts = [0, 0]
        look = _FIRST
        while True:
            arrived = rng.binomial(look, share)
            for arm, n in enumerate((arrived, look - arrived)):
                counts[arm] += n
                for name in policy.guardrails:
                    sums[arm][name] += rng.binomial(n, rates[arm][name])
            alpha = policy.alpha / len(policy.guardrails)
            guardrails = [
                Compared.of(name, Sum(sums[0][name], counts[0]), Sum(sums[1][name], counts[1]), margin, alpha)
                for name, margin in policy.guardrails.items()
            ]
            decision = policy.decide(guardrails)
            if decision == "back":
                return True, before + counts[0]
            if decision == "on" or sum(counts) > _MOST:
                break
            look = max(_FIRST, round((_GROWTH - 1) * sum(counts)))
        before += counts[0]
    return False, before


def _rows(system: str, found: Sequence[tuple[bool, int]]) -> Iterator[dict[str, Any]]:
    value, low, high = proportion(np.array([back for back, _ in found], float), np.ones(len(found)))
    row = {"system": system, "n": len(found)}
    yield {**row, "measure": "taken back", "value": value, "low": low, "high": high}
    low, value, high = np.quantile([sessions for _, sessions in found], [0.25, 0.5, 0.75]).tolist()
    yield {**row, "measure": "sessions", "value": value, "low": low, "high": high}


if __name__ == "__main__":
    main()
