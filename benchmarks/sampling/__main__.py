"""Throughput of sampled answers compared with greedy ones, in batches of 32 rows.

    python -m benchmarks.sampling [--rows 32] [--tokens 64] [--repeats 5] [--try]

SmolLM2-135M in bf16 answers requests for short texts; every row generates the same number of tokens, beyond the stop
token. The variants take turns in each repeat, in one engine. Measured is the time from the first token of the last row
to the end. `--try` prints the figures and stores nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from benchmarks.common import parser, print_or_save_speeds
from benchmarks.speed import speed_ratio, speed_row
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.sampling import Sampling
from searchlora.models.resolve import resolve
from searchlora.recipe import load_recipe

GREEDY, MEASURE = "greedy", "new tokens/s"

#: Variant -> the sampling of the rows, in turn.
VARIANTS: Mapping[str, tuple[Sampling, ...]] = {
    GREEDY: (Sampling(),),
    "temperature 1": (Sampling(1.0, seed=0),),
    "temperature 0.7, top-p 0.9": (Sampling(0.7, top_p=0.9, seed=0),),
    "temperature 1, top-k 50": (Sampling(1.0, top_k=50, seed=0),),
    "temperature 1, min-p 0.05": (Sampling(1.0, min_p=0.05, seed=0),),
    "half of the rows greedy": (Sampling(), Sampling(1.0, seed=0)),
    "temperature 1, penalties": (Sampling(1.0, presence_penalty=0.5, frequency_penalty=0.5, seed=0),),
    "temperature 1, 5 log-probabilities": (Sampling(1.0, seed=0, logprobs=5),),
}

TOPICS = ("tents", "rain jackets", "hiking boots", "rivers", "camp stoves", "wool", "lamps", "maps")
KINDS = ("short story", "list of facts", "letter", "product description")


def main() -> None:
    arguments = parser("sampling")
    arguments.add_argument("--rows", type=int, default=32)
    arguments.add_argument("--tokens", type=int, default=64)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--try", action="store_true", dest="trial", help="print only")
    options = arguments.parse_args()
    engine = LocalEngine(resolve(load_recipe({}).base), max_num_seqs=options.rows, batch_invariant=False)
    ways = {name: _way(engine, variant, options.rows, options.tokens) for name, variant in VARIANTS.items()}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats + 1):
        for name, way in ways.items():
            seconds = way()
            if repeat:  # the first warms up
                rates[name].append(options.rows * (options.tokens - 1) / seconds)
    measure = f"{MEASURE}, {options.rows} rows"
    rows = [speed_row(name, measure, values) for name, values in rates.items()]
    comparisons = [
        speed_ratio(name, GREEDY, measure, values, rates[GREEDY]) for name, values in rates.items() if name != GREEDY
    ]
    more = {"rows per batch": options.rows, "tokens per row": options.tokens}
    print_or_save_speeds("sampling", rows, comparisons, more, trial=options.trial)


def _way(engine: LocalEngine, samplings: tuple[Sampling, ...], rows: int, tokens: int) -> Callable[[], float]:
    """A function that generates one batch and returns the seconds after the first tokens."""
    prompts = [f"Write a {KINDS[row // 8 % len(KINDS)]} about {TOPICS[row % len(TOPICS)]}." for row in range(rows)]
    requests = [
        Request(({"role": "user", "content": prompt},), None, tokens, sampling=samplings[row % len(samplings)])
        for row, prompt in enumerate(prompts)
    ]

    def run() -> float:
        queued = engine._inputs.generate_requests(requests)
        first: list[float] = []
        for request in queued:
            request.ignore_stop = True
        queued[-1].on_token = lambda _: first.append(time.perf_counter())
        engine._core.finish(queued)
        return time.perf_counter() - first[0]

    return run


if __name__ == "__main__":
    main()
