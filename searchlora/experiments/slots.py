"""Slots of a pipeline: the stages that can be left out or replaced, and the pipelines in which one of them is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from searchlora.adapters.references import parse_reference
from searchlora.adapters.store import Store
from searchlora.errors import PipelineError
from searchlora.experiments.stage_costs import Place
from searchlora.pipelines.stage_lists import check_order, produces_hits
from searchlora.pipelines.stage_settings import (
    AdapterSettings,
    EncodingSettings,
    FuseSettings,
    MatchSettings,
    RetrieveSettings,
    Settings,
    SimilaritySettings,
    stage_kind,
)

#: What a slot can be changed to: left out, the base model without its adapter, an older version of its adapter.
Kind: TypeAlias = Literal["off", "base", "older"]

#: The name of the unchanged pipeline.
FULL = "full pipeline"

#: Longest part of an adapter's name that is shown; names of variants hold two.
_SHOWN = 36


@dataclass(frozen=True)
class Slot:
    """A stage, or a part of a `fuse`, that a variant of the pipeline can change.

    Attributes:
        name: Unique in the pipeline: the name of the adapter of an adapter stage, else the kind of the stage.
        place: Where it stands in the pipeline.
        adapter: Its pinned adapter; None without one.
        base: Whether its base model works without the adapter.
    """

    name: str
    place: Place
    adapter: str | None
    base: bool = False


@dataclass(frozen=True)
class Variant:
    """A pipeline with changed slots.

    Attributes:
        name: As tables print it.
        stages: The settings of its stages, with pinned adapters.
        kind: What the slots are changed to; None for the unchanged pipeline.
        slots: Names of the changed slots: none, one, or two that are left out.
        shown: What is in the place of the slot, in a few words.
        adapter: The version in the place of the slot's, for `older`.
    """

    name: str
    stages: tuple[Settings, ...]
    kind: Kind | None = None
    slots: tuple[str, ...] = ()
    shown: str = FULL
    adapter: str = ""


def find_slots(stages: Sequence[Settings]) -> tuple[Slot, ...]:
    """The slots of a pipeline, in the order of its stages.

    A slot is an adapter stage, a `similarity` or `match` stage, a stage that retrieves, or a part of a `fuse`.
    Whether it can be left out is for `without` to say.

    Examples:
        >>> from searchlora.pipelines.config import parse_stages
        >>> fused = {"of": [{"bm25": {}}, {"dense": {"model": "all-minilm-l6-v2", "adapter": "shop-embedder@2"}}]}
        >>> stages = parse_stages([{"adapter": {"name": "shop-rewriter@3"}}, {"fuse": fused}], "example")
        >>> [(slot.name, slot.place) for slot in find_slots(stages)]
        [('shop-rewriter', (0,)), ('bm25', (1, 0)), ('dense(shop-embedder)', (1, 1))]
    """
    found = [slot for index, stage in enumerate(stages) for slot in _slots(stage, (index,))]
    often = Counter(slot.name for slot in found)
    return tuple(
        replace(slot, name=f"{slot.name} ({_ordinal(slot.place)})") if often[slot.name] > 1 else slot for slot in found
    )


def full(stages: Sequence[Settings]) -> Variant:
    """The unchanged pipeline."""
    return Variant(FULL, tuple(stages))


def without(stages: Sequence[Settings], *slots: Slot) -> Variant:
    """The pipeline without one slot or two.

    Raises:
        PipelineError: if nothing retrieves any more, or a stage lacks the hits that it reads.
    """
    left: list[Settings] = []
    for index, stage in enumerate(stages):
        kept = _without(stage, (index,), {slot.place for slot in slots})
        if kept is not None:
            left.append(kept)
    name = f"without {' and '.join(_clipped(slot.name, len(slots)) for slot in slots)}"
    if not produces_hits(left):
        raise PipelineError("no other stage retrieves", where=name)
    check_order(left, name)
    return Variant(name, tuple(left), "off", tuple(slot.name for slot in slots), "nothing")


def _clipped(name: str, names: int) -> str:
    """The name of a slot for that of a variant with so many; an experiment takes names of 100 characters."""
    most = 90 if names == 1 else 80 // names
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


def fusion_place(stages: Sequence[Settings]) -> int | None:
    """Index of the first stage that fuses parts, whose weights `with_weights` changes; None if there is none."""
    return next((index for index, stage in enumerate(stages) if isinstance(stage, FuseSettings)), None)


def fusion_parts(settings: FuseSettings) -> tuple[str, ...]:
    """The names of the parts of a fusion: those of their slots, and `fuse` for one that fuses again.

    Examples:
        >>> from searchlora.pipelines.config import parse_stages
        >>> (stage,) = parse_stages([{"fuse": {"of": [{"bm25": {}}, {"dense": {"model": "m"}}]}}], "example")
        >>> fusion_parts(stage)
        ('bm25', 'dense')
    """
    names = ["fuse" if isinstance(part, FuseSettings) else next(_slots(part, ())).name for part in settings.of]
    often = Counter(names)
    return tuple(f"{name} ({place + 1})" if often[name] > 1 else name for place, name in enumerate(names))


def kept_parts(stages: Sequence[Settings], *off: Slot) -> tuple[str, ...]:
    """The names of the parts of the first fusion that are left without some slots, as `fusion_parts` has them.

    Examples:
        >>> from searchlora.pipelines.config import parse_stages
        >>> stages = parse_stages([{"fuse": {"of": [{"bm25": {}}, {"bm25": {"b": 0}}]}}], "example")
        >>> kept_parts(stages, find_slots(stages)[0])
        ('bm25 (2)',)
    """
    index = fusion_place(stages)
    if index is None:
        return ()
    settings, places = stages[index], {slot.place for slot in off}
    assert isinstance(settings, FuseSettings)
    names = enumerate(fusion_parts(settings))
    return tuple(name for part, name in names if _without(settings.of[part], (index, part), places) is not None)


def with_weights(stages: Sequence[Settings], weights: Sequence[float], *off: Slot) -> tuple[Settings, ...]:
    """The pipeline with other weights of its first fusion, and without some slots; a part of weight 0 is left out.

    Raises:
        PipelineError: if nothing fuses, for another number of weights than parts, for weights that are negative or all
            0, and as `without`.
    """
    index = fusion_place(stages)
    if index is None:
        raise PipelineError("no stage fuses, so there are no weights to change")
    settings = stages[index]
    assert isinstance(settings, FuseSettings)
    if len(weights) != len(settings.of):
        raise PipelineError(f"there are {len(weights)} weights for {len(settings.of)} parts")
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise PipelineError("weights are numbers of at least 0, and one of them is above 0")
    changed = [*stages]
    changed[index] = settings.model_copy(update={"weights": tuple(map(float, weights))})
    unused = [Slot(f"part {part + 1}", (index, part), None) for part, weight in enumerate(weights) if weight == 0]
    return without(changed, *off, *unused).stages if off or unused else tuple(changed)


def with_base(stages: Sequence[Settings], slot: Slot) -> Variant | None:
    """The pipeline with the base model in place of the slot's adapter; None for a slot without an adapter."""
    if not slot.base:
        return None

    def changed(stage: Settings) -> Settings:
        return stage.model_copy(update={"bare": True} if isinstance(stage, AdapterSettings) else {"adapter": None})

    replaced = _replaced(stages, slot, changed)
    return Variant(f"base instead of {slot.name}", replaced, "base", (slot.name,), "base")


