"""Export of a grading session: merged qrels, qrels of each rater, and their agreement as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from searchlora.eval.formatting import figure, markdown_table, to_plain
from searchlora.eval.judge.rater_agreement import RatingPair, RatingsAgreement, ratings_agreement
from searchlora.eval.judgments.card import JudgmentsCard, write_judgments
from searchlora.eval.judgments.ratings import Rating, by_rater, merged
from searchlora.eval.resampling import Estimate
from searchlora.eval.trec import write_qrels
from searchlora.files import atomic_text


def write_ratings(
    ratings: Sequence[Rating],
    folder: str | Path,
    *,
    created: str,
    made_from: Mapping[str, str],
    rule: str = "majority",
    resamples: int = 10_000,
    seed: int = 0,
) -> RatingsAgreement:
    """Write `qrels.txt` with its card, `qrels.RATER.txt` for each rater, `agreement.json` and `agreement.md`.

    Args:
        created: Time in ISO 8601, for the card.
        made_from: Name of each input file -> its sha256, for the card.
        rule: How several grades of a pair are merged, see `merged`.
    """
    folder = Path(folder)
    agreement = ratings_agreement(ratings, resamples=resamples, seed=seed)
    qrels, qrels_by_rater = merged(ratings, rule), by_rater(ratings)
    counts = {"human": sum(map(len, qrels.values()))}
    card = JudgmentsCard("human", created, counts=counts, rule=rule, made_from=made_from)
    write_judgments(folder / "qrels.txt", qrels, card)
    for rater, grades in qrels_by_rater.items():
        write_qrels(rater_file(folder, rater), grades)
    for name, text in agreement_files(agreement, rule).items():
        with atomic_text(folder / name) as out:
            out.write(text)
    return agreement


def agreement_files(agreement: RatingsAgreement, rule: str, kept: str = "`qrels.txt`") -> dict[str, str]:
    """`agreement.json` and `agreement.md` -> their text; `kept` is what holds the merged grades."""
    values = {"rule": rule, **to_json(agreement)}
    return {
        "agreement.json": json.dumps(to_plain(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "agreement.md": to_markdown(agreement, rule, kept),
    }


def to_json(agreement: RatingsAgreement) -> dict[str, Any]:
    """The agreement as plain values; unknown numbers are None, never NaN."""
    return {
        **to_plain(asdict(agreement)),
        "disputed": [{**to_plain(asdict(pair)), "spread": pair.spread} for pair in agreement.disputed],
    }


def to_markdown(agreement: RatingsAgreement, rule: str, kept: str = "`qrels.txt`") -> str:
    """The agreement as a Markdown page; `kept` is what holds the merged grades."""
    parts = [
        "# Agreement of the raters",
        f"{_count(agreement.pairs, 'pair')} graded, {agreement.shared} of them by two or more raters. "
        f"{kept} holds one grade per pair by the rule *{rule}*, without the"
        f' {_count(len(agreement.undecided), "pair")} that all raters rated "cannot tell".',
        _alpha(agreement.alpha),
        markdown_table(
            ["rater", "pairs rated", "cannot tell, share (95%)"],
            [[rater.name, str(rater.rated), _figure(rater.cannot_tell)] for rater in agreement.raters],
        ),
    ]
    if agreement.rater_pairs:
        head = ["raters", "kappa (95%)", "weighted kappa (95%)", "pairs", "topics"]
        parts += ["## Pairs of raters", markdown_table(head, [_rater_pair(pair) for pair in agreement.rater_pairs])]
        parts += [_confusion(pair, agreement.scale) for pair in agreement.rater_pairs]
    if agreement.disputed:
        rows = [
            [pair.topic, pair.document, ", ".join(f"{rater} {grade}" for rater, grade in sorted(pair.grades.items()))]
            for pair in agreement.disputed
        ]
        listed = (
            f"The {len(rows)} widest of {agreement.disputes}." if agreement.disputes > len(rows) else "All of them."
        )
        parts += ["## Disagreements", listed, markdown_table(["topic", "document", "grades"], rows, words=3)]
    parts.append('Intervals resample topics. Weighted: quadratic weights. "Cannot tell" is no grade and in no kappa.')
    return "\n\n".join(parts) + "\n"


def rater_file(folder: Path, rater: str) -> Path:
    """The file with one rater's grades, for `judge-card --rater NAME=FILE`."""
    return folder / f"qrels.{rater}.txt"


def _alpha(alpha: Estimate | None) -> str:
    if alpha is None:
        return "No pair has two grades, so there is no agreement to report."
    sample = f"{_count(alpha.n, 'pair')} of {_count(alpha.queries, 'topic')}"
    return f"Krippendorff's alpha (ordinal): **{_figure(alpha)}**, over {sample}."


def _rater_pair(pair: RatingPair) -> list[str]:
    counts = [str(pair.kappa.n), str(pair.kappa.queries)]
    return [f"{pair.a}, {pair.b}", _figure(pair.kappa), _figure(pair.weighted), *counts]


def _confusion(pair: RatingPair, scale: Sequence[int]) -> str:
    head = [f"{pair.a} \\ {pair.b}", *map(str, scale)]
    rows = [[str(grade), *map(str, counts)] for grade, counts in zip(scale, pair.confusion, strict=True)]
    return markdown_table(head, rows)


def _figure(value: Estimate) -> str:
    return figure(value.value, value.low, value.high)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
