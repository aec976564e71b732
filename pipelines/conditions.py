"""Conditions: tests of a document's field by values that earlier stages wrote into a search."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from searchlora.outputs import Label
from searchlora.records import SearchContext

Operator: TypeAlias = Literal["equals", "contains", "prefix", "min", "max"]

#: Takes the text of a field.
Test: TypeAlias = Callable[[str], bool]


@dataclass(frozen=True)
class Condition:
    """What a field must be, by what a search says.

    Attributes:
        paths: Operator -> path of its values in the search. All of them must hold; one whose path has no value, or for
            `min` and `max` no number, is left out.

    Examples:
        >>> cheap = Condition({"max": "intent.price"})
        >>> test = cheap.bound({"intent": {"price": 50}})
        >>> test("49.9"), test("50.5"), test("on request")
        (True, False, False)
        >>> cheap.bound({"intent": {}}) is None
        True
    """

    paths: Mapping[Operator, str]

    def bound(self, search: SearchContext) -> Test | None:
        """The test with the values of a search; None where nothing was written, so that there is nothing to test."""
        tests = [
            test
            for operator, path in self.paths.items()
            if (values := values_at(search, path)) and (test := _TESTS[operator](values)) is not None
        ]
        return (lambda text: all(test(text) for test in tests)) if tests else None

    def described(self, field: str) -> list[str]:
        """The condition in labels of stages, one phrase for each operator.

        Examples:
            >>> Condition({"equals": "brand"}).described("brand"), Condition({"max": "intent.price"}).described("price")
            (['brand:brand'], ['price.max:intent.price'])
        """
        return [
            f"{field}:{path}" if operator == "equals" else f"{field}.{operator}:{path}"
            for operator, path in self.paths.items()
        ]


def values_at(search: SearchContext, path: str) -> frozenset[str]:
    """The values at a path of a search, case-folded: a label, an attribute, or each of a list of them.

    Examples:
        >>> values_at({"intent": {"brand": "Acme", "colours": ["Red", "Blue"]}}, "intent.brand")
        frozenset({'acme'})
        >>> values_at({"intent": {"brand": "Acme"}}, "intent.size")
        frozenset()
    """
    value: Any = search
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    values = value if isinstance(value, list | tuple) else [value]
    texts = [each.value if isinstance(each, Label) else each for each in values]
    return frozenset(_folded(str(each)) for each in texts if each is not None and str(each).strip())


def _equal(values: frozenset[str]) -> Test:
    return lambda text: _folded(text) in values


def _containing(values: frozenset[str]) -> Test | None:
    """The words of a value stand together in the field."""
    wanted = [f" {words} " for value in values if (words := _words(value))]
    return (lambda text: any(each in f" {_words(text)} " for each in wanted)) if wanted else None


def _beginning(values: frozenset[str]) -> Test:
    beginnings = tuple(values)
    return lambda text: _folded(text).startswith(beginnings)


def _at_least(values: frozenset[str]) -> Test | None:
    """The lowest of several bounds counts, as a field equals one of several values."""
    bounds = _numbers(values)
    return (lambda text: any(number >= min(bounds) for number in _numbers([text]))) if bounds else None


def _at_most(values: frozenset[str]) -> Test | None:
    bounds = _numbers(values)
    return (lambda text: any(number <= max(bounds) for number in _numbers([text]))) if bounds else None


_TESTS: Mapping[Operator, Callable[[frozenset[str]], Test | None]] = {
    "equals": _equal,
    "contains": _containing,
    "prefix": _beginning,
    "min": _at_least,
    "max": _at_most,
}


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _numbers(texts: Iterable[str]) -> list[float]:
    """The finite numbers among texts, written with a decimal point and without separators."""
    found = []
    for text in texts:
        try:
            number = float(text)
        except ValueError:
            continue
        if math.isfinite(number):
            found.append(number)
    return found
