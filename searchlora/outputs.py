"""Output specifications of tasks: strict parsing of completions, choice scoring, grammars, and outputs as JSON.

A completion becomes a value or an `InvalidOutput`, never a guess.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from searchlora.errors import InvalidScores, OutputSchemaError
from searchlora.files.json_schema import schema_validator
from searchlora.files.json_text import parse_json

JsonValue: TypeAlias = Any


@dataclass(frozen=True)
class InvalidOutput:
    """A completion that does not parse. It never becomes grade 0, the first label or the original order.

    Attributes:
        raw: The completion, unchanged.
        reason: Why it does not parse, for traces and reports.
    """

    raw: str
    reason: str


@dataclass(frozen=True)
class Grammar:
    """A grammar for constrained generation.

    Attributes:
        kind: Language of `text`: JSON Schema, regular expression, or llguidance's dialect of Lark.
    """

    kind: Literal["json_schema", "regex", "lark"]
    text: str


class OutputSpec(Protocol):
    """Specification of a task's output: how a completion is parsed, and the grammar that constrains it."""

    def parse(self, text: str) -> Any:
        """Parse a completion strictly; returns the value or `InvalidOutput`."""

    @property
    def choices(self) -> tuple[str, ...] | None:
        """Answers that are scored instead of generated; None if answers are generated."""

    @property
    def grammar(self) -> Grammar | None:
        """Grammar that constrains generation, so that every finished completion parses; None: unconstrained."""


@runtime_checkable
class ClosedSet(OutputSpec, Protocol):
    """Output with a closed set of choices, whose value and probabilities follow from their scores."""

    def from_scores(self, log_probabilities: Sequence[float]) -> Any:
        """The likeliest value, with the probabilities of all choices.

        Args:
            log_probabilities: One per choice, in nats, in the order of `choices`.

        Raises:
            InvalidScores: for NaN, infinite scores, or another number of scores than choices.
        """


@runtime_checkable
class Continued(ClosedSet, Protocol):
    """Output in two steps: choices are scored first, then a text is generated for the chosen value if it needs one."""

    @property
    def choice_suffix(self) -> str | None:
        """Text between a choice and its continuation; None: a choice is scored as a complete answer."""

    @property
    def continues(self) -> bool:
        """True if some value of this specification needs a continuation."""

    @property
    def continuation(self) -> Grammar:
        """Grammar of the continuation."""

    def answer_prefix(self, value: Any) -> str | None:
        """Beginning of the answer of a value, "" if all of it is generated; None: the answer is complete."""

    def with_continuation(self, value: Any, text: str | InvalidOutput) -> Any:
        """The value with its continuation; `InvalidOutput` if the continuation did not end."""


@dataclass(frozen=True)
class FreeText:
    """Any non-empty text; one line unless `multiline`.

    Examples:
        >>> FreeText().parse(" waterproof hiking boots ")
        'waterproof hiking boots'
        >>> FreeText().parse("")
        InvalidOutput(raw='', reason='empty')
    """

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
    """A label of a closed set.

    Attributes:
        probabilities: One per label, in the order of the set; None if labels were not scored.
    """

    value: str
    probabilities: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_probabilities(self.probabilities or ())


@dataclass(frozen=True)
class OneLabel:
    """One label of a closed set, letter for letter.

    Examples:
        >>> spec = OneLabel(("buy", "return"))
        >>> spec.parse("return").value
        'return'
        >>> spec.parse("I think: return")
        InvalidOutput(raw='I think: return', reason='not one of the labels')
        >>> spec.from_scores([0.0, 0.0]).probabilities
        (0.5, 0.5)
    """

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
        """The likeliest label; see `ClosedSet.from_scores`."""
        best, probabilities = _softmax(log_probabilities, self.labels)
        return Label(self.labels[best], probabilities)


