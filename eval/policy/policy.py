"""A policy as it is written: YAML, each key a rule.

measure: nDCG@10
beat:                                  # each by its margin, with the 95% interval of the difference
  base: {margin: 0.02}
  incumbent: {margin: 0.0}
slices:
  turn: {largest_fall: 0.03, least_rows: 30}   # no turn may fall by more against the incumbent
  kind: {largest_fall: 0.0, values: [complaint], by: interval}
invalid_rate: {at_most: 0.02}
latency: {at_most_ms: 900, at_most_times_base: 1.5}
least: {rows: 200, groups: 50}
data: 3f9a0c…                          # the fingerprint of the dataset, or its beginning
judgments: [human, mixed]              # sources of judgments that count
held_out: required                     # or `told`
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from searchlora.errors import UsageError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Margin(_Strict):
    """The lower end of the 95% interval of the difference must be above `margin`, in units of the measure; where less
    is better, the upper end must be below −`margin`.

    And p of the paired randomisation test at most 0.05: where few rows differ, or there are few, the interval alone
    would let chance through.
    """

    margin: float = Field(0.0, ge=0)


class SliceRule(_Strict):
    """No value of the slice may fall against the incumbent (where there is none, against the base, else the first of
    `beat`). Where less is better, a rise is a fall. An aggregate has no slices, so it cannot be held to such a rule.

    Attributes:
        largest_fall: In units of the measure.
        values: Only these; None takes every value that occurs.
        by: `difference`: the mean difference must not be below −largest_fall. `interval`: a greater fall must be
            excluded, so the lower end of the 95% interval must not be below it; strict, since slices are small.
        least_rows: A value with fewer rows is told and does not decide: a few rows fall by chance. None: every value
            decides.
    """

    largest_fall: float = Field(0.0, ge=0)
    values: tuple[str, ...] | None = None
    by: Literal["difference", "interval"] = "difference"
    least_rows: int | None = Field(None, ge=1)


class InvalidRate(_Strict):
    """The share of the candidate's outputs that do not parse."""

    at_most: float = Field(ge=0, le=1)


class Latency(_Strict):
    """Mean wall time per query, measured in the evaluation's own run, batched as it was there."""

    at_most_ms: float | None = Field(None, gt=0)
    at_most_times_base: float | None = Field(None, gt=0)


class Least(_Strict):
    """How much there must be to decide on."""

    rows: int = Field(1, ge=1)
    groups: int = Field(1, ge=1)


class Policy(_Strict):
    """See the module's docstring.

    Attributes:
        measure: A mean or an aggregate; None takes the headline of the candidate's evaluation.
        beat: `base`, `incumbent`, or the name of another system of the comparison. All must be beaten, so none of the
            tests needs a correction (intersection–union test: Berger, Technometrics 1982).
        held_out: Where it cannot be told what the candidate was trained on, `required` breaks the rule and `told` only
            says so. Rows that it was trained on break it in both. None: `promote` requires, an experiment tells.
    """

    measure: str | None = None
    beat: dict[str, Margin] = {"base": Margin(), "incumbent": Margin()}
    slices: dict[str, SliceRule] = {}
    invalid_rate: InvalidRate | None = None
    latency: Latency | None = None
    least: Least = Least()
    data: str | None = Field(None, pattern=r"^[0-9a-f]{8,64}$")
    judgments: tuple[Literal["human", "llm", "clicks", "mixed"], ...] = ("human", "mixed")
    held_out: Literal["required", "told"] | None = None


def read_policy(path: str | Path) -> Policy:
    """Read a policy file.

    Raises:
        UsageError: when it is not there, is not YAML, or naming the key that is refused.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the policy cannot be read ({error.strerror})", where=str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"the policy is not YAML ({error})", where=str(path)) from None
    try:
        return Policy.model_validate({} if content is None else content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(
            f"'{key}': {first['msg'][0].lower()}{first['msg'][1:]}",
            where=str(path),
            fix=f"The rules of a policy: {', '.join(Policy.model_fields)}.",
        ) from None
