"""What a task's model may answer, and the strict reading of it: a value or `InvalidOutput`, never a guess."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

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


@dataclass(frozen=True)
class Grammar:
    """What a completion may look like, for constrained generation.

    Attributes:
        kind: How `text` is written: a JSON Schema, a regular expression, or a grammar in llguidance's Lark dialect.
    """

    kind: Literal["json_schema", "regex", "lark"]
    text: str


class OutputSpec(Protocol):
    """The form of a task's answer: how a completion is read, and what holds a model to that form."""

    def parse(self, text: str) -> Any:
        """Read a completion strictly; returns the value or `InvalidOutput`."""

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The answers that are scored and not generated: all there can be, unless the form is `Continued`; or None."""

    @property
    def grammar(self) -> Grammar | None:
        """What generation is constrained to, so that every finished completion parses; None: nothing."""


@runtime_checkable
class ClosedSet(OutputSpec, Protocol):
    """A form with choices: the value can be had from their scores, with probabilities."""

    def from_scores(self, log_probabilities: Sequence[float]) -> Any:
        """The likeliest value, with all probabilities, from each choice's log-probability (shape: one per choice)."""


@runtime_checkable
class Continued(ClosedSet, Protocol):
    """Choices are scored first; where the value that is settled on has more to say, that is written afterwards."""

    @property
    def ends(self) -> str | None:
        """What follows a choice in an answer that goes on; None: a choice is scored as a whole answer."""

    @property
    def goes_on(self) -> bool:
        """Whether any value of this form has more to say."""

    @property
    def rest(self) -> Grammar:
        """What the text is constrained to."""

    def begins(self, value: Any) -> str | None:
        """How the answer of this value begins, "" where all of it is still to be written; None: it is whole."""

    def with_rest(self, value: Any, written: str | InvalidOutput) -> Any:
        """The value with what was written behind its beginning; `InvalidOutput`: that had no end."""


@dataclass(frozen=True)
class FreeText:
    """Any text that is not empty; one line unless `multiline`."""

    max_chars: int = 2000
    multiline: bool = False
    choices: None = None
    grammar: None = None

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
class Label:
    """A label of a closed set; `probabilities` (one per label, in the order of the set) only where they were scored."""

    value: str
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True)
class OneLabel:
    """One label of a closed set, letter for letter."""

    labels: tuple[str, ...]
    grammar: None = None

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError("a label set needs at least two labels, all different")

    @property
    def choices(self) -> tuple[str, ...]:
        return self.labels

    def parse(self, text: str) -> Label | InvalidOutput:
        value = text.strip()
        return Label(value) if value in self.labels else InvalidOutput(text, "not one of the labels")

    def from_scores(self, log_probabilities: Sequence[float]) -> Label:
        """The likeliest label, with all probabilities, from each label's log-probability (shape: one per label)."""
        best, probabilities = _softmax(log_probabilities)
        return Label(self.labels[best], probabilities)


@dataclass(frozen=True)
class Grade:
    """A graded judgment; `probabilities` (one per grade, in the order of the scale) only where labels were scored.

    `reason` is one line on why, where one was asked for. A grade that was scored is valid without it: None where the
    reason had no end within the tokens allowed.
    """

    value: int
    probabilities: tuple[float, ...] | None = None
    reason: str | None = None


#: A reason: one line of 1 to 300 characters, a blank not the first of them.
_REASON = r"[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f\u2028\u2029]{0,299}"