def subsequence_rules(literals: Sequence[str], separator: str) -> list[str]:
    """Lark rules of which `some` accepts some of the literals, at least one, in order, with a separator between.

    A rule accepts those of one half, of the other, or of both: rules that call each other in a chain as long as the
    literals would overflow the compiler's stack.

    Examples:
        >>> subsequence_rules(['"a"', '"b"'], ",")
        ['from_0_to_1: "a"', 'from_1_to_2: "b"', 'some: from_0_to_1 | from_1_to_2 | from_0_to_1 "," from_1_to_2']
    """
    rules: list[str] = []

    def rule(first: int, end: int, name: str) -> str:
        if end - first == 1:
            rules.append(f"{name}: {literals[first]}")
        else:
            middle = (first + end) // 2
            one, other = (rule(*part, "from_{}_to_{}".format(*part)) for part in ((first, middle), (middle, end)))
            rules.append(f'{name}: {one} | {other} | {one} "{separator}" {other}')
        return name

    rule(0, len(literals), "some")
    return rules


@dataclass(frozen=True)
class LabelSet:
    """Output form: a JSON list of distinct labels of a closed set. The value is in the order of the set.

    Constrained decoding writes the labels in that order too, so every set has exactly one spelling. A JSON Schema
    cannot express this, since llguidance does not support `uniqueItems`.

    Raises:
        ValueError: for an empty set or a repeated label.

    Examples:
        >>> form = LabelSet(("refund", "return"))
        >>> form.parse('["return", "refund"]')
        ['refund', 'return']
        >>> form.parse('["exchange"]').reason
        '"exchange" is not one of the labels'
    """

    labels: tuple[str, ...]
    choices: None = None

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError("a label set needs labels, all different")

    @property
    def grammar(self) -> Grammar:
        """A Lark grammar of a list of labels, see `subsequence_rules`."""
        names = [json.dumps(json.dumps(label, ensure_ascii=False), ensure_ascii=False) for label in self.labels]
        return Grammar("lark", "\n".join(['start: "[]" | "[" some "]"', *subsequence_rules(names, ",")]))

    def parse(self, text: str) -> list[str] | InvalidOutput:
        """Parse a completion strictly: a list of labels, or `InvalidOutput`."""
        value = _json_value(text)
        if isinstance(value, InvalidOutput):
            return value
        if not isinstance(value, list):
            return InvalidOutput(text, "not a list")
        unknown = [label for label in value if label not in self.labels]  # null, too
        if unknown:
            return InvalidOutput(text, f"{json.dumps(unknown[0])} is not one of the labels")
        if len(set(value)) != len(value):
            return InvalidOutput(text, "a label is repeated")
        return [label for label in self.labels if label in value]


@dataclass(frozen=True)
class Grade:
    """A graded relevance judgment.

    Attributes:
        probabilities: One per grade, in the order of the scale; None if grades were not scored.
        reason: One line that explains the grade, if the task asks for one. A scored grade is valid without it: None if
            the reason did not end within the allowed tokens.
    """

    value: int
    probabilities: tuple[float, ...] | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        _check_probabilities(self.probabilities or ())


#: A reason: one line of 1 to 300 characters that does not begin with a blank.
_REASON = r"[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f\u2028\u2029]{0,299}"


