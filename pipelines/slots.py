"""Slots of a pipeline: the stages that can be left out or replaced, and the pipelines in which one of them is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from searchlora.adapters.references import parse_reference
from searchlora.adapters.store import Store
from searchlora.errors import PipelineError
from searchlora.pipelines.stages.stage import StageSettings, check_order, produces_hits, short_name

#: Where a stage stands in a pipeline: its index, followed by its index under each `fuse` that it stands under.
Place: TypeAlias = tuple[int, ...]

#: The name of the unchanged pipeline.
FULL = "full pipeline"


def place_key(place: Place) -> str:
    """A place as a key of `Outputs.parts`, such as `1.0`."""
    return ".".join(map(str, place))


@dataclass(frozen=True)
class Slot:
    """A stage, or a part of a `fuse`, that a variant of the pipeline can change."""

    name: str
    place: Place
    adapter: str | None  # its pinned adapter; None without one

    @property
    def key(self) -> str:
        """Its key in the costs of a pipeline's parts."""
        return place_key(self.place)


@dataclass(frozen=True)
class Variant:
    """A pipeline with changed slots."""

    name: str
    stages: tuple[StageSettings, ...]
    kind: Literal["off", "base", "older"] | None = None
    slots: tuple[str, ...] = ()  # names of the changed slots: none, or one
    shown: str = FULL
    adapter: str = ""


def find_slots(stages: Sequence[StageSettings]) -> tuple[Slot, ...]:
    """The slots of a pipeline, in the order of its stages.

    A slot is a stage `adapter`, `classical`, `similarity` or `filter`, a stage that retrieves, or a part of a `fuse`.
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


def without(stages: Sequence[StageSettings], *slots: Slot) -> Variant:
    """The pipeline without one slot or two."""
    left: list[StageSettings] = []
    for index, stage in enumerate(stages):
        remaining = _without(stage, (index,), {slot.place for slot in slots})
        if remaining is not None:
            left.append(remaining)
    name = f"without {' and '.join(_clipped(slot.name, len(slots)) for slot in slots)}"
    if not produces_hits(left):
        raise PipelineError("no other stage retrieves", where=name)
    check_order(left, name)
    return Variant(name, tuple(left), "off", tuple(slot.name for slot in slots), "nothing")


def _clipped(name: str, names: int) -> str:
    """The name of a slot for that of a variant with so many; an experiment takes names of 100 characters."""
    most = 90 if names == 1 else 80 // names
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


def fusion_place(stages: Sequence[StageSettings]) -> int | None:
    """Index of the first stage that fuses parts, whose weights `with_weights` changes; None if there is none."""
    return next((index for index, stage in enumerate(stages) if stage.part_weights), None)


def with_weights(stages: Sequence[StageSettings], weights: Sequence[float], *off: Slot) -> tuple[StageSettings, ...]:
    """The pipeline with other weights of its first fusion, and without some slots; a part of weight 0 is left out."""
    index = fusion_place(stages)
    if index is None:
        raise PipelineError("no stage fuses, so there are no weights to change")
    settings = stages[index]
    if len(weights) != len(settings.parts):
        raise PipelineError(f"there are {len(weights)} weights for {len(settings.parts)} parts")
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise PipelineError("weights are numbers of at least 0, and one of them is above 0")
    changed = [*stages]
    changed[index] = settings.model_copy(update={"weights": tuple(map(float, weights))})
    unused = [Slot(f"part {part + 1}", (index, part), None) for part, weight in enumerate(weights) if weight == 0]
    return without(changed, *off, *unused).stages if off or unused else tuple(changed)


def with_base(stages: Sequence[StageSettings], slot: Slot) -> Variant | None:
    """The pipeline with the base model in place of the slot's adapter; None for a slot without an adapter."""
    if slot.adapter is None:
        return None
    replaced = _replaced(stages, slot, None)
    return Variant(f"base instead of {slot.name}", replaced, "base", (slot.name,), "base")


def with_older(stages: Sequence[StageSettings], slot: Slot, store: Store) -> Variant | None:
    """The pipeline with the previous version of the slot's adapter that the store has; None if there is none."""
    if slot.adapter is None:
        return None
    current = parse_reference(slot.adapter)
    earlier = [version for version in store.versions(current.name) if version < (current.version or 0)]
    if not earlier:
        return None
    return with_version(stages, slot, f"{current.name}@{max(earlier)}")


def with_version(stages: Sequence[StageSettings], slot: Slot, reference: str) -> Variant:
    """The pipeline with another version of the slot's adapter, `name@version`."""
    pinned = parse_reference(reference)
    shown = f"{short_name(reference)}@{pinned.version}"
    return Variant(
        f"{shown} instead of {slot.name}", _replaced(stages, slot, reference), "older", (slot.name,), shown, reference
    )


def _slots(stage: StageSettings, place: Place) -> Iterator[Slot]:
    for index, part in enumerate(stage.parts):
        yield from _slots(part, (*place, index))
    if stage.removable and not stage.parts:
        yield Slot(stage.slot_name, place, stage.adapter_reference)


def _without(stage: StageSettings, place: Place, places: set[Place]) -> StageSettings | None:
    """A stage without the parts at some places; None if nothing is left of it."""
    if place in places:
        return None
    parts = {index: _without(part, (*place, index), places) for index, part in enumerate(stage.parts)}
    remaining = {index: part for index, part in parts.items() if part is not None}
    if not parts or not remaining:
        return None if parts else stage
    return stage.with_parts(remaining)


def _replaced(stages: Sequence[StageSettings], slot: Slot, adapter: str | None) -> tuple[StageSettings, ...]:
    """The stages with another adapter in a slot; None: the base model without one."""

    def at(stage: StageSettings, place: Place) -> StageSettings:
        if place == slot.place:
            return stage.with_adapter(adapter)
        if slot.place[: len(place)] != place:
            return stage
        return stage.with_parts({index: at(part, (*place, index)) for index, part in enumerate(stage.parts)})

    return tuple(at(stage, (index,)) for index, stage in enumerate(stages))


def _ordinal(place: Place) -> str:
    index, *parts = place
    return ", ".join([f"stage {index + 1}", *(f"part {part + 1}" for part in parts)])
