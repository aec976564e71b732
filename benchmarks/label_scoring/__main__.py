"""Time to score the 77 labels of BANKING77 with three methods, measured in turn in one process.

    python -m benchmarks.label_scoring [--rows 32] [--repeats 5]

* each label alone: prompt and label are computed for every label (prompts are not cached in any method);
* one tree: the prompt once, then each shared label prefix once (`Engine.score`);
* one tree, within 8 nats: labels whose first tokens put them together 8 nats behind the best label are not scored to
  the end (`Engine.score(prune_margin=8)`, which `AdapterStage` uses).

SmolLM2-135M in bf16, alone and with the adapter of `python -m benchmarks.intent_banking77` if it exists, since the
number of pruned labels depends on the confidence of the model. Differences of log-probabilities between the tree and
single labels are reported in bf16 and, for 4 rows, in fp32, and between bf16 and fp32.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common import WORK, real_data, save_figures, speed_ratio, speed_row, timed
from searchlora.adapters.store import Store
from searchlora.inference.engine import ChoiceScores, Request
from searchlora.inference.local import LocalEngine
from searchlora.models.resolve import resolve
from searchlora.pipelines.stages.adapter import PRUNE_MARGIN
from searchlora.prompts import messages
from searchlora.recipe import load_recipe
from searchlora.task import load_prompted_task

ADAPTER = "banking77-intent"
ALONE, TREE, QUICK = "each label alone", "one tree", f"one tree, within {PRUNE_MARGIN:g} nats"
IN_FP32 = 4


def main() -> None:
    arguments = argparse.ArgumentParser(description="Speed of scoring 77 labels.")
    arguments.add_argument("--rows", type=int, default=32)
    arguments.add_argument("--repeats", type=int, default=5)
    options = arguments.parse_args()
    labels, queries = _banking77(options.rows)
    store = Store(WORK / "store")
    adapters = [None, *([f"{ADAPTER}@{versions[-1]}"] if (versions := store.versions(ADAPTER)) else [])]
    base = resolve(load_recipe({}).base)
    rows, comparisons, found = [], [], {}
    for adapter in adapters:
        requests = _requests(queries, labels, adapter)
        seconds, scored = timed(_ways(LocalEngine(base, store, prefix_tokens=0), requests, labels), options.repeats)
        name = "adapter" if adapter else "base"
        rows += [speed_row(f"{name}, {way}", "seconds", values) for way, values in seconds.items()]
        comparisons += [
            speed_ratio(f"{name}, {ALONE}", f"{name}, {way}", "seconds", seconds[ALONE], seconds[way])
            for way in (TREE, QUICK)
        ]
        few = requests[:IN_FP32]
        in_fp32 = LocalEngine(base, store, precision="fp32", prefix_tokens=0)
        exact = {way: score() for way, score in _ways(in_fp32, few, labels).items()}
        found[name] = {
            "adapter": adapter,
            "bf16": _differences(scored),
            "fp32": _differences(exact),
            "bf16 from fp32": {way: _furthest(scored[way][:IN_FP32], exact[ALONE]) for way in (ALONE, TREE)},
            **_tokens(scored),
        }
    save_figures("label_scoring", rows, comparisons, {"queries": len(queries), "labels": len(labels), "models": found})
    for each in comparisons:
        print(f"{each['b']}: {each['ratio']:.1f} times as fast as {each['a']} ({each['low']:.1f}-{each['high']:.1f})")


def _banking77(rows: int) -> tuple[list[str], list[str]]:
    """The labels in order, and queries spread over the test file."""
    with (real_data() / "banking77" / "test.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    return sorted({row["category"] for row in read}), [row["text"] for row in read[:: len(read) // rows][:rows]]


def _requests(queries: Sequence[str], labels: Sequence[str], adapter: str | None) -> list[Request]:
    """The prompts of the intent task with these labels."""
    task = load_prompted_task("intent").bound({"kind": "label", "labels": list(labels), "out_of_scope": None})
    records = [{"id": str(n), "group": str(n), "query": query} for n, query in enumerate(queries)]
    return [Request(messages(task, record), adapter) for record in records]


def _ways(
    engine: LocalEngine, requests: Sequence[Request], labels: Sequence[str]
) -> Mapping[str, Callable[[], list[ChoiceScores]]]:
    choices = [list(labels)] * len(requests)
    return {
        ALONE: lambda: _alone(engine, requests, labels),
        TREE: lambda: engine.score(requests, choices),
        QUICK: lambda: engine.score(requests, choices, prune_margin=PRUNE_MARGIN),
    }


def _alone(engine: LocalEngine, requests: Sequence[Request], labels: Sequence[str]) -> list[ChoiceScores]:
    """Score every label as the only choice of a separate request."""
    each = [request for request in requests for _ in labels]
    found = engine.score(each, [[label] for _ in requests for label in labels])
    parts = [found[start : start + len(labels)] for start in range(0, len(found), len(labels))]
    return [
        ChoiceScores(
            tuple(one.log_probabilities[0] for one in part),
            sum(one.prompt_tokens for one in part),
            sum(one.scored_tokens for one in part),
        )
        for part in parts
    ]


def _differences(scored: Mapping[str, Sequence[ChoiceScores]]) -> dict[str, float]:
    alone, tree, quick = (np.array([each.log_probabilities for each in scored[way]]) for way in (ALONE, TREE, QUICK))
    return {
        "largest difference of a log-probability, tree": float(np.abs(tree - alone).max()),
        "largest difference of a probability, tree": float(np.abs(_shares(tree) - _shares(alone)).max()),
        "largest difference of a probability, within": float(np.abs(_shares(quick) - _shares(alone)).max()),
        "same best label, tree": float((tree.argmax(1) == alone.argmax(1)).mean()),
        "same best label, within": float((quick.argmax(1) == alone.argmax(1)).mean()),
    }


def _furthest(scored: Sequence[ChoiceScores], exact: Sequence[ChoiceScores]) -> float:
    """Largest difference of log-probabilities."""
    one, other = (np.array([each.log_probabilities for each in rows]) for rows in (scored, exact))
    return float(np.abs(one - other).max())


def _shares(scores: Any) -> Any:
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def _tokens(scored: Mapping[str, Sequence[ChoiceScores]]) -> dict[str, Any]:
    return {
        "tokens per query": {
            way: {
                "prompt": float(np.mean([each.prompt_tokens for each in rows])),
                "labels": float(np.mean([each.scored_tokens for each in rows])),
            }
            for way, rows in scored.items()
        }
    }


if __name__ == "__main__":
    main()
