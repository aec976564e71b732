"""Options of the verbs as objects: how to train, what to evaluate on, what to ablate, what a decision accepts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from searchlora.errors import UsageError
from searchlora.eval.measures import RETRIEVAL_MEASURES

if TYPE_CHECKING:
    from searchlora.pipelines.stages.bm25 import Bm25Settings

#: The encoder of baselines: small, English, and trained on a billion pairs.
DEFAULT_ENCODER = "all-minilm-l6-v2"

#: What a slot can be changed to: left out, the base model without its adapter, the previous version of its adapter.
Kind: TypeAlias = Literal["off", "base", "older"]


@dataclass(frozen=True)
class TrainingOptions:
    """How an adapter is trained.

    Attributes:
        overrides: `key=value` settings of the recipe, for example `lora.r=8`; they override the file.
        base: Base model instead of the recipe's.
        recipe: A YAML file whose keys override the task's recipe.
        start_from: Reference of an adapter whose weights are trained further; None: a new adapter. To resume or reuse,
            the version must be the same.
        resume: Continue an interrupted run from its last checkpoint. Recipe, base and data must be the same.
        restart: Delete an interrupted run and start anew.
        reuse: Train nothing if the newest version of the name came from the same datasets, recipe, version of the task
            and base; otherwise resume an interrupted run unless `restart` deletes it.
        more_data: Folder of a further dataset -> weight of its training rows; for prompted tasks.

    Raises:
        UsageError: for `resume` together with `restart`, before the run is deleted.
    """

    overrides: Sequence[str] = ()
    base: str | None = None
    recipe: str | Path | None = None
    start_from: str | None = None
    resume: bool = False
    restart: bool = False
    reuse: bool = False
    more_data: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.resume and self.restart:
            raise UsageError(
                "--resume continues an unfinished run, and --restart deletes it", fix="Give one of the two."
            )

    @property
    def settings(self) -> tuple[str, ...]:
        """The overrides, and the base as one of them."""
        return (*self.overrides, *([f"base={json.dumps(self.base)}"] if self.base is not None else []))


@dataclass(frozen=True)
class EvaluationOptions:
    """What an adapter is evaluated on, and how.

    Attributes:
        split: The split of the dataset. None: `validation` for `sweep`, else `test`.
        limit: Maximum number of records, the first ones; None: all.
        qrels: Judgments that replace the dataset's own; a card beside the file names their source.
        baseline_data: Another dataset folder, from whose training split the baselines learn, as does the classifier
            that predicts the classes of vectors. Rows that are evaluated, too, are left out.
        baseline_encoder: Encoder of the baselines that learn from the vectors of a frozen encoder; None: without them.
        retrieval: Settings of BM25.
        unconstrained: Also evaluate base and adapter without constrained decoding, to measure their valid outputs.
        allow_circular: Accept a judge that took part in a system or was trained on these queries; the figures are
            marked as circular.
        also_tested: Further measures whose differences are tested, such as that of a policy.
        cache_dir: Folder of cached outputs, reused if prompts, base, adapter, settings and engine are the same; of an
            encoder, hits and classes.
    """

    split: str | None = None
    limit: int | None = None
    qrels: str | Path | None = None
    baseline_data: str | Path | None = None
    baseline_encoder: str | None = DEFAULT_ENCODER
    retrieval: Bm25Settings | None = None
    unconstrained: bool = False
    allow_circular: bool = False
    also_tested: Sequence[str] = ()
    cache_dir: str | Path | None = None


@dataclass(frozen=True)
class DecisionOptions:
    """What a decision on an alias accepts; the history records the reasons.

    Attributes:
        force: A reason for moving the alias against the policy.
        reason: A reason for a policy other than that of the last decision on this alias. Without one, such a policy
            refuses.
        accept_changes: Accept data other than that of the last decision on this alias.
        events: Where searches are recorded, for a policy that asks what users prefer.

    Raises:
        UsageError: for an empty reason.
    """

    force: str | None = None
    reason: str | None = None
    accept_changes: bool = False
    events: str | None = None

    def __post_init__(self) -> None:
        for option, text in (("--force", self.force), ("--reason", self.reason)):
            if text is not None and not text.strip():
                raise UsageError(
                    f"{option} needs a reason", fix=f'Say why, for example {option} "agreed with the search team".'
                )


@dataclass(frozen=True)
class AblationOptions:
    """What an ablation changes and measures.

    Attributes:
        slots: Names of the slots to change. Empty: all.
        kinds: `off`: without the slot, where the pipeline works without it; `base`: its base model without the
            adapter, by the same prompt; `older`: the previous version of its adapter in the store.
        measures: The first is compared and tested; the others are shown.
        relevant: The lowest grade that counts as relevant in binary measures.
        cluster: Topic field with the group of dependent topics, such as a conversation.
        allow_circular: Accept a judge that took part in a variant; its figures are marked as circular.
    """

    slots: Sequence[str] = ()
    kinds: Sequence[Kind] = ("off", "base")
    measures: Sequence[str] = RETRIEVAL_MEASURES
    relevant: int = 1
    cluster: str | None = None
    allow_circular: bool = False
