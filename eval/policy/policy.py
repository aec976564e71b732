"""Promotion policy: its YAML schema, and reading it.

Each key is a rule:

    measure: nDCG@10
    decisions: 10                          # candidates that the test rows are planned for; each is tested at .05 / 10
    beat:                                  # systems to beat; the interval of the difference must exclude the margin
      base: {margin: 0.02}
      incumbent: {margin: 0.0}
      baselines: all                     # or a list: [TF-IDF + logistic regression, majority]
    slices:
      turn: {max_fall: 0.03, min_rows: 30}   # no turn may fall significantly, by more than this, against the incumbent
    max_invalid_rate: 0.02
    min_rows: 200
    judgments: [human, mixed]              # accepted sources of judgments
    held_out: required                     # or `reported`
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.sources import Source
from searchlora.files import read_bytes
from searchlora.files.yaml_text import parse_yaml


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Margin(_Strict):
    """The margin by which a system must be beaten.

    The lower end of the interval of the difference must be above `margin`, in units of the measure; where less is
    better, the upper end must be below −`margin`. In addition p of the paired randomisation test must be at most the
    level: with few rows, or few rows that differ, the interval alone would let chance results pass.
    """

    margin: float = Field(0.0, ge=0)


class Baselines(_Strict):
    """Rules and other systems beside the candidate that must be beaten, each as `Margin` says.

    Attributes:
        systems: Names of systems, whatever their case; or `all`: every system of the comparison that is not the
            candidate, another model that `promote` evaluates, or named under `beat`.
    """

    systems: tuple[str, ...] | Literal["all"] = "all"
    margin: float = Field(0.0, ge=0)


class SliceRule(_Strict):
    """Largest fall allowed in a value of a slice, against the incumbent (else the base, else the first of `beat`).

    A value blocks if its mean falls by more than `max_fall` and the fall is significant: by the paired test at 0.05,
    corrected by Holm over the values of the slice. Where less is better, a rise counts as a fall. An aggregate has no
    slices, so this rule does not apply to it.

    Attributes:
        max_fall: In units of the measure.
        values: The values to check; None: every value that occurs.
        min_rows: A value with fewer rows is reported and does not decide.
    """

    max_fall: float = Field(0.0, ge=0)
    values: tuple[str, ...] | None = None
    min_rows: int = Field(20, ge=1)


class Policy(_Strict):
    """The rules of a promotion policy.

    Attributes:
        measure: A mean or an aggregate; None: the headline of the candidate's evaluation.
        beat: `base`, `incumbent`, or the name of another system of the comparison. All must be beaten, so none of the
            tests needs a correction (intersection–union test: Berger, Technometrics 1982).
        decisions: Number of candidates that are decided on the same test rows. Each is tested at the level 0.05 divided
            by it (Bonferroni), with an interval of that level, so that all of them together move the alias by chance
            in at most 5%. For a further one, `promote` asks for new test rows.
        baselines: Written as `beat: {baselines: all}` or `beat: {baselines: [NAME, …]}`; None: none must be beaten.
        slices: Slice name -> its rule.
        max_invalid_rate: Bound on the share of the candidate's outputs that do not parse.
        max_latency_ms, max_latency_ratio: Bounds on the mean wall time per query, as measured and batched in the
            evaluation; the second in times that of the base.
        interleaving: What the clicks on interleaved hits must say (`promote --events`): `preferred`, users prefer the
            candidate; `not_lost`, they do not prefer the system without it. None: nothing.
        min_rows, min_groups: Minimum amount of data for a decision.
        data: Fingerprint of the dataset, or its first characters; None: any dataset.
        judgments: Accepted sources of judgments; grades of unknown source are refused unless `unknown` is among them.
        held_out: What happens if the candidate's training data is unknown: `required` breaks the rule,
            `reported` only reports it. Rows that it was trained on always break the rule. None: `required` for
            `promote`, `reported` for an experiment.
    """

    measure: str | None = None
    beat: dict[str, Margin] = {"base": Margin(), "incumbent": Margin()}
    decisions: int = Field(10, ge=1, le=100)
    baselines: Baselines | None = None
    slices: dict[str, SliceRule] = {}
    max_invalid_rate: float | None = Field(None, ge=0, le=1)
    max_latency_ms: float | None = Field(None, gt=0)
    max_latency_ratio: float | None = Field(None, gt=0)
    interleaving: Literal["preferred", "not_lost"] | None = None
    min_rows: int = Field(1, ge=1)
    min_groups: int = Field(1, ge=1)
    data: str | None = Field(None, pattern=r"^[0-9a-f]{8,64}$")
    judgments: tuple[Source, ...] = ("human", "mixed")
    held_out: Literal["required", "reported"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_baselines(cls, values: Any) -> Any:
        return _with_baselines(values) if isinstance(values, Mapping) else values


def read_policy(path: str | Path) -> Policy:
    """Read a policy file.

    Raises:
        UsageError: when the file cannot be read, is not YAML, or has an invalid key (named in the error).
    """
    try:
        content = parse_yaml(read_bytes(Path(path)))
    except DataError as error:
        raise UsageError(f"the policy cannot be read: {error.what}", where=str(path), fix=error.fix) from None
    except ValueError as error:
        raise UsageError(f"the policy {error}", where=str(path)) from None
    try:
        return Policy.model_validate({} if content is None else content)
    except ValidationError as error:
        wrong = [
            f"'{'.'.join(map(str, each['loc'])) or 'the file'}': {each['msg'][0].lower()}{each['msg'][1:]}"
            for each in error.errors()
        ]
        fix = f"The rules of a policy: {', '.join(Policy.model_fields)}."
        raise UsageError("; ".join(wrong), where=str(path), fix=fix) from None


def _with_baselines(policy: Mapping[str, Any]) -> Mapping[str, Any]:
    """The policy with `beat: {baselines: …}` as its key `baselines`."""
    beat = policy.get("beat")
    if not isinstance(beat, Mapping) or "baselines" not in beat:
        return policy
    asked = beat["baselines"]
    others = {name: margin for name, margin in beat.items() if name != "baselines"}
    return {**policy, "beat": others, "baselines": asked if isinstance(asked, Mapping) else {"systems": asked}}