@dataclass(frozen=True)
class Graded:
    """One grade of a scale, written as its label.

    Args:
        scale: Label -> grade, in the order of the probabilities.
        reasoned: A second line of at most 300 characters gives the reason: "LABEL\\nREASON".

    Examples:
        >>> spec = Graded({"Irrelevant": 0, "Relevant": 1})
        >>> spec.parse("Relevant").value
        1
        >>> spec.from_scores([float("nan"), -1.0])
        Traceback (most recent call last):
        searchlora.errors.InvalidScores: the score of 'Irrelevant' is nan. ...
    """

    scale: Mapping[str, int]
    reasoned: bool = False
    grammar: None = None

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self.scale)

    @property
    def choice_suffix(self) -> str | None:
        return "\n" if self.reasoned else None

    @property
    def continuation(self) -> Grammar:
        return Grammar("regex", _REASON)

    def parse(self, text: str) -> Grade | InvalidOutput:
        label, _, reason = text.strip().partition("\n") if self.reasoned else (text.strip(), "", "")
        if label not in self.scale:
            return InvalidOutput(text, "not a grade of the scale")
        if self.reasoned and not re.fullmatch(_REASON, reason):
            return InvalidOutput(text, "no reason of one line, at most 300 characters, follows the grade")
        return Grade(self.scale[label], reason=reason or None)

    def from_scores(self, log_probabilities: Sequence[float]) -> Grade:
        """The likeliest grade; see `ClosedSet.from_scores`."""
        best, probabilities = _softmax(log_probabilities, self.choices)
        return Grade(tuple(self.scale.values())[best], probabilities)

    @property
    def continues(self) -> bool:
        return self.reasoned

    def answer_prefix(self, value: Grade) -> str | None:
        """The label of a grade and a line feed; the likeliest label if several have that grade."""
        if not self.reasoned:
            return None
        probabilities = dict(zip(self.scale, value.probabilities or (), strict=False))
        labels = (label for label, grade in self.scale.items() if grade == value.value)
        return max(labels, key=lambda label: probabilities.get(label, 0.0)) + "\n"

    def with_continuation(self, value: Grade, text: str | InvalidOutput) -> Grade:
        return value if isinstance(text, InvalidOutput) else replace(value, reason=text.strip())


@dataclass(frozen=True)
class JsonObject:
    """One JSON value that is valid under a JSON Schema, without text around it and without duplicate keys.

    `$ref` is resolved inside the schema only; nothing is fetched.

    Examples:
        >>> spec = JsonObject({"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]})
        >>> spec.parse('{"size": 42}')
        {'size': 42}
        >>> spec.parse('{"size": "42"}').reason
        "size: '42' is not of type 'integer'"
    """

    schema: Mapping[str, Any]
    choices: None = None

    @property
    def grammar(self) -> Grammar:
        return Grammar("json_schema", json.dumps(self.schema))

    def parse(self, text: str) -> JsonValue | InvalidOutput:
        value = _json_value(text)
        problem = None if isinstance(value, InvalidOutput) else _first_schema_error(self.schema, value)
        if problem is None:
            return value
        field = "/".join(str(part) for part in problem.absolute_path) or "the value"
        return InvalidOutput(text, f"{field}: {problem.message}")


@dataclass(frozen=True)
class CitedAnswer:
    """An answer whose sentences cite numbered passages as [1] or [1][3].

    Attributes:
        citations: Numbers of the cited passages, each once, in order.
        abstained: True if the answer is the abstention.
        abstention_probability: Probability of the abstention; None if it was not scored.
        reason: Who decided to abstain or to answer, and by which score; None if no rule did.
    """

    text: str
    citations: tuple[int, ...]
    abstained: bool
    abstention_probability: float | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        _check_probabilities(() if self.abstention_probability is None else (self.abstention_probability,))


