"""The ratings of people as files: merged qrels, qrels of each rater, and their agreement in JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from searchlora.errors import UsageError
from searchlora.eval.files import atomic_text
from searchlora.eval.judgments.card import JudgmentsCard, write_judgments
from searchlora.eval.judgments.rater_agreement import Agreement, Two, agreement
from searchlora.eval.judgments.ratings import Rating, by_rater, check_rater, merged
from searchlora.eval.plain_json import plain, write_json
from searchlora.eval.printed import figure, markdown_table
from searchlora.eval.resampling import Figure
from searchlora.eval.trec import write_qrels


def write_ratings(
    ratings: Sequence[Rating],
    folder: str | Path,
    *,
    created: str,
    made_from: Mapping[str, str],
    rule: str = "majority",
    resamples: int = 10_000,
    seed: int = 0,
) -> Agreement:
    """Write `qrels.txt` with its card, a `qrels.RATER.txt` for each rater, `agreement.json` and `agreement.md`.

    Qrels that an earlier call wrote here, of raters who have no grade any more, are taken away.

    Args:
        created: When, ISO 8601, for the card.
        made_from: Name of each file that the ratings are from -> its sha256, for the card.
        rule: How several grades of a pair become one, see `merged`.

    Raises:
        UsageError: for another rule, or when nobody gave a grade.
        DataError: when the folder cannot be written to.
    """
    folder = Path(folder)
    found = agreement(ratings, resamples=resamples, seed=seed)
    qrels, own = merged(ratings, rule), by_rater(ratings)
    counts = {"human": sum(map(len, qrels.values()))}
    card = JudgmentsCard("human", created, counts=counts, rule=rule, made_from=made_from)
    gone = [rater for rater in _raters_before(folder) if rater not in own]
    write_judgments(folder / "qrels.txt", qrels, card)
    for rater, grades in own.items():
        write_qrels(_of_rater(folder, rater), grades)
    for rater in gone:
        _of_rater(folder, rater).unlink(missing_ok=True)
    write_json(folder / "agreement.json", {"rule": rule, **to_json(found)})
    with atomic_text(folder / "agreement.md") as out:
        out.write(to_markdown(found, rule))
    return found


def _of_rater(folder: Path, rater: str) -> Path:
    return folder / f"qrels.{rater}.txt"


def _raters_before(folder: Path) -> list[str]:
    """The raters of the agreement that lies there; none where it is not one."""
    try:
        rows = json.loads((folder / "agreement.json").read_text(encoding="utf-8"))["raters"]
        return [check_rater(row["name"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, UsageError):
        return []


def to_json(found: Agreement) -> dict[str, Any]:
    """The agreement as plain values; what is unknown is None, never NaN."""
    return {
        **plain(asdict(found)),
        "disputed": [{**plain(asdict(pair)), "spread": pair.spread} for pair in found.disputed],
    }


def to_markdown(found: Agreement, rule: str) -> str:
    """The agreement for people."""
    parts = [
        "# Agreement of the raters",
        f"{_count(found.pairs, 'pair')} graded, {found.shared} of them by two or more raters. "
        f"`qrels.txt` holds one grade per pair by the rule *{rule}*; {_count(len(found.undecided), 'pair')} on which "
        "nobody could tell are not in it.",
        _alpha(found.alpha),
        markdown_table(
            ["rater", "pairs rated", "cannot tell, share (95%)"],
            [[rater.name, str(rater.rated), _figure(rater.cannot_tell)] for rater in found.raters],
        ),
    ]
    if found.twos:
        head = ["raters", "kappa (95%)", "weighted kappa (95%)", "pairs", "topics"]
        parts += ["## Two by two", markdown_table(head, [_two(two) for two in found.twos])]
        parts += [_confusion(two, found.scale) for two in found.twos]
    if found.disputed:
        rows = [
            [pair.topic, pair.document, ", ".join(f"{rater} {grade}" for rater, grade in sorted(pair.grades.items()))]
            for pair in found.disputed
        ]
        shown = f"The {len(rows)} widest of {found.disputes}." if found.disputes > len(rows) else "All of them."
        parts += ["## Where they differ", shown, markdown_table(["topic", "document", "grades"], rows, words=3)]
    parts.append('Intervals resample topics. Weighted: quadratic weights. "Cannot tell" is no grade and in no kappa.')
    return "\n\n".join(parts) + "\n"


def _alpha(alpha: Figure | None) -> str:
    if alpha is None:
        return "No pair has two grades, so nothing can be said of agreement."
    over = f"{_count(alpha.n, 'pair')} of {_count(alpha.queries, 'topic')}"
    return f"Krippendorff's alpha (ordinal): **{_figure(alpha)}**, over {over}."


def _two(two: Two) -> list[str]:
    return [f"{two.a}, {two.b}", _figure(two.kappa), _figure(two.weighted), str(two.kappa.n), str(two.kappa.queries)]


def _confusion(two: Two, scale: Sequence[int]) -> str:
    head = [f"{two.a} \\ {two.b}", *map(str, scale)]
    rows = [[str(grade), *map(str, counts)] for grade, counts in zip(scale, two.confusion, strict=True)]
    return markdown_table(head, rows)


def _figure(found: Figure) -> str:
    return figure(found.value, found.low, found.high)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
