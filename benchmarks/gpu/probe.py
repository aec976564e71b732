"""What a device does with a base: whether adapters share batches, equal bits, kernels of a step, memory.

    python -m benchmarks.gpu.probe BASE OUT.json PART [--rows 32]

Each part adds its figures to the file, from a process of its own: an engine keeps its memory as long as that runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import parser
from searchlora.inference.batched.forward import check_batching
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.models.load import load_model
from searchlora.models.processor import uses_gpu
from searchlora.models.resolve import BaseModel, resolve

#: Tokens of each answer: enough steps for a mean.
NEW_TOKENS = 8

LABELS = ["0", "1", "2", "3"]

#: The parts of the probe: the check, and an engine of each kind.
CHECK, INVARIANT = "check", "batch_invariant: true"
PARTS = (CHECK, "batch_invariant: false", INVARIANT)


def main() -> None:
    arguments = parser("gpu.probe")
    arguments.add_argument("base", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("part", choices=PARTS)
    arguments.add_argument("--rows", type=int, default=32)
    options = arguments.parse_args()
    base = resolve(str(options.base))
    figures = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    check = options.part == CHECK
    figures[options.part] = _check(base, options.rows) if check else _engine(base, options.rows, options.part)
    options.out.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def _check(base: BaseModel, rows: int) -> dict[str, Any]:
    """The numbers of the check, and the kernels of a step of transformers' own forward pass."""
    from transformers import DynamicCache

    model = load_model(base)
    check = check_batching(model)
    cache = DynamicCache(config=model.config)
    ids = torch.zeros(rows, 16, dtype=torch.long, device=model.device)
    with torch.inference_mode():
        model(ids, past_key_values=cache)
        plain = kernels(lambda: model(ids[:, :1], past_key_values=cache))
    numbers = {"difference": check.difference, "noise": check.noise, "spread": check.spread}
    return {"decision": str(check), **numbers, "kernels of a step of the model alone": plain}


def _engine(base: BaseModel, rows: int, part: str) -> dict[str, Any]:
    engine = LocalEngine(base, batch_invariant=part == INVARIANT, max_num_seqs=rows, prefix_tokens=0)
    built = _peak()
    requests = [Request(({"role": "user", "content": f"tent {'x ' * (row % 7)}"},), None) for row in range(rows)]
    choices = [LABELS] * rows
    together = engine.score(requests, choices)
    alone = [engine.score([request], [LABELS])[0] for request in requests]
    equal = sum(one.log_probabilities == other.log_probabilities for one, other in zip(together, alone, strict=True))
    return {
        "engine": engine.engine_id,
        "rows with equal bits alone and together": equal,
        "rows": rows,
        "kernels of a step": _kernels_of_a_step(engine, requests),
        "peak memory after building, GB": built,
        "peak memory, GB": _peak(),
    }


def _kernels_of_a_step(engine: LocalEngine, requests: list[Request]) -> float:
    """Kernels of decoding alone: an answer of `NEW_TOKENS` tokens less one of a single token, by its steps."""

    def generate(tokens: int) -> None:
        queued = engine._inputs.generate_requests(
            [Request(request.messages, None, max_new_tokens=tokens) for request in requests]
        )
        for request in queued:
            request.ignore_stop = True
        engine._core.finish(queued)

    generate(NEW_TOKENS)  # what is computed once
    return (kernels(lambda: generate(NEW_TOKENS)) - kernels(lambda: generate(1))) / (NEW_TOKENS - 1)


def kernels(run: Callable[[], object]) -> int:
    """Number of kernels that a function launches on a GPU; on a CPU, of operators that call no other."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    on_gpu = uses_gpu()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        run()
        if on_gpu:
            torch.cuda.synchronize()
    events = profiled.events() or []
    if on_gpu:
        return sum(event.device_type == DeviceType.CUDA and not event.name.startswith("Mem") for event in events)
    return sum(event.name.startswith("aten::") and not event.cpu_children for event in events)


def _peak() -> float | None:
    return torch.cuda.max_memory_allocated() / 1e9 if uses_gpu() else None


if __name__ == "__main__":
    main()
