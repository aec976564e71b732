"""The managed vLLM engine on vLLM itself: the verbs, scores of choices, the end of its processes, aliases of a store.

    python -m benchmarks.vllm_managed --vllm-python VLLM_ENVIRONMENT/bin/python [--rows 24] [--parts PART ...]

README.md describes the environment. All engines compute in fp32.

* verbs: the contract table of tests/contract (`verbs.VERBS`) with adapters of small random weights, on a local engine
  and on the managed one: share of equal outputs, and largest difference of a figure. Two verbs sample with other random
  numbers than the local engine; of them only that they ran is known;
* scoring: grades of the synthetic shop's test rows by a judge that is trained for a few steps: prompts for each pair,
  whether the grade is that of exact local scores, and the largest difference of a probability;
* life: seconds until the server answers, and processes that a killed parent leaves;
* aliases: two vLLM servers with the resolver plugin, and the seconds until each serves the version that an alias was
  moved to.

Without `--parts` all run, and the results are written.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import mean
from typing import Any

import httpx
import psutil
from statsmodels.stats.proportion import proportion_confint

from benchmarks.common import WORK, as_called, dataset, parser, save_figures
from benchmarks.servers import vllm
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.eval.formatting import markdown_table
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.inference.engine import ChoiceScores, Request
from searchlora.inference.engines import make_engine
from searchlora.inference.remote.vllm_server import installed_version, shared_server
from searchlora.inference.settings import LocalSettings, VllmSettings
from searchlora.models.resolve import resolve
from searchlora.pipelines.stages.adapter import PRUNE_MARGIN
from searchlora.prompts import messages
from searchlora.shop import make_shop
from searchlora.task import load_generation_task
from searchlora.vllm_resolver import STORE
from tests.contract.verbs import VERBS, made_shop
from tests.factories import random_adapter_folder

HERE = WORK / "vllm_managed"
BASE = "smollm2-135m-instruct-q4_1"
SAMPLED = ("improve", "several answers")
MOVES = 4
FEW = ["optim.max_steps=24", "validation.rows=8", "validation.generate_rows=0"]

Row = dict[str, Any]

#: Start a server in a process of its own, and say so; `life` kills it.
PARENT = """
import sys, time
from searchlora.inference.remote.vllm_server import VllmServer
from searchlora.inference.settings import VllmSettings
from searchlora.models.resolve import resolve
server = VllmServer(VllmSettings.model_validate_json(sys.argv[1]), resolve(sys.argv[2]))
print("ready", flush=True)
time.sleep(3600)
"""


def main() -> None:
    arguments = parser("vllm_managed")
    arguments.add_argument("--vllm-python", type=Path, required=True, help="of the environment that has vLLM")
    arguments.add_argument("--rows", type=int, default=24)
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = arguments.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    HERE.mkdir(parents=True, exist_ok=True)
    settings = VllmSettings(
        python=str(options.vllm_python.expanduser().absolute()),
        precision="fp32",
        max_loras=8,
        max_lora_rank=16,
        args=("--enforce-eager", "--max-num-seqs=8", "--max-model-len=2048"),
        start_timeout_s=1800,
    )
    rows: list[Row] = []
    server = shared_server(settings, resolve(BASE))  # kept, so that all verbs use one
    for part in options.parts:
        for row in PARTS[part](settings, options.rows):
            print(json.dumps(row), flush=True)
            rows.append(row)
    version = installed_version(settings.interpreter)
    server.stop()
    if options.parts == list(PARTS):
        more = {"vllm": version, "dtype": "float32", "table": _table(rows)}
        save_figures("vllm_managed", rows, [], more, module=as_called("vllm_managed"))


def verbs(settings: VllmSettings, rows: int) -> Iterator[Row]:
    del rows
    folder = HERE / "verbs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shop = made_shop(resolve(BASE), folder, spread=0.02)
    for verb, run in VERBS.items():
        outcomes = []
        for name, engine in (("local", LocalSettings(precision="fp32")), ("vllm", settings)):
            (out := folder / verb.replace(" ", "_") / name).mkdir(parents=True)
            outcomes.append(run(shop, engine, out))
        assert not outcomes[1].engines or outcomes[1].engines[0].startswith("vllm ")
        if verb in SAMPLED:
            yield {"system": verb, "measure": "ran", "value": 1, "n": 1}
            continue
        one, other = (list(_leaves([outcome.outputs, outcome.scores])) for outcome in outcomes)
        assert len(one) == len(other), (one, other)
        pairs = list(zip(one, other, strict=True))
        same = [a == b for a, b in pairs if not isinstance(a, float)]
        apart = [abs(a - b) for a, b in pairs if isinstance(a, float) and math.isfinite(a)]
        if same:
            yield _share(verb, "same outputs", same)
        if apart:
            yield _spread(verb, "difference of a figure", apart)


def _judge(store: Store, rows: int) -> tuple[StoredAdapter, list[Request], list[tuple[str, ...]]]:
    """A judge that is trained for a few steps on the shop, its requests, and the grades that are scored."""
    if not (HERE / "shop").is_dir():
        make_shop(HERE / "shop", products=600, queries=300)
    data = dataset(HERE / "data", "judgment", HERE / "shop", format="shop")
    options = TrainingOptions(overrides=FEW, reuse=True)
    judge = train("judgment", data.folder, "shop-judge", options, store=store, log=print)
    task = load_generation_task("judgment").bound(judge.manifest.settings, judge.manifest.tuned)
    records = data.records("test")[:rows]
    requests = [Request(messages(task, record), judge.reference, 32) for record in records]
    return judge, requests, [task.output(record).choices for record in records]


def scoring(settings: VllmSettings, rows: int) -> Iterator[Row]:
    store = Store(HERE / "store")
    judge, requests, choices = _judge(store, rows)
    base = judge.manifest.base.resolve()
    exact = make_engine(LocalSettings(precision="fp32"), base, store).score(requests, choices)
    engine = make_engine(settings, base, store)
    for how, margin in (("pruned", PRUNE_MARGIN), ("exact", None)):
        found = engine.score(requests, choices, prune_margin=margin)
        # The prefix of a prompt is one token of a grade, so the tokens give the number of prompts.
        prompts = [scores.prompt_tokens // own.prompt_tokens for scores, own in zip(found, exact, strict=True)]
        probabilities = [(_probabilities(a), _probabilities(b)) for a, b in zip(found, exact, strict=True)]
        yield _spread(how, "prompts for a pair", prompts)
        yield _share(how, "same grade", [a.index(max(a)) == b.index(max(b)) for a, b in probabilities])
        apart = [abs(x - y) for a, b in probabilities for x, y in zip(a, b, strict=True)]
        yield _spread(how, "difference of a probability", apart)
    engine.close()


def life(settings: VllmSettings, rows: int) -> Iterator[Row]:
    del rows
    command = [sys.executable, "-c", PARENT, settings.model_dump_json(), BASE]
    start = time.monotonic()
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    yield _spread("server", "seconds until it answers", [time.monotonic() - start])
    children = psutil.Process(parent.pid).children(recursive=True)
    assert any("EngineCore" in " ".join(child.cmdline()) + child.name() for child in children), children
    killed = time.monotonic()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while (left := [child for child in children if _is_alive(child)]) and time.monotonic() < killed + 60:
        time.sleep(0.2)
    yield _spread("killed parent", "processes left", [len(left)], started=len(children))
    yield _spread("killed parent", "seconds until they are gone", [time.monotonic() - killed])


def aliases(settings: VllmSettings, rows: int) -> Iterator[Row]:
    """Move an alias between two versions; each server answers with the name of the version."""
    del rows
    folder = HERE / "aliases"
    shutil.rmtree(folder, ignore_errors=True)
    base, store, task = resolve(BASE), Store(folder / "store"), load_generation_task("rewriting")
    for seed in (1, 2):
        made, recipe = random_adapter_folder(base, folder / str(seed), seed, ("precision=fp32",), spread=0.02)
        store_adapter(store, "moving", made, task=task, recipe=recipe, base=base)
    store.alias("moving", "production", 1)
    os.environ[STORE] = str(store.root)
    python = Path(str(settings.python))
    with ExitStack() as stack:
        urls = [
            stack.enter_context(vllm(python, base.path, adapters=3, rank=4, log=folder / f"server{n}.log"))
            for n in range(2)
        ]
        seconds, right = [], []
        for move in range(MOVES):
            version = move % 2 + 1
            store.alias("moving", "production", version)
            moved, waiting = time.monotonic(), list(urls)
            while waiting and time.monotonic() < moved + 60:
                for url in list(waiting):
                    if _completed(url, "moving@production")[0] == f"moving@production/{version}":
                        waiting.remove(url)
                        seconds.append(time.monotonic() - moved)
            assert not waiting, f"{waiting} did not follow the alias; see {folder}"
            right += [
                _completed(url, "moving@production")[1] == _completed(url, f"moving@{version}")[1] for url in urls
            ]
    del os.environ[STORE]
    yield _spread("alias", "seconds until a server follows", seconds[2:])  # the first one was not moved
    yield _share("alias", "answers of the version that it names", right)


def _completed(url: str, model: str) -> tuple[str, str]:
    """The server's name of the model that answered, and its greedy answer."""
    body = {"model": model, "prompt": "red shoes", "max_tokens": 12, "temperature": 0}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=600).raise_for_status().json()
    return answer["model"], answer["choices"][0]["text"]