@dataclass(frozen=True)
class CitedText:
    """An answer with citations of passages 1 to `passages`, or the abstention word for word.

    The abstention is scored first, so a threshold on its probability decides when to abstain. A generated answer may
    still be the abstention.

    Examples:
        >>> spec = CitedText(passages=2, abstention="I cannot say.")
        >>> spec.parse("It is waterproof [2].").citations
        (2,)
        >>> spec.parse("It is waterproof [7].").reason
        'cites passage 7, but only 1 to 2 were given'
    """

    passages: int
    abstention: str
    continues = True
    choice_suffix: None = None

    @property
    def choices(self) -> tuple[str]:
        return (self.abstention,)

    @property
    def grammar(self) -> Grammar:
        """The abstention, or an answer as in `continuation`."""
        return Grammar("regex", f"{escape_regex(self.abstention)}|{self.continuation.text}")

    @property
    def continuation(self) -> Grammar:
        """A regex: brackets are closed and hold the number of a passage, or no digit at all."""
        cited = rf"\[({'|'.join(str(number) for number in range(1, self.passages + 1))})\]"
        piece = "|".join([r"\[[^\]\d]*\]", *([cited] if self.passages else [])])
        return Grammar("regex", rf"([^\[\s\x00-\x1f]|{piece})([^\[]|{piece})*")

    def from_scores(self, log_probabilities: Sequence[float]) -> CitedAnswer:
        """The abstention if its probability is at least 0.5, else an answer without text yet.

        Args:
            log_probabilities: That of the abstention, in nats.

        Raises:
            InvalidScores: for NaN, infinity, or another number of scores than one.
        """
        _check_scores(log_probabilities, self.choices)
        return self.at_threshold(min(math.exp(min(log_probabilities[0], 0.0)), 1.0), 0.5)

    def at_threshold(self, probability: float, threshold: float) -> CitedAnswer:
        """The abstention if its probability is at least the threshold, else an answer without text yet."""
        abstained = probability >= threshold
        return CitedAnswer(self.abstention if abstained else "", (), abstained, probability)

    def answer_prefix(self, value: CitedAnswer) -> str | None:
        return None if value.abstained else ""

    def with_continuation(self, value: CitedAnswer, text: str | InvalidOutput) -> CitedAnswer | InvalidOutput:
        answer = text if isinstance(text, InvalidOutput) else self.parse(text)
        if isinstance(answer, InvalidOutput):
            return answer
        written = answer.reason or "written by the model, which was to answer"
        reason = written if answer.abstained else value.reason
        return replace(answer, abstention_probability=value.abstention_probability, reason=reason)

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
            return InvalidOutput(text, f"'{loose}' is not a citation; write [1], or [1][3] for two")
        cited = [int(number) for number in re.findall(r"\[(\d+)\]", value)]
        unknown = sorted({number for number in cited if not 1 <= number <= self.passages})
        if unknown:
            return InvalidOutput(text, f"cites passage {unknown[0]}, but only 1 to {self.passages} were given")
        return CitedAnswer(value, tuple(dict.fromkeys(cited)), abstained=False)


def escape_regex(text: str) -> str:
    """Text as a regular expression that matches only it; `re.escape` also escapes what llguidance refuses.

    Examples:
        >>> print(escape_regex("size 42 (EU)"))
        size 42 \\(EU\\)
    """
    return re.sub(r"[\\^$.|?*+(){}\[\]]", r"\\\g<0>", text)


def _softmax(log_probabilities: Sequence[float], choices: Sequence[str]) -> tuple[int, tuple[float, ...]]:
    """Index of the highest score, and the scores as probabilities that sum to one. Raises `InvalidScores`."""
    _check_scores(log_probabilities, choices)
    top = max(log_probabilities)
    weights = [math.exp(score - top) for score in log_probabilities]
    total = math.fsum(weights)
    return list(log_probabilities).index(top), tuple(weight / total for weight in weights)


def _check_scores(log_probabilities: Sequence[float], choices: Sequence[str]) -> None:
    """Raises `InvalidScores` for another number of scores than choices, NaN, or infinity."""
    if len(log_probabilities) != len(choices):
        raise InvalidScores(
            f"{len(log_probabilities)} scores for {len(choices)} choices", fix="Each choice needs one log-probability."
        )
    for choice, score in zip(choices, log_probabilities, strict=True):
        if not math.isfinite(score):
            raise InvalidScores(
                f"the score of {choice[:80]!r} is {score}",
                fix="Check the weights of the base and the adapter with `searchlora adapters verify`.",
            )


def _check_probabilities(probabilities: Sequence[float]) -> None:
    """Raises `InvalidScores` for NaN and for values outside [0, 1], up to rounding."""
    for probability in probabilities:
        if not -1e-6 <= probability <= 1 + 1e-6:  # NaN fails too
            raise InvalidScores(f"a probability of {probability} is not between 0 and 1")