@dataclass(frozen=True)
class Graded:
    """One grade of a scale, each grade written as its label.

    Args:
        scale: label -> grade, in the order in which probabilities are given.
        reasoned: A second line, of at most 300 characters, says why: "LABEL\\nREASON".
    """

    scale: Mapping[str, int]
    reasoned: bool = False
    grammar: None = None

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self.scale)

    @property
    def ends(self) -> str | None:
        return "\n" if self.reasoned else None

    @property
    def rest(self) -> Grammar:
        return Grammar("regex", _REASON)

    def parse(self, text: str) -> Grade | InvalidOutput:
        label, _, reason = text.strip().partition("\n") if self.reasoned else (text.strip(), "", "")
        if label not in self.scale:
            return InvalidOutput(text, "not a grade of the scale")
        if self.reasoned and not re.fullmatch(_REASON, reason):
            return InvalidOutput(text, "no reason of one line, at most 300 characters, follows the grade")
        return Grade(self.scale[label], reason=reason or None)

    def from_scores(self, log_probabilities: Sequence[float]) -> Grade:
        """The likeliest grade, with all probabilities, from each label's log-probability (shape: one per grade)."""
        best, probabilities = _softmax(log_probabilities)
        return Grade(tuple(self.scale.values())[best], probabilities)

    @property
    def goes_on(self) -> bool:
        return self.reasoned

    def begins(self, value: Grade) -> str | None:
        """The label of a grade, the likeliest where several mean that grade, and the end of its line."""
        if not self.reasoned:
            return None
        chances = dict(zip(self.scale, value.probabilities or (), strict=False))
        labels = (label for label, grade in self.scale.items() if grade == value.value)
        return max(labels, key=lambda label: chances.get(label, 0.0)) + "\n"

    def with_rest(self, value: Grade, written: str | InvalidOutput) -> Grade:
        return value if isinstance(written, InvalidOutput) else replace(value, reason=written.strip())


@dataclass(frozen=True)
class JsonObject:
    """One JSON value that fits a JSON Schema; nothing before it, nothing behind it, no key twice."""

    schema: Mapping[str, Any]
    choices: None = None

    @property
    def grammar(self) -> Grammar:
        return Grammar("json_schema", json.dumps(self.schema))

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
    """An answer whose sentences cite numbered passages as [1] or [1][3].

    Attributes:
        citations: Each once, in order.
        abstention_probability: Of the abstention word for word, only where it was scored.
    """

    text: str
    citations: tuple[int, ...]
    abstained: bool
    abstention_probability: float | None = None


@dataclass(frozen=True)
class CitedText:
    """An answer with citations of passages 1..`passages`, or the stated abstention word for word.

    The abstention is scored first, so that when to abstain is a matter of its probability. What is written after that
    may still be the abstention, where that is what the model would rather write.
    """

    passages: int
    abstention: str
    goes_on = True
    ends: None = None

    @property
    def choices(self) -> tuple[str]:
        return (self.abstention,)

    @property
    def grammar(self) -> Grammar:
        """The abstention, or what `rest` admits."""
        return Grammar("regex", f"{literally(self.abstention)}|{self.rest.text}")

    @property
    def rest(self) -> Grammar:
        """A regex: brackets hold a passage that was given, or no digit at all; a bracket that opens is closed."""
        cited = rf"\[({'|'.join(str(number) for number in range(1, self.passages + 1))})\]"
        piece = "|".join([r"\[[^\]\d]*\]", *([cited] if self.passages else [])])
        return Grammar("regex", rf"([^\[\s\x00-\x1f]|{piece})([^\[]|{piece})*")

    def from_scores(self, log_probabilities: Sequence[float]) -> CitedAnswer:
        """The abstention where it is as likely as everything else; else an answer still to be written."""
        return self.settled(math.exp(log_probabilities[0]), 0.5)

    def settled(self, probability: float, threshold: float) -> CitedAnswer:
        """The abstention where its probability is not below the threshold; else an answer still to be written."""
        abstained = probability >= threshold
        return CitedAnswer(self.abstention if abstained else "", (), abstained, probability)

    def begins(self, value: CitedAnswer) -> str | None:
        return None if value.abstained else ""

    def with_rest(self, value: CitedAnswer, written: str | InvalidOutput) -> CitedAnswer | InvalidOutput:
        answer = written if isinstance(written, InvalidOutput) else self.parse(written)
        if isinstance(answer, InvalidOutput):
            return answer
        return replace(answer, abstention_probability=value.abstention_probability)

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


def _softmax(log_probabilities: Sequence[float]) -> tuple[int, tuple[float, ...]]:
    """The place of the highest score, and all scores as probabilities that sum to one."""
    top = max(log_probabilities)
    weights = [math.exp(score - top) for score in log_probabilities]
    total = math.fsum(weights)
    return log_probabilities.index(top), tuple(weight / total for weight in weights)


def literally(text: str) -> str:
    """Text as a regular expression that only it matches; Python's `re.escape` also escapes what llguidance refuses."""
    return re.sub(r"[\\^$.|?*+(){}\[\]]", r"\\\g<0>", text)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
