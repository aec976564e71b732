"""Lines of a Markdown guideline that name the grades of its scale: `* 3: Perfect. Answers the query.`"""

from __future__ import annotations

import re
from typing import NamedTuple

# The name ends where the explanation begins.
_GRADE = re.compile(r"\s*[*+-]\s+\**([0-9]{1,9})\**\s*[:=]\**\s*([^:.(–—]+)[:.(–—]*\s*(.*)")


class GradeLine(NamedTuple):
    """A grade that a line names."""

    grade: int
    name: str
    meaning: str


def grade_line(line: str) -> GradeLine | None:
    """The grade that a line names; None for another line.

    Examples:
        >>> grade_line("- **2**: Highly relevant. The passage answers most of it.")
        GradeLine(grade=2, name='Highly relevant', meaning='The passage answers most of it.')
    """
    match = _GRADE.match(line)
    return GradeLine(int(match[1]), match[2].strip(" *"), match[3].strip(" *)")) if match else None
