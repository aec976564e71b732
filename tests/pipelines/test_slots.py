"""Slots of a pipeline, and the pipelines without one of them."""

from __future__ import annotations

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import PipelineError
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.slots import find_slots, with_base, with_older, without
from searchlora.pipelines.stages.stage import needs_of
from tests.factories import first_word, random_adapter

DENSE = {"dense": {"model": "m", "adapter": "shop-embedder@2"}}
INNER = {"fuse": {"of": [{"bm25": {"k": 5}}, DENSE]}}
STAGES = [
    {"adapter": {"name": "shop-rewriter@3"}},
    {"fuse": {"k": 20, "weights": [2, 1, 0.5], "of": [{"bm25": {}}, INNER, {"dense": {"model": "m"}}]}},
    {"passages": {"k": 5}},
    {"similarity": {"model": "m"}},
    {"adapter": {"name": "shop-judge@1", "tuned": {"first_stage_weight": 0.5}}},
]


@pytest.fixture
def stages():
    return parse_stages(STAGES, "example")


def slot(stages, name):
    (found,) = (each for each in find_slots(stages) if each.name == name)
    return found


def test_every_stage_that_can_change_is_a_slot_with_a_name_of_its_own(stages):
    assert [each.name for each in find_slots(stages)] == [
        "shop-rewriter",
        "bm25 (stage 2, part 1)",
        "bm25 (stage 2, part 2, part 1)",
        "dense(shop-embedder)",
        "dense",
        "similarity",
        "shop-judge",
    ]


def test_a_slot_that_is_left_out_leaves_the_rest_as_it_is(stages):
    variant = without(stages, slot(stages, "shop-rewriter"))
    assert (variant.name, variant.stages) == ("without shop-rewriter", tuple(stages[1:]))
    variant = without(stages, slot(stages, "bm25 (stage 2, part 1)"))
    assert variant.stages[1].weights == (1, 0.5)
    assert variant.stages[1].of == stages[1].of[1:]
    assert variant.stages[1].k == 20
    inner = without(stages, slot(stages, "dense(shop-embedder)")).stages[1].of[1]
    assert inner.of == stages[1].of[1].of[:1]


def test_a_fuse_without_parts_is_left_out_with_them(stages):
    inner = [slot(stages, name) for name in ("bm25 (stage 2, part 2, part 1)", "dense(shop-embedder)")]
    variant = without(stages, *inner)
    assert variant.name == "without bm25 (stage 2, part 2, part 1) and dense(shop-embedder)"
    assert variant.stages[1].of == (stages[1].of[0], stages[1].of[2])
    assert variant.stages[1].weights == (2, 0.5)


def test_a_pipeline_that_would_retrieve_nothing_is_refused():
    stages = parse_stages([{"bm25": {}}, {"passages": {}}, {"adapter": {"name": "judge@1"}}], "example")
    with pytest.raises(PipelineError, match="no other stage retrieves"):
        without(stages, slot(stages, "bm25"))
    both = parse_stages([{"bm25": {}}, {"passages": {}}, {"dense": {"model": "m"}}], "example")
    with pytest.raises(PipelineError, match="no stage before it produces hits"):
        without(both, slot(both, "bm25"))
    assert without(both, slot(both, "dense")).stages == tuple(both[:2])


def test_the_base_takes_the_place_of_the_adapter_alone(stages):
    variant = with_base(stages, slot(stages, "shop-judge"))
    assert variant.stages[4] == stages[4].model_copy(update={"zero_shot": True})
    assert variant.stages[:4] == tuple(stages[:4])
    assert needs_of(variant.stages).zero_shot == ("shop-judge@1",)
    assert needs_of(variant.stages).adapters == ("shop-rewriter@3", "shop-embedder@2")
    dense = with_base(stages, slot(stages, "dense(shop-embedder)"))
    assert dense.stages[1].of[1].of[1].adapter is None
    assert dense.stages[1].of[0] == stages[1].of[0]
    assert with_base(stages, slot(stages, "similarity")) is None
    assert with_base(variant.stages, slot(variant.stages, "shop-judge")) is None


def test_long_names_of_adapters_are_cut():
    stages = parse_stages([{"adapter": {"name": f"{'a' * 60}@1"}}, {"bm25": {}}], "example")
    (first, second) = find_slots(stages)
    assert first.name == f"{'a' * 35}…"
    assert len(f"without {first.name} and {first.name}") < 100
    assert second.name == "bm25"


@pytest.mark.slow
def test_an_older_version_is_the_previous_one_in_the_store(tmp_path, tiny_base):
    store, task = Store(tmp_path / "store"), first_word(tmp_path / "task")
    for seed in (1, 2, 3):
        random_adapter(store, "shop-rewriter", task, tiny_base, tmp_path / f"made{seed}", seed=seed)
    stages = parse_stages([{"adapter": {"name": "shop-rewriter@3"}}, {"bm25": {}}], "example")
    store.remove("shop-rewriter@2")
    variant = with_older(stages, slot(stages, "shop-rewriter"), store)
    assert (variant.name, variant.stages[0].name) == ("shop-rewriter@1 instead of shop-rewriter", "shop-rewriter@1")
    assert with_older(variant.stages, slot(variant.stages, "shop-rewriter"), store) is None
    assert with_older(stages, slot(stages, "bm25"), store) is None