def with_older(stages: Sequence[Settings], slot: Slot, store: Store) -> Variant | None:
    """The pipeline with the previous version of the slot's adapter that the store has; None if there is none."""
    if slot.adapter is None:
        return None
    current = parse_reference(slot.adapter)
    earlier = [version for version in store.versions(current.name) if version < (current.version or 0)]
    if not earlier:
        return None
    return with_version(stages, slot, f"{current.name}@{max(earlier)}")


def with_version(stages: Sequence[Settings], slot: Slot, reference: str) -> Variant:
    """The pipeline with another version of the slot's adapter, `name@version`."""
    pinned = parse_reference(reference)

    def changed(stage: Settings) -> Settings:
        if isinstance(stage, AdapterSettings):
            return stage.model_copy(update={"name": reference, "bare": False})
        return stage.model_copy(update={"adapter": reference})

    shown = f"{_short(pinned.name)}@{pinned.version}"
    return Variant(
        f"{shown} instead of {slot.name}", _replaced(stages, slot, changed), "older", (slot.name,), shown, reference
    )


def _slots(stage: Settings, place: Place) -> Iterator[Slot]:
    if isinstance(stage, FuseSettings):
        for index, part in enumerate(stage.of):
            yield from _slots(part, (*place, index))
    elif isinstance(stage, AdapterSettings):
        yield Slot(_short(parse_reference(stage.name).name), place, None if stage.bare else stage.name, not stage.bare)
    elif isinstance(stage, EncodingSettings | SimilaritySettings):
        adapter = stage.adapter
        of = f"({_short(parse_reference(adapter).name)})" if adapter else ""
        yield Slot(f"{stage_kind(stage)}{of}", place, adapter, adapter is not None)
    elif isinstance(stage, RetrieveSettings | MatchSettings):
        yield Slot(stage_kind(stage), place, None)


def _without(stage: Settings, place: Place, places: set[Place]) -> Settings | None:
    """A stage without the parts at some places; None if nothing is left of it."""
    if place in places:
        return None
    if not isinstance(stage, FuseSettings):
        return stage
    parts = [_without(part, (*place, index), places) for index, part in enumerate(stage.of)]
    kept = [index for index, part in enumerate(parts) if part is not None]
    if not kept:
        return None
    weights = tuple(stage.weights[index] for index in kept) if stage.weights is not None else None
    return stage.model_copy(update={"of": tuple(parts[index] for index in kept), "weights": weights})


def _replaced(stages: Sequence[Settings], slot: Slot, changed: Callable[[Settings], Settings]) -> tuple[Settings, ...]:
    def at(stage: Settings, place: Place) -> Settings:
        if place == slot.place:
            return changed(stage)
        if isinstance(stage, FuseSettings) and slot.place[: len(place)] == place:
            return stage.model_copy(update={"of": tuple(at(part, (*place, n)) for n, part in enumerate(stage.of))})
        return stage

    return tuple(at(stage, (index,)) for index, stage in enumerate(stages))


def _ordinal(place: Place) -> str:
    index, *parts = place
    return ", ".join([f"stage {index + 1}", *(f"part {part + 1}" for part in parts)])


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN else f"{name[: _SHOWN - 1]}…"
