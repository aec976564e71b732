"""What a task's model may answer, and the strict reading of it: a value or `InvalidOutput`, never a guess."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

JsonValue: TypeAlias = Any


@dataclass(frozen=True)
class InvalidOutput:
    """A completion that does not parse. It is kept whole and never becomes 0, the first label or the old order.

    Attributes:
        raw: The completion as the model wrote it.
        reason: Why it was refused, for the trace and the reader of a report.
    """

    raw: str
    reason: str


class OutputSpec(Protocol):
    """The form of a task's answer: how a completion is read, and (where the set of answers is closed) its choices."""

    def parse(self, text: str) -> Any:
        """Read a completion strictly; returns the value or `InvalidOutput`."""

    @property
    def choices(self) -> tuple[str, ...] | None:
        """Every answer there can be, for scoring instead of generating; None where the set is open."""


@dataclass(frozen=True)
class FreeText:
    """Any text that is not empty; one line unless `multiline`."""

    max_chars: int = 2000
    multiline: bool = False
    choices: None = None

    def parse(self, text: str) -> str | InvalidOutput:
        value = text.strip()
        if not value:
            return InvalidOutput(text, "empty")
        if len(value) > self.max_chars:
            return InvalidOutput(text, f"longer than {self.max_chars} characters")
        if not self.multiline and "\n" in value:
            return InvalidOutput(text, "more than one line")
        return value


@dataclass(frozen=True)
class OneLabel:
    """One label of a closed set, letter for letter."""

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError("a label set needs at least two labels, all different")

    @property
    def choices(self) -> tuple[str, ...]:
        return self.labels

    def parse(self, text: str) -> str | InvalidOutput:
        value = text.strip()
        return value if value in self.labels else InvalidOutput(text, "not one of the labels")


@dataclass(frozen=True)
class Grade:
    """A graded judgment; `probabilities` (one per grade, in the order of the scale) only where labels were scored."""

    value: int
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Graded:
    """One grade of a scale, each grade written as its label.

    Args:
        scale: label -> grade, in the order in which probabilities are given.
    """

    scale: Mapping[str, int]

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self.scale)

    def parse(self, text: str) -> Grade | InvalidOutput:
        value = text.strip()
        return Grade(self.scale[value]) if value in self.scale else InvalidOutput(text, "not a grade of the scale")

    def from_scores(self, log_probabilities: Sequence[float]) -> Grade:
        """The likeliest grade, with all probabilities, from each label's log-probability (shape: one per grade)."""
        top = max(log_probabilities)
        weights = [math.exp(score - top) for score in log_probabilities]
        probabilities = tuple(weight / sum(weights) for weight in weights)
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        return Grade(tuple(self.scale.values())[best], probabilities)


@dataclass(frozen=True)
class JsonObject:
    """One JSON value that fits a JSON Schema; nothing before it, nothing behind it, no key twice."""

    schema: Mapping[str, Any]
    choices: None = None

    def parse(self, text: str) -> JsonValue | InvalidOutput:
        import jsonschema

        try:
            value = json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
        except ValueError as error:
            return InvalidOutput(text, f"not JSON: {error}")
        validator = jsonschema.validators.validator_for(self.schema)(self.schema)
        problem = next(validator.iter_errors(value), None)
        if problem is not None:
            field = "/".join(str(part) for part in problem.absolute_path) or "the value"
            return InvalidOutput(text, f"{field}: {problem.message}")
        return value


@dataclass(frozen=True)
class CitedAnswer:
    """An answer whose sentences cite numbered passages as [1] or [1][3]; `citations` holds each once, in order."""

    text: str
    citations: tuple[int, ...]
    abstained: bool


@dataclass(frozen=True)
class CitedText:
    """An answer with citations of passages 1..`passages`, or the stated abstention word for word."""

    passages: int
    abstention: str
    choices: None = None

    def parse(self, text: str) -> CitedAnswer | InvalidOutput:
        value = text.strip()
        if not value:
            return InvalidOutput(text, "empty")
        if value == self.abstention:
            return CitedAnswer(value, (), abstained=True)
        loose = next(
            (mark for mark in re.findall(r"\[[^\]]*\d[^\]]*\]", value) if not re.fullmatch(r"\[\d+\]", mark)), None
        )
        if loose is not None:
            return InvalidOutput(text, f"'{loose}' is no citation; one is written [1], two [1][3]")
        cited = [int(number) for number in re.findall(r"\[(\d+)\]", value)]
        unknown = sorted({number for number in cited if not 1 <= number <= self.passages})
        if unknown:
            return InvalidOutput(text, f"cites passage {unknown[0]}, but only 1 to {self.passages} were given")
        return CitedAnswer(value, tuple(dict.fromkeys(cited)), abstained=False)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
