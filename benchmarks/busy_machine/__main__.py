"""Seconds of training, serving and evaluation on an idle machine and beside one busy process.

    python -m benchmarks.busy_machine

Each job runs in two processes on real weights (SmolLM2-135M in bf16): one starts OpenMP as `searchlora.threads`
chooses, the other has OpenMP's default, in which idle threads always spin. The processes take turns.
A few minutes; the machine must be idle otherwise.

Goals: at least 0.4 of the idle speed beside the busy process, and at most 3% lost on the idle machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.common import ROOT, print_or_save_speeds
from benchmarks.speed import speed_ratio, speed_row, worker

BASE = "smollm2-135m-instruct-q4_1"
CHOSEN, DEFAULT = "chosen", "default"
IDLE, BUSY = "idle", "beside a busy process"
REPEATS = 5

#: Seconds before a measurement after the other process has started or ended: OpenMP's threads adapt within 2.
SETTLING = 3

#: Rows of a served or scored batch, and tokens that are generated for each.
ROWS, SERVED_TOKENS = 8, 16

#: Rows of a training step, and tokens of each.
TRAINED_ROWS, TRAINED_TOKENS = 4, 64


def main() -> None:
    rows, comparisons = [], []
    for job in JOBS:
        seconds = _measured(job)
        for (waiting, load), values in seconds.items():
            rows.append(speed_row(f"{job}, {waiting}, {load}", "seconds", values))
        for one, other in (
            ((CHOSEN, IDLE), (CHOSEN, BUSY)),
            ((DEFAULT, IDLE), (DEFAULT, BUSY)),
            ((DEFAULT, IDLE), (CHOSEN, IDLE)),
        ):
            a, b = (f"{job}, {waiting}, {load}" for waiting, load in (one, other))
            comparisons.append(speed_ratio(a, b, "seconds", seconds[one], seconds[other]))
    print_or_save_speeds("busy_machine", rows, comparisons, {"base": BASE, "rows_per_batch": ROWS})


def _measured(job: str) -> dict[tuple[str, str], list[float]]:
    """Seconds of a job, by waiting and load; the processes take turns."""
    seconds: dict[tuple[str, str], list[float]] = {
        (way, load): [] for way in (CHOSEN, DEFAULT) for load in (IDLE, BUSY)
    }
    with ExitStack() as stack:
        workers = {way: stack.enter_context(_worker(job, way)) for way in (CHOSEN, DEFAULT)}
        for _ in range(REPEATS):
            for way, worker in workers.items():
                time.sleep(SETTLING)  # to each worker, the one before was a busy process
                seconds[way, IDLE].append(worker())
            with _busy_process():
                time.sleep(SETTLING)
                for way, worker in workers.items():
                    seconds[way, BUSY].append(worker())
    return seconds


@contextmanager
def _worker(job: str, way: str) -> Iterator[Callable[[], float]]:
    """A process with a job; each call does it once and returns the seconds that it took."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_", "MKL_"))}
    if way == DEFAULT:
        env["GOMP_SPINCOUNT"] = "300000"  # OpenMP's own; what is set is not adapted to other processes
    with worker([sys.executable, "-m", "benchmarks.busy_machine", job], cwd=ROOT, environment=env) as call:
        call("")  # the first time compiles and fills caches
        yield lambda: float(call(""))


@contextmanager
def _busy_process() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def work(job: str) -> None:
    """The process with a job: do it once for each line of stdin, and print the seconds."""
    do = JOBS[job]()
    for _ in sys.stdin:
        started = time.perf_counter()
        do()
        print(time.perf_counter() - started, flush=True)


def _training() -> Callable[[], None]:
    """A step of training LoRA."""
    from searchlora.adapters.attach import new_adapter
    from searchlora.models.load import load_model
    from searchlora.models.resolve import resolve
    from searchlora.recipe import load_recipe

    model = load_model(resolve(BASE), precision="bf16")

    import torch

    from searchlora.cpu import backend
    from searchlora.models.batch import FAST_MODEL, collate, completion_log_probabilities
    from searchlora.prompts import Example

    model = new_adapter(model, load_recipe({"method": "lora", "base": BASE})).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    setattr(model, FAST_MODEL, backend.fused_model(model))
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ids = torch.randint(
        100, 10_000, (TRAINED_ROWS, TRAINED_TOKENS), generator=torch.Generator().manual_seed(0)
    ).tolist()
    batch = collate([Example(tuple(row), TRAINED_TOKENS // 2) for row in ids], 0)

    def do() -> None:
        (-completion_log_probabilities(model, batch).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return do


def _serving() -> Callable[[], None]:
    """Answers of a server's engine."""
    from searchlora.inference.engine import Request
    from searchlora.inference.local import LocalEngine
    from searchlora.models.resolve import resolve

    engine = LocalEngine(resolve(BASE), batch_invariant=False, prefix_tokens=0)
    chats = [({"role": "user", "content": f"Write a long story about {number} tents."},) for number in range(ROWS)]
    requests = [Request(chat, None, SERVED_TOKENS) for chat in chats]
    return lambda: _none(engine.generate(requests))


def _evaluation() -> Callable[[], None]:
    """Scores of labels, batch-invariantly."""
    from searchlora.inference.engine import Request
    from searchlora.inference.local import LocalEngine
    from searchlora.models.resolve import resolve

    engine = LocalEngine(resolve(BASE), prefix_tokens=0)
    texts = [f"Is product {number} relevant for a red tent with two rooms and a porch?" for number in range(ROWS)]
    requests = [Request(({"role": "user", "content": text},)) for text in texts]
    return lambda: _none(engine.score(requests, [["0", "1", "2", "3"]] * ROWS))


def _none(_: object) -> None:
    pass


JOBS: dict[str, Callable[[], Callable[[], None]]] = {
    "training": _training,
    "serving": _serving,
    "evaluation": _evaluation,
}

if __name__ == "__main__":
    if len(sys.argv) == 2:
        work(sys.argv[1])
    else:
        main()
