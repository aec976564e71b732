"""Agreement of the remote engine on a real vLLM server with the local engine.

    python -m benchmarks.vllm_remote --vllm-python VLLM_ENVIRONMENT/bin/python
        [--store STORE --adapters NAME@1 ... --results NAME] [--rows 24]

README.md describes the environment. Without `--adapters` a rewriter and a judge are trained for a few steps on the
synthetic shop and reused by the next call. Requests are the test rows of the synthetic shop in the prompts of the
adapters' tasks; the base gets the requests of the first adapter. Both engines compute in fp32.

* greedy: whether text, finish reason and token counts are equal;
* scores: largest difference of the log-probabilities of the choices, and whether the best choice is the same. Choices
  are those of the task, or for a task with free text the answers to five of the rows;
* JSON: whether answers constrained by a schema are valid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from statsmodels.stats.proportion import proportion_confint

from benchmarks.common import WORK, as_called, dataset, parser, save_figures
from benchmarks.servers import vllm
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.eval.formatting import markdown_table
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.inference.engine import ChoiceScores, Completion, Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.remote.engine import RemoteEngine
from searchlora.outputs import ClosedSet, Grammar, InvalidOutput, JsonObject
from searchlora.prompts import messages
from searchlora.shop import make_shop
from searchlora.task import load_generation_task

NAME = "vllm_remote"
HERE = WORK / NAME
DIFFERENCE = "difference of a log-probability"
FEW = ["optim.max_steps=24", "validation.rows=8", "validation.generate_rows=0"]
JSON = JsonObject(
    {
        "type": "object",
        "properties": {"product": {"type": "string", "maxLength": 40}, "certain": {"type": "boolean"}},
        "required": ["product", "certain"],
        "additionalProperties": False,
    }
)


@dataclass(frozen=True)
class Asked:
    """The requests for one model, and the choices that are scored for each."""

    system: str
    requests: Sequence[Request]
    choices: Sequence[Sequence[str]]


def main() -> None:
    arguments = parser(NAME)
    arguments.add_argument("--vllm-python", type=Path, required=True, help="of the environment that has vLLM")
    arguments.add_argument("--store", type=Path, help="of --adapters")
    arguments.add_argument("--adapters", nargs="+", help="references of the store")
    arguments.add_argument("--results", default=NAME, help="name of the results file")
    arguments.add_argument("--rows", type=int, default=24)
    options = arguments.parse_args()
    store = Store(options.store or HERE / "store")
    adapters = [store.get(reference) for reference in options.adapters or trained(store)]
    base = adapters[0].manifest.base.resolve()
    of_adapters = [asked_of(adapter, options.rows) for adapter in adapters]
    of_base = replace(
        of_adapters[0], system="base", requests=[replace(r, adapter=None) for r in of_adapters[0].requests]
    )
    everything = [of_base, *of_adapters]
    rank = max(adapter.manifest.recipe["lora"]["r"] for adapter in adapters)
    local = LocalEngine(base, store, precision="fp32")
    with vllm(options.vllm_python, base.path, adapters=len(adapters), rank=rank, log=HERE / "server.log") as url:
        remote = RemoteEngine(url, base, store, load=True, timeout_s=600)
        version = httpx.get(f"{url}/version").json()["version"]
        rows = [row for measure in (_greedy, _scores, _valid) for row in measure(local, remote, everything)]
        served = [card["id"] for card in httpx.get(f"{url}/v1/models").json()["data"]]
    for row in rows:
        print(json.dumps(row))
    more = {"vllm": version, "dtype": "float32", "adapters": [adapter.reference for adapter in adapters]}
    assert {*more["adapters"]} <= {*served}, served
    save_figures(options.results, rows, [], {**more, "table": _table(rows)}, module=as_called(NAME))


def trained(store: Store) -> list[str]:
    """A rewriter (free text) and a judge (scored grades), trained for a few steps on the shop."""
    found = []
    for task, name in (("rewriting", "shop-rewriter"), ("judgment", "shop-judge")):
        found.append(
            train(
                task, _dataset(task).folder, name, TrainingOptions(overrides=FEW, reuse=True), store=store, log=print
            ).reference
        )
    return found


def _dataset(task: str) -> Dataset:
    if not (HERE / "shop").is_dir():
        make_shop(HERE / "shop", products=600, queries=300)
    return dataset(HERE / f"data-{task}", task, HERE / "shop", format="shop")


def asked_of(adapter: StoredAdapter, rows: int) -> Asked:
    manifest = adapter.manifest
    task = load_generation_task(manifest.task).bound(manifest.settings, manifest.tuned)
    records = _dataset(manifest.task).records("test")[:rows]
    specs = [task.output(record) for record in records]
    closed = all(isinstance(spec, ClosedSet) for spec in specs)
    written = () if closed else list(dict.fromkeys(task.target(record) for record in records))[:5]
    return Asked(
        adapter.reference,
        [Request(messages(task, record), adapter.reference, 32) for record in records],
        [spec.choices or () if isinstance(spec, ClosedSet) else written for spec in specs],
    )


def _greedy(local: LocalEngine, remote: RemoteEngine, everything: Sequence[Asked]) -> list[dict[str, Any]]:
    """Generate for all models in one call, so that their requests share batches."""
    requests = [request for case in everything for request in case.requests]
    pairs = list(zip(local.generate(requests), remote.generate(requests), strict=True))
    found = []
    for case in everything:
        of_it: list[tuple[Completion, Completion]] = [pairs.pop(0) for _ in case.requests]
        found.append(_share(case.system, "same greedy answer", [one == other for one, other in of_it]))
    return found


def _scores(local: LocalEngine, remote: RemoteEngine, everything: Sequence[Asked]) -> list[dict[str, Any]]:
    requests = [request for case in everything for request in case.requests]
    choices = [row for case in everything for row in case.choices]
    pairs = list(zip(local.score(requests, choices), remote.score(requests, choices), strict=True))
    found = []
    for case in everything:
        of_it: list[tuple[ChoiceScores, ChoiceScores]] = [pairs.pop(0) for _ in case.requests]
        apart = [
            abs(a - b)
            for one, other in of_it
            for a, b in zip(one.log_probabilities, other.log_probabilities, strict=True)
        ]
        spread = {"value": median(apart), "low": min(apart), "high": max(apart), "n": len(apart)}
        found.append({"system": case.system, "measure": DIFFERENCE, **spread})
        found.append(_share(case.system, "same best choice", [_best(one) == _best(other) for one, other in of_it]))
    return found


def _valid(local: LocalEngine, remote: RemoteEngine, everything: Sequence[Asked]) -> list[dict[str, Any]]:
    del local
    found = []
    for case in everything:
        held = Grammar("json_schema", JSON.grammar.text)
        requests = [replace(request, grammar=held, max_new_tokens=64) for request in case.requests]
        completions = remote.generate(requests)
        right = [
            completion.finish == "stop" and not isinstance(JSON.parse(completion.text), InvalidOutput)
            for completion in completions
        ]
        found.append(_share(case.system, "valid JSON", right))
    return found


def _best(scored: ChoiceScores) -> int:
    return scored.log_probabilities.index(max(scored.log_probabilities))


def _share(system: str, measure: str, right: Sequence[bool]) -> Mapping[str, Any]:
    """A share with its Wilson interval."""
    low, high = proportion_confint(sum(right), len(right), method="wilson")
    return {
        "system": system,
        "measure": measure,
        "value": sum(right) / len(right),
        "low": low,
        "high": high,
        "n": len(right),
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the README: shares with counts, and differences of log-probabilities."""
    cells = {(row["system"], row["measure"]): row for row in rows}
    measures = ["same greedy answer", "same best choice", "valid JSON"]
    lines = []
    for system in dict.fromkeys(row["system"] for row in rows):
        shares = [cells[system, measure] for measure in measures]
        difference = cells[system, DIFFERENCE]
        counts = [f"{round(share['value'] * share['n'])} of {share['n']}" for share in shares]
        figures = [f"{difference['value']:.1e}", f"{difference['high']:.1e}", f"{difference['n']}"]
        lines.append([system, *counts, *figures])
    return markdown_table(["model", *measures, "median difference of log-probabilities", "largest", "n"], lines)


if __name__ == "__main__":
    main()