# JSON and JSON Schema


def _first_schema_error(schema: Mapping[str, Any], value: JsonValue) -> Any:
    """The first error of a value under a schema, or None. Raises `OutputSchemaError` for an unusable schema."""
    from referencing.exceptions import Unresolvable

    try:
        return next(schema_validator(schema).iter_errors(value), None)
    except Unresolvable as error:
        raise OutputSchemaError(
            f"the output schema refers to {error.ref!r}, which is not part of it",
            fix="Copy the definition into the schema's '$defs'; nothing is fetched.",
        ) from None
    except RecursionError:
        raise OutputSchemaError("the output schema refers to itself without end", fix="Remove the cycle.") from None


def _json_value(text: str) -> JsonValue | InvalidOutput:
    try:
        return parse_json(text)
    except ValueError as error:
        return InvalidOutput(text, f"not JSON: {error}")


# Outputs in files

#: Output classes by the key under which `to_json` stores them.
_KINDS: Mapping[str, type[Any]] = {"invalid": InvalidOutput, "label": Label, "grade": Grade, "cited": CitedAnswer}


def to_json(output: Any) -> dict[str, JsonValue]:
    """An output as a JSON object with one key that names its kind; `from_json` returns an equal output.

    Raises:
        TypeError: for a value that is neither an output class nor plain JSON.

    Examples:
        >>> to_json(Grade(2))
        {'grade': {'value': 2, 'probabilities': None, 'reason': None}}
        >>> from_json({"value": {"size": 42}})
        {'size': 42}
    """
    for kind, output_class in _KINDS.items():
        if isinstance(output, output_class):
            return {kind: asdict(output)}
    try:
        plain = json.loads(json.dumps(output)) == output  # no tuples, and no keys that are numbers
    except TypeError:
        plain = False
    if not plain:
        raise TypeError(f"a {type(output).__name__} is not an output that can be stored")
    return {"value": output}


def from_json(stored: Mapping[str, JsonValue]) -> Any:
    """The output that `to_json` stored. Raises `ValueError` for anything else."""
    if not isinstance(stored, Mapping) or len(stored) != 1:
        raise ValueError(f"an output is stored under one key, not as {str(stored)[:100]}")
    ((kind, value),) = stored.items()
    if kind == "value":
        return value
    if kind not in _KINDS:
        raise ValueError(f"'{kind}' is not a type of output")
    try:
        # Strict as JSON: its lists are tuples, and a number is no text.
        return _stored_type(kind).validate_json(json.dumps(value), strict=True)
    except (TypeError, ValueError, InvalidScores) as error:
        raise ValueError(f"is no stored {kind} ({error})") from None


@cache
def _stored_type(kind: str) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(_KINDS[kind])


def is_output_of(form: OutputSpec, output: Any) -> bool:
    """Whether a stored output is one that a form can have. Forms of other packages are asked for their choices only.

    Examples:
        >>> is_output_of(OneLabel(("buy", "return")), Label("sell"))
        False
        >>> is_output_of(FreeText(), ["a list"])
        False
    """
    if isinstance(output, InvalidOutput):
        return True
    if isinstance(form, OneLabel | Graded):
        values = form.labels if isinstance(form, OneLabel) else tuple(form.scale.values())
        probabilities = getattr(output, "probabilities", None)
        return (
            isinstance(output, Label if isinstance(form, OneLabel) else Grade)
            and output.value in values
            and (probabilities is None or len(probabilities) == len(form.choices))
        )
    if isinstance(form, FreeText):
        return isinstance(output, str) and form.parse(output) == output
    if isinstance(form, LabelSet | JsonObject):
        return not isinstance(form.parse(json.dumps(output)), InvalidOutput)
    return isinstance(output, CitedAnswer) or not isinstance(form, CitedText)
