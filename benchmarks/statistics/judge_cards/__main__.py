"""Judge cards of the 33 LLM judges of LLMJudge, and significant differences between them.

    python -m benchmarks.statistics.judge_cards

Needs `llmjudge/human_test_qrels.txt` and `llmjudge/judges/*.txt` (github llm4eval/LLMJudge and LLMJudge-benchmark).
Takes some minutes on 2 cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.common import real_data, save_figures
from searchlora.eval.judge.card import JudgeCard
from searchlora.eval.judge.cards_from_files import JudgeCards, judge_cards
from searchlora.eval.significance import correct

SHOWN = ("kappa", "kappa_binary", "kappa_quadratic", "alpha", "mae", "bias", "invalid")


def main() -> None:
    folder = real_data() / "llmjudge"
    judges = {path.stem: path for path in sorted((folder / "judges").glob("*.txt"))}
    _save(judge_cards(folder / "human_test_qrels.txt", judges))


def _save(found: JudgeCards) -> None:
    comparison = found.comparison
    assert comparison is not None
    cards = sorted(found.cards, key=lambda card: -card.figures["kappa"].value)
    by_rate = correct([difference.p for difference in comparison.differences], "bh")
    differences = [
        {
            **{key: value for key, value in asdict(difference).items() if key not in ("n", "queries")},
            "p_false_discovery": p,
        }
        for difference, p in zip(comparison.differences, by_rate, strict=True)
    ]
    best = [difference for difference in differences if difference["a"] == cards[0].judge]
    more = {
        "caption": _caption(cards, comparison.correction, differences),
        "queries": cards[0].queries,
        "invalid": {card.judge: dict(card.invalid) for card in cards if card.invalid},
        "confusion": {card.judge: card.confusion for card in cards},
        "all_comparisons": {
            "correction": comparison.correction,
            "swaps": comparison.swaps,
            "pairs": len(differences),
            "differ_at_0.05": _apart(differences, "p_corrected"),
            "differ_at_0.05_by_false_discovery_rate": _apart(differences, "p_false_discovery"),
        },
    }
    rows = [row for card in cards for row in _rows(card)]
    save_figures(
        "judge_cards", rows, sorted(best, key=lambda row: row["difference"]), more, module="statistics.judge_cards"
    )


def _caption(cards: Sequence[JudgeCard], correction: str, differences: Sequence[Mapping[str, Any]]) -> str:
    invalid = ", ".join(f"{card.judge} {sum(card.invalid.values())}" for card in cards if card.invalid)
    return (
        f"pairs of {cards[0].queries} queries, relevant from grade {cards[0].relevant} on; value and 95% interval by"
        f" query; invalid answers ({invalid}) count as the worst grade and are left out of alpha and bias. p:"
        f" swapping labels query by query, corrected ({correction}) over all {len(differences)} pairs of judges, of"
        f" which {_apart(differences, 'p_corrected')} differ at 0.05; {_apart(differences, 'p_false_discovery')} do at"
        " a false discovery rate of 0.05 (Benjamini and Hochberg)"
    )


def _apart(differences: Sequence[Mapping[str, Any]], chance: str) -> int:
    return sum(row[chance] <= 0.05 for row in differences)


def _rows(card: JudgeCard) -> list[dict[str, object]]:
    return [{"system": card.judge, "measure": name, **asdict(card.figures[name])} for name in SHOWN]


if __name__ == "__main__":
    main()
