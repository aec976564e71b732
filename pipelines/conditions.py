"""Conditions: tests of a document's field by values that earlier stages wrote into a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchlora.outputs import Label
from searchlora.records import SearchContext
from searchlora.retrieval.field_filter import FieldFilter, FieldTest, Operator, case_folded


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

    def bound(self, search: SearchContext) -> FieldTest | None:
        """The test with the values of a search; None where nothing was written, so that there is nothing to test."""
        found = ((operator, values_at(search, path)) for operator, path in self.paths.items())
        return FieldTest(tuple((operator, values) for operator, values in found if values)) or None

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


def bound(conditions: Mapping[str, Condition], search: SearchContext) -> FieldFilter:
    """The tests of fields with the values of a search; those without a value are left out."""
    return {field: test for field, each in conditions.items() if (test := each.bound(search)) is not None}


def paths_of(*conditions: Mapping[str, Condition]) -> list[str]:
    """The paths of all values in a search that conditions read."""
    of_fields = (condition for each in conditions for condition in each.values())
    return list(dict.fromkeys(path for condition in of_fields for path in condition.paths.values()))


def described(conditions: Mapping[str, Condition]) -> list[str]:
    """Conditions in labels of stages."""
    return [phrase for field, each in conditions.items() for phrase in each.described(field)]


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
    return frozenset(case_folded(str(each)) for each in texts if each is not None and str(each).strip())
