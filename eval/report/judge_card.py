"""Writing the page of judge cards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from searchlora.eval.calibration import CurvePoint
from searchlora.eval.formatting import interval
from searchlora.eval.judge.card import JudgeCard
from searchlora.eval.judge.comparison import JudgeComparison
from searchlora.eval.report.judge_sections import apart_section, card_sections, judge_name, overview_section
from searchlora.eval.report.page import Alert, write_page
from searchlora.eval.report.words import LEVEL


def write_judge_card(
    path: str | Path,
    title: str,
    cards: Sequence[JudgeCard],
    provenance: Mapping[str, str],
    *,
    comparison: JudgeComparison | None = None,
    curves: Mapping[str, Sequence[CurvePoint]] | None = None,
    introduction: str = "",
) -> Path:
    """Write cards of judges that were held against the same people as one HTML file without any outside part.

    Args:
        cards: One at least; shown by falling kappa over all grades.
        provenance: What they were made from, label -> value, for example a file and its sha256.
        comparison: Of every two judges, by `compare_judges`.
        curves: Judge -> what people said where it gave each grade, by `calibration_curve`.
        introduction: A plain sentence or two shown below the title.

    Raises:
        DataError: when the file cannot be written.
    """
    ranked = sorted(cards, key=_kappa, reverse=True)
    reasons = tuple(f"{judge_name(card)}: {why}" for card in ranked for why in card.circular)
    return write_page(
        path,
        title,
        [
            overview_section(ranked),
            apart_section(ranked, comparison) if comparison is not None else None,
            card_sections(ranked, curves or {}),
        ],
        provenance,
        introduction=introduction,
        alerts=[Alert("Circular: a judge is held against what it had a part in", reasons)] if reasons else [],
        summary=_summary(ranked, comparison),
    )


def _kappa(card: JudgeCard) -> float:
    kappa = card.figures["kappa"].value
    return -math.inf if math.isnan(kappa) else kappa


def _summary(ranked: Sequence[JudgeCard], comparison: JudgeComparison | None) -> list[str]:
    best = ranked[0]
    kappa = best.figures["kappa"]
    if math.isnan(kappa.value):
        return [f"Kappa over all grades does not exist for {judge_name(best)}: chance alone would agree fully."]
    own = f"{judge_name(best)} agrees with people at kappa {kappa.value:.3f} {interval(kappa.low, kappa.high)}"
    over = f"over {kappa.n} pairs of {kappa.queries} queries"
    said = [f"{own} {over}." if len(ranked) == 1 else f"Of {len(ranked)} judges, {own} {over}, the highest."]
    for two in best.people.pairs if best.people else ():
        said.append(
            f"Between people ({two.a}, {two.b}) kappa is {two.kappa.value:.3f} "
            f"{interval(two.kappa.low, two.kappa.high)}, the ceiling."
        )
    if comparison is not None:
        differ = sum(each.p_corrected <= LEVEL for each in comparison.differences)
        rest = len(comparison.differences) - differ
        said.append(
            f"{differ} of {len(comparison.differences)} pairs of judges are shown to differ in "
            f"{comparison.measure} after correction"
            + ("; of the others, neither is known to be the better one." if rest else ".")
        )
    return said