def _probabilities(scores: ChoiceScores) -> list[float]:
    best = max(scores.log_probabilities)
    odds = [math.exp(value - best) for value in scores.log_probabilities]
    return [value / sum(odds) for value in odds]


def _leaves(value: Any) -> Iterator[Any]:
    """The values in a structure, in order."""
    if hasattr(value, "__dataclass_fields__"):
        value = vars(value)
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield str(key)
            yield from _leaves(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _share(system: str, measure: str, right: Sequence[bool]) -> Row:
    low, high = proportion_confint(sum(right), len(right), method="wilson")
    return {"system": system, "measure": measure, "value": mean(right), "low": low, "high": high, "n": len(right)}


def _spread(system: str, measure: str, values: Sequence[float], **more: Any) -> Row:
    """The mean, between the lowest and the highest value."""
    spread = {"value": mean(values), "low": min(values), "high": max(values), "n": len(values)}
    return {"system": system, "measure": measure, **spread, **more}


def _table(rows: Sequence[Row]) -> str:
    columns = ("value", "low", "high", "n")
    lines = [
        [row["system"], row["measure"], *(f"{row[key]:.4g}" if key in row else "" for key in columns)] for row in rows
    ]
    return markdown_table(["verb or part", "measure", *columns], lines)


PARTS = {"verbs": verbs, "scoring": scoring, "life": life, "aliases": aliases}

if __name__ == "__main__":
    main()
