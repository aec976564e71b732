"""Several labels of a closed set as the form of an answer."""

from __future__ import annotations

import json
from dataclasses import dataclass

from searchlora.outputs import Grammar, InvalidOutput


@dataclass(frozen=True)
class LabelSet:
    """A JSON list of labels of a closed set, none twice; the value is the list in the order of the set.

    Constrained generation writes them in that order too, so a set has one spelling only. (A JSON Schema would not do:
    llguidance does not take `uniqueItems`.)
    """

    labels: tuple[str, ...]
    choices: None = None

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError("a label set needs labels, all different")

    @property
    def grammar(self) -> Grammar:
        """One rule per label: `from_i` is what may follow once the labels before i are done with."""
        names = [json.dumps(json.dumps(label, ensure_ascii=False), ensure_ascii=False) for label in self.labels]
        last = len(names)
        rules = ['start: "[]" | "[" first_0 "]"', f"first_{last - 1}: {names[-1]}", f'after_{last}: ""']
        rules += [f"first_{at}: {names[at]} after_{at + 1} | first_{at + 1}" for at in range(last - 1)]
        rules += [f'after_{at}: "," {names[at]} after_{at + 1} | after_{at + 1}' for at in range(1, last)]
        return Grammar("lark", "\n".join(rules))

    def parse(self, text: str) -> list[str] | InvalidOutput:
        try:
            value = json.loads(text)
        except ValueError as error:
            return InvalidOutput(text, f"not JSON: {error}")
        if not isinstance(value, list):
            return InvalidOutput(text, "not a list")
        unknown = next((label for label in value if label not in self.labels), None)
        if unknown is not None:
            return InvalidOutput(text, f"{json.dumps(unknown)} is not one of the labels")
        if len(set(value)) != len(value):
            return InvalidOutput(text, "a label stands twice")
        return [label for label in self.labels if label in value]
