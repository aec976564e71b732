"""The scale of a judge's grades: that of its card, of the user, or an assumed one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from searchlora.errors import DataError, UsageError
from searchlora.eval.agreement import as_scale, listed
from searchlora.eval.judge.labels import Labels
from searchlora.eval.judgments.card import read_card

#: The scale of files whose cards name none.
ASSUMED = (0, 1, 2, 3)


@dataclass(frozen=True)
class Scale:
    """The grades that people and judges are compared on.

    Attributes:
        grades: Ascending.
        assumed: Whether neither a card nor the user named them.
    """

    grades: tuple[int, ...]
    assumed: bool = False

    @property
    def note(self) -> str:
        """A note for the reader; empty if the scale is known."""
        return f"No card names the scale: the grades {listed(self.grades)} are assumed." if self.assumed else ""

    def check_assumed(self, name: str, labels: Labels) -> None:
        """Raise `DataError` for a judge's grade outside an assumed scale: it would count as an invalid answer."""
        for topic, row in labels.items() if self.assumed else ():
            for document, grade in row.items():
                if grade is not None and grade not in self.grades:
                    raise DataError(
                        f"the grade {grade} is outside the scale {listed(self.grades)}, which is assumed",
                        where=f"judge {name}, topic {topic}, document {document}",
                        fix="Give the grades that the judge can give, as --scale.",
                    )


def scale_of(files: Iterable[str | Path], grades: Sequence[int] | None = None) -> Scale:
    """The scale that the cards of qrels files name, or else `grades`, as the user gives it."""
    named = {str(path): card.scale for path in files if (card := read_card(path)) is not None and card.scale}
    expected = as_scale(grades) if grades is not None else next(iter(named.values()), ASSUMED)
    for path, scale in named.items():
        if scale != expected:
            source = "--scale gives" if grades is not None else f"that of {next(iter(named))} names"
            raise UsageError(
                f"the card names the grades {listed(scale)}, {source} {listed(expected)}",
                where=path,
                fix="Compare judges and people on one scale: grade again with one guideline, or map the grades "
                "to one scale first.",
            )
    return Scale(expected, assumed=grades is None and not named)


def relevant_of(files: Iterable[str | Path], scale: Scale, relevant: int | None = None) -> int:
    """The lowest relevant grade: the user's, else the cards', else 2, or the upper half of a scale without 2."""
    if relevant is not None:
        return relevant
    cards = [card for path in files if (card := read_card(path)) is not None]
    named = sorted({card.relevant for card in cards if card.relevant is not None})
    if len(named) > 1:
        raise UsageError(
            f"the cards count as relevant from grade {' and '.join(map(str, named))}",
            fix="Give the lowest grade that is relevant, as --relevant.",
        )
    grades = scale.grades
    default = 2 if grades[0] < 2 <= grades[-1] else grades[len(grades) // 2]
    return named[0] if named else default
