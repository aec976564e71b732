"""Judge cards from files: read qrels, check for circularity, compare, and write JSON, Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from searchlora.errors import DataError, UsageError
from searchlora.eval.calibration import CurvePoint, grade_curve
from searchlora.eval.formats import read_qrels, read_topics
from searchlora.eval.formatting import to_plain, write_json
from searchlora.eval.judge.card import JudgeCard, judge_card, to_json
from searchlora.eval.judge.comparison import JudgeComparison, compare_judges
from searchlora.eval.judge.labels import Labels, check_human, check_judge, read_labels
from searchlora.eval.judge.page import cards_markdown, judge_name, write_judge_card
from searchlora.eval.judge.scale import relevant_of, scale_of
from searchlora.eval.judgments.card import invalid_path, read_card
from searchlora.eval.judgments.lineage import RunLineage, circular, doubts
from searchlora.eval.significance import correct
from searchlora.eval.trec import Qrels
from searchlora.files import atomic_text, file_sha256, json_object, read_bytes

Files = Mapping[str, str | Path]

#: The system of the lineage check: a judge that was trained on the topics is circular whatever is compared.
_AGREEMENT = {"the agreement with human grades": RunLineage(())}


@dataclass(frozen=True)
class JudgeCards:
    """Cards of judges that are compared with the same human grades.

    Attributes:
        cards: In the order of the judges passed in.
        comparison: Paired comparison of every two judges; None for one judge.
        curves: Judge -> its calibration curve: the mean human grade of each of its grades.
        inputs: Path of each input file -> its sha256.
    """

    cards: tuple[JudgeCard, ...]
    comparison: JudgeComparison | None
    curves: Mapping[str, Sequence[CurvePoint]]
    inputs: Mapping[str, str]


def judge_cards(
    human: str | Path,
    judges: Files,
    *,
    scale: Sequence[int] | None = None,
    relevant: int | None = None,
    raters: Files | None = None,
    topics: str | Path | None = None,
    allow_circular: bool = False,
    correction: str = "holm",
    resamples: int = 10_000,
    seed: int = 0,
) -> JudgeCards:
    """Make a card of each judge and, for several judges, their paired comparison.

    Args:
        human: Human qrels.
        judges: name -> qrels with invalid answers (`read_labels`).
        scale: The grades of the scale; None: those that the cards name, else 0 to 3.
        relevant: The lowest grade that counts as relevant; None: that of the cards, else 2.
        raters: name -> qrels of each human rater.
        topics: The topics with their queries, to check whether a judge was trained on them.
        allow_circular: Make the card of a judge that was trained on the topics, marked as circular.
        correction: Of the p-values of the comparison: `holm` or `bh`; checked for one judge, too.

    Raises:
        UsageError: for scales that differ, a circular judge without `allow_circular`, and as `judge_card` and
            `compare_judges`.
        DataError: for a file that cannot be read, human qrels whose card names another source, or a judge's whose card
            names human grades.
    """
    correct((), correction)
    raters = raters or {}
    for path in (human, *raters.values()):
        check_human(path)
    for path in judges.values():
        check_judge(path)
    graded_files = [*judges.values(), human, *raters.values()]
    known_scale = scale_of(graded_files, scale)
    relevant = relevant_of(graded_files, known_scale, relevant)
    human_qrels = read_qrels(human)
    labels = {name: read_labels(path) for name, path in judges.items()}
    queries = {topic: str(fields["query"]) for topic, fields in read_topics(topics).items()} if topics else None
    rater_qrels = {name: read_qrels(path) for name, path in raters.items()}
    cards = []
    for name, path in judges.items():
        reasons, notes = _check_lineage(name, path, queries, human_qrels, allow_circular)
        known_scale.check_assumed(name, labels[name])
        cards.append(
            judge_card(
                human_qrels,
                labels[name],
                name=name,
                scale=known_scale.grades,
                relevant=relevant,
                raters=rater_qrels or None,
                circular=reasons,
                notes=[*notes, *([known_scale.note] if known_scale.note else [])],
                resamples=resamples,
                seed=seed,
            )
        )
    comparison = None
    if len(labels) > 1:
        comparison = compare_judges(
            human_qrels,
            labels,
            scale=known_scale.grades,
            relevant=relevant,
            correction=correction,
            resamples=resamples,
            seed=seed,
        )
    invalid_files = [path for path in map(invalid_path, judges.values()) if path.exists()]
    files = [human, *judges.values(), *invalid_files, *raters.values(), *([topics] if topics else [])]
    curves = {name: _curve(human_qrels, judge, known_scale.grades, seed) for name, judge in labels.items()}
    return JudgeCards(tuple(cards), comparison, curves, {str(path): file_sha256(path) for path in files})


def write(cards: JudgeCards, folder: str | Path) -> tuple[Path, Path, Path]:
    """Write `judge_card.json`, `.md` and `.html` into a folder; returns their paths. Raises `DataError`."""
    json_path, markdown_path, html_path = (Path(folder) / f"judge_card.{kind}" for kind in ("json", "md", "html"))
    write_json(json_path, cards_json(cards))
    with atomic_text(markdown_path) as out:
        out.write(cards_markdown(cards.cards, cards.comparison))
    write_judge_card(
        html_path,
        "Judge cards" if len(cards.cards) > 1 else f"Judge card of {judge_name(cards.cards[0])}",
        cards.cards,
        {path: f"sha256 {digest}" for path, digest in cards.inputs.items()},
        comparison=cards.comparison,
        curves=cards.curves,
    )
    return json_path, markdown_path, html_path


def cards_json(cards: JudgeCards) -> dict[str, Any]:
    """Content of `judge_card.json`: `cards` (`card.to_json`), `comparison`, `calibration` (the curves), `inputs`."""
    return {
        "cards": [to_json(card) for card in cards.cards],
        "comparison": asdict(cards.comparison) if cards.comparison else None,
        "calibration": {name: [to_plain(asdict(point)) for point in points] for name, points in cards.curves.items()},
        "inputs": dict(cards.inputs),
    }


class KappaChange(NamedTuple):
    """Kappa of a judge since an earlier card: the difference of two independent samples, with its 95% interval."""

    judge: str
    difference: float
    low: float
    high: float


def kappa_changes(cards: JudgeCards, earlier: str | Path) -> list[KappaChange]:
    """How the kappa of each judge differs from that in an earlier `judge_card.json`.

    The interval combines those of the two kappas (MOVER: Zou and Donner 2008).

    Raises:
        DataError: if the file is not a judge card, or has none of the judges.
    """
    file = json_object(read_bytes(Path(earlier)).decode("utf-8", "replace"), str(earlier))
    try:
        before = {card["judge"]: (tuple(card["scale"]), card["figures"]["kappa"]) for card in file["cards"]}
        changes = []
        for card in cards.cards:
            if card.judge in before and before[card.judge][0] == card.scale:
                then = before[card.judge][1]
                now = card.figures["kappa"]
                value, low, high = (math.nan if then[end] is None else then[end] for end in ("value", "low", "high"))
                difference = now.value - value
                below, above = (
                    math.hypot(now.value - now.low, high - value),
                    math.hypot(now.high - now.value, value - low),
                )
                changes.append(KappaChange(card.judge, difference, difference - below, difference + above))
    except (KeyError, TypeError):
        raise DataError("is not a judge card", where=str(earlier), fix="Give a judge_card.json.") from None
    if not changes:
        raise DataError("has no card of these judges on this scale", where=str(earlier))
    return changes


def _curve(human: Qrels, labels: Labels, scale: Sequence[int], seed: int) -> Sequence[CurvePoint]:
    """Calibration curve of the valid answers."""
    valid = {
        topic: {document: float(grade) for document, grade in row.items() if grade is not None and grade in scale}
        for topic, row in labels.items()
    }
    return grade_curve(human, valid, seed=seed)


def _check_lineage(
    name: str, path: str | Path, queries: Mapping[str, str] | None, human: Mapping[str, object], allow: bool
) -> tuple[list[str], list[str]]:
    """Reasons why the card of a judge is circular, and notes on what is unknown."""
    card = read_card(path)
    judged_queries = {topic: query for topic, query in (queries or {}).items() if topic in human}
    reasons = list(circular(card, _AGREEMENT, judged_queries).values())
    if reasons and not allow:
        raise UsageError(
            f"the card would be circular: {reasons[0]}",
            where=f"judge {name}",
            fix="Compare the judge on other topics, or pass --allow-circular.",
        )
    notes = list(doubts(card, _AGREEMENT))
    if card is not None and card.judge_queries and queries is None:
        notes.append("It was not checked whether the judge was trained on these topics: no topics file was given.")
    return reasons, notes
