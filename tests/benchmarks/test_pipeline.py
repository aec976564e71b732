"""The pipeline benchmark on a tiny base: PEFT as an engine, equal inputs for all systems, figures of a whole run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import pytest

from benchmarks.pipeline import __main__ as benchmark
from benchmarks.pipeline.adapters import stored_adapters
from benchmarks.pipeline.measuring import measured
from benchmarks.pipeline.peft_engine import PeftEngine
from searchlora.adapters.store import Store
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.models.resolve import BaseModel, resolve
from searchlora.outputs import Grade
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.records import Document
from searchlora.task import load_generation_task
from searchlora.testing import build_tiny_base

pytestmark = pytest.mark.slow

WORDS = ("ghost", "robot", "shark", "queen", "train", "winter")
MOVIES = [
    Document(f"m{n}", f"a {a} meets a {b}", f"{a} {b}") for n, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)
]
SEARCHES = [{"id": f"q{n}", "query": f"{word} movie"} for n, word in enumerate(WORDS)]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[BaseModel, Store]:
    folder = tmp_path_factory.mktemp("pipeline")
    base = resolve(str(build_tiny_base(folder / "base")))
    return base, stored_adapters(base, folder / "work")


@pytest.fixture(scope="module")
def engines(made) -> tuple[LocalEngine, PeftEngine]:
    base, store = made
    pinned = {name: store.get(name) for name in ("bench-judge@1", "bench-rewriter@1")}
    return LocalEngine(base, store, precision="fp32"), PeftEngine(base, pinned, 4, precision="fp32")


def requests(adapter: str, **how) -> list[Request]:
    texts = [f"{word} movie " * (n + 1) for n, word in enumerate(WORDS)]
    return [Request(({"role": "user", "content": text},), adapter, **how) for text in texts]


def test_peft_generates_what_the_engine_generates_with_each_adapter(engines):
    ours, peft = engines
    for adapter in ("bench-judge@1", "bench-rewriter@1"):
        asked = requests(adapter, max_new_tokens=12)
        assert peft.generate(asked) == ours.generate(asked)


def test_first_tokens_are_scored_in_one_pass(engines):
    ours, peft = engines
    asked = requests("bench-judge@1")
    got = peft.score(asked, [["0", "1"]] * len(WORDS))
    # A choice without an end of its own: what follows the suffix's first token is not scored by either.
    prefixed = [Request(each.messages, each.adapter, choice_suffix="") for each in asked]
    expected = ours.score(prefixed, [["0", "1"]] * len(WORDS))
    for one, other in zip(expected, got, strict=True):
        assert other.log_probabilities == pytest.approx(one.log_probabilities, abs=1e-3)
    with pytest.raises(ValueError, match="same token"):
        peft.score(asked, [["10", "12"]] * len(WORDS))


def test_a_whole_run_measures_every_system_on_every_stage(made):
    base, store = made
    options = argparse.Namespace(queries=2, repeats=2, parts=2, without_whole=False)
    results = benchmark.benchmark(base, store.root.parent, MOVIES, SEARCHES, options)
    systems = {row["system"] for row in results["rows"]}
    assert systems == {benchmark.ENGINE, benchmark.INVARIANT, benchmark.NO_PREFIXES, benchmark.PEFT}
    speeds = {row["system"]: row["value"] for row in results["rows"] if row["measure"] == benchmark.SPEED}
    main = next(each for each in results["comparisons"] if (each["a"], each["b"]) == (benchmark.ENGINE, benchmark.PEFT))
    assert main["measure"] == benchmark.SPEED and min(speeds.values()) > 0 and main["low"] <= main["high"]
    assert 0 < results["per_query"]["cached_prompt_tokens"] < results["per_query"]["prompt_tokens"]
    assert results["whole"]["queries"] == len(SEARCHES)


def test_all_systems_get_the_same_inputs_and_others_judge_a_sample():
    calls: dict[str, list[list[str]]] = {"one": [], "other": []}
    stages = {name: [_stage(name, calls)] for name in calls}
    searches = [{"id": f"q{n}", "query": "x", "passages": _passages(5)} for n in range(4)]
    block = measured(stages, searches, part=1, parts=3, batch=4)
    (all_pairs,), (sample,) = calls["one"], calls["other"]
    assert len(all_pairs) == 20 and len(sample) == 8 and set(sample) < set(all_pairs)
    every = [id_ for part in range(3) for id_ in _sampled(stages, searches, calls, part)]
    assert sorted(every) == sorted(all_pairs)  # the repeats together judge each pair once
    assert set(block.outputs["other"]["judge"]) == set(sample)


def _passages(count: int) -> list[dict[str, object]]:
    return [{"id": f"d{n}", "title": "", "text": "word " * (n + 1), "score": 1.0} for n in range(count)]


def _stage(name: str, calls: dict[str, list[list[str]]]):
    """A judge that records what it was asked."""

    @dataclass(frozen=True)
    class Recorded(AdapterStage):
        def ask(self, records):
            calls[name].append([record["id"] for record in records])
            return [Grade(1, (0.1, 0.7, 0.1, 0.1)) for _ in records]

    return Recorded(load_generation_task("judgment"), None, None)  # type: ignore[arg-type]


def _sampled(stages, searches, calls, part) -> list[str]:
    calls["other"].clear()
    measured(stages, searches, part=part, parts=3, batch=4)
    return calls["other"][0]
