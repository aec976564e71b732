"""Throughput of an LLM judge: 10 queries of TREC DL 2019 with 100 passages each, in the prompt of the judgment task.

    python -m benchmarks.judging [--queries 10] [--parts 5] [--try]

* engine: the labels of the grades are scored; shared prompt prefixes (guideline, query) are computed once;
* engine, nothing shared: the same without prefix sharing;
* PEFT, labels: every label is scored after its whole prompt;
* PEFT, JSON: `{"grade": 2}` is generated with as many new tokens as it has.

SmolLM2-135M in bf16 with an adapter of rank 16 and random weights (speed does not depend on them), batches of 32, a
guideline of more than 150 tokens, passages of at most 800 characters (about 180 tokens). Queries are measured in parts
of two; all variants take turns, part by part, in one process. The grades of engine and PEFT are compared in fp32 for
the pairs of one query.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import WORK, parser, print_or_save_speeds, real_data
from benchmarks.multi_adapter.systems import made_adapters
from benchmarks.speed import speed_ratio, speed_row
from searchlora.adapters.attach import attach
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.models.batch import collate, completion_log_probabilities
from searchlora.models.load import load_model
from searchlora.models.resolve import BaseModel, resolve
from searchlora.prompts import Example, messages
from searchlora.recipe import load_recipe
from searchlora.task import load_generation_task
from searchlora.tasks.judgment.guideline import settings_of

LABELS = ("0", "1", "2", "3")
JSON = '{"grade": 2}'
EACH, BATCH, CHARACTERS = 100, 32, 800
ENGINE, WHOLE, PEFT_LABELS, PEFT_JSON = "engine", "engine, nothing shared", "PEFT, labels", "PEFT, JSON"

Way = Callable[[Sequence[Request]], object]


def main() -> None:
    options = _arguments()
    requests = _requests(options.queries)
    base = resolve(load_recipe({}).base)
    (folder,) = made_adapters(base, WORK / "multi_adapter", 1, 16)
    parts = _parts(requests, options.parts)
    seconds = _seconds(_ways(base, folder), parts)
    same = _same(base, folder, requests[:EACH])
    rows = [
        speed_row(name, "pairs/s", [len(part) / taken for part, taken in zip(parts, values, strict=True)])
        for name, values in seconds.items()
    ]
    comparisons = [
        speed_ratio(ENGINE, name, "pairs/s", seconds[name], seconds[ENGINE]) for name in seconds if name != ENGINE
    ]
    print_or_save_speeds("judging", rows, comparisons, {"pairs": len(requests), "fp32": same}, trial=options.trial)
    print(same)


def _arguments() -> argparse.Namespace:
    arguments = parser("judging")
    arguments.add_argument("--queries", type=int, default=10)
    arguments.add_argument("--parts", type=int, default=5, help="in which the queries are measured")
    arguments.add_argument("--try", dest="trial", action="store_true", help="print only")
    return arguments.parse_args()


def _requests(queries: int) -> list[Request]:
    options = {"guideline": str(Path(__file__).parent / "guideline.yaml"), "characters": str(CHARACTERS)}
    task = load_generation_task("judgment").bound(settings_of(options))
    topics = [
        [{"query": topic["query"], "passage": hit["content"]} for hit in topic["hits"]]
        for topic in json.loads((real_data() / "trecdl19" / "bm25_top100_dl19.json").read_text(encoding="utf-8"))
    ]
    return [
        Request(messages(task, {"id": str(n), "group": pair["query"], **pair}), "judge")
        for n, pair in enumerate(pair for pairs in topics[:queries] for pair in pairs)
    ]


def _parts(requests: Sequence[Request], count: int) -> list[Sequence[Request]]:
    """Split into parts with the same number of whole queries."""
    size = len(requests) // EACH // count * EACH
    return [requests[start : start + size] for start in range(0, size * count, size)]


def _seconds(ways: Mapping[str, Way], parts: Sequence[Sequence[Request]]) -> dict[str, list[float]]:
    """Seconds of each variant for each part, after a warm-up on a few pairs."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(parts[-1][:BATCH])
    for part in parts:
        for name, way in ways.items():
            begun = time.perf_counter()
            way(part)
            seconds[name].append(time.perf_counter() - begun)
            print(f"{name}: {len(part) / seconds[name][-1]:.2f} pairs/s", flush=True)
    return seconds


def _ways(base: BaseModel, folder: Path) -> Mapping[str, Way]:
    sharing, uncached = LocalEngine(base, max_num_seqs=BATCH), LocalEngine(base, max_num_seqs=BATCH, prefix_tokens=0)
    for engine in (sharing, uncached):
        engine.load_folder("judge", folder)
    peft = attach(load_model(base), folder)
    answers = [sharing.renderer.completion_ids(label) for label in LABELS]
    new = len(sharing.renderer.completion_ids(JSON))

    def prompts(requests: Sequence[Request]) -> list[Sequence[int]]:
        return [sharing.renderer.prompt_ids(request.messages) for request in requests]

    return {
        ENGINE: lambda requests: sharing.score(requests, [LABELS] * len(requests)),
        WHOLE: lambda requests: uncached.score(requests, [LABELS] * len(requests)),
        PEFT_LABELS: lambda requests: _scored(peft, prompts(requests), answers),
        PEFT_JSON: lambda requests: _generated(peft, prompts(requests), new),
    }


def _batches(lengths: Mapping[int, int]) -> list[list[int]]:
    order = sorted(lengths, key=lambda row: -lengths[row])
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def _scored(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
    import torch

    pairs = [(prompt, answer) for prompt in prompts for answer in answers]
    examples = [Example((*prompt, *answer), len(prompt)) for prompt, answer in pairs]
    values = [0.0] * len(examples)
    with torch.inference_mode():
        for rows in _batches({row: len(example.input_ids) for row, example in enumerate(examples)}):
            sums = completion_log_probabilities(model, collate([examples[row] for row in rows], 0)).sum(-1)
            for row, value in zip(rows, sums.tolist(), strict=True):
                values[row] = value
    return [tuple(values[start : start + len(answers)]) for start in range(0, len(values), len(answers))]


def _generated(model: Any, prompts: Sequence[Sequence[int]], tokens: int) -> None:
    import torch

    for rows in _batches({row: len(prompt) for row, prompt in enumerate(prompts)}):
        batch = collate([Example(tuple(prompts[row]), len(prompts[row])) for row in rows], 0)
        with torch.inference_mode():
            model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )


def _same(base: BaseModel, folder: Path, requests: Sequence[Request]) -> dict[str, float]:
    engine = LocalEngine(base, precision="fp32")
    engine.load_folder("judge", folder)
    prompts = [engine.renderer.prompt_ids(request.messages) for request in requests]
    answers = [engine.renderer.completion_ids(label) for label in LABELS]
    reference = np.array(_scored(attach(load_model(base, precision="fp32"), folder), prompts, answers))
    found = np.array([scores.log_probabilities for scores in engine.score(requests, [LABELS] * len(requests))])
    return {
        "pairs": len(requests),
        "same grade": float((found.argmax(1) == reference.argmax(1)).mean()),
        "largest difference of a log-probability": float(np.abs(found - reference).max()),
    }


if __name__ == "__main__":
    main()
