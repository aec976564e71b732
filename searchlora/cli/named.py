"""Options that are written NAME=FILE, or as a scale of grades."""

from __future__ import annotations

NAMED = "NAME=FILE"


def split(text: str) -> tuple[str, str]:
    """Name and file of `NAME=FILE`. Raises `UsageError`."""
    from searchlora.errors import UsageError

    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise UsageError(f"'{text}' is not {NAMED}", fix="For example --judge umbrela=umbrela.qrels.")
    return name, file


def named(texts: list[str], what: str) -> dict[str, str]:
    """Name -> file of several, whose names must differ. Raises `UsageError`."""
    from searchlora.errors import UsageError

    pairs = [split(text) for text in texts]
    named = dict(pairs)
    if len(named) < len(pairs):
        raise UsageError(f"two {what} have one name", where=", ".join(name for name, _ in pairs))
    return named


def grades(text: str) -> tuple[int, ...]:
    """The grades of `0,1,2,3`. Raises `UsageError`."""
    from searchlora.errors import UsageError

    try:
        return tuple(int(grade) for grade in text.split(","))
    except ValueError:
        raise UsageError(
            f"the scale '{text}' is no list of whole numbers", fix="For example --scale 0,1,2,3."
        ) from None
