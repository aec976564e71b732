"""The reason of a grade: one short sentence that stands below it, where the settings ask for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchlora.errors import UsageError
from searchlora.outputs import Graded, InvalidOutput
from searchlora.records import Options, Record

OPTIONS: Mapping[str, str] = {
    "reason": "yes or no: whether the model learns to say in one sentence why, from the field 'reason' (default: no)"
}

#: What a recipe's `max_new_tokens` is with reasons: of SmolLM2's tokens, 300 characters of English take about 70.
TOKENS = 80

_GRADE_ONLY = "Reply with the grade only."
_AND_REASON = "Write the grade, and on the next line one short sentence that says why."


def settings_of(options: Options) -> dict[str, Any]:
    """The setting `reason`; without reasons it is left out, so that settings are what they were before there were any.

    Raises:
        UsageError: for another value than yes and no.
    """
    wanted = options.get("reason", "no")
    if wanted not in ("yes", "no"):
        raise UsageError(f"'{wanted}' is neither yes nor no", where="--option reason")
    return {"reason": True} if wanted == "yes" else {}


def asked(template: str) -> str:
    """A template that asks for the grade only, asking for the reason too."""
    return template.replace(_GRADE_ONLY, _AND_REASON)


def written(grade: str, record: Record) -> str:
    """A grade with the record's reason below it, where it has one, its white space made one blank."""
    return f"{grade}\n{_line(record)}" if "reason" in record else grade


def problem(record: Record) -> str | None:
    """Why a record cannot be trained on, if it cannot. One of the source's own test split needs no reason."""
    if "reason" not in record:
        return None if record.get("split") == "test" else "field 'reason' is missing"
    parsed = Graded({"0": 0}, reasoned=True).parse(f"0\n{_line(record)}")
    return f"field 'reason': {parsed.reason}" if isinstance(parsed, InvalidOutput) else None


def _line(record: Record) -> str:
    return " ".join(str(record["reason"]).split())
