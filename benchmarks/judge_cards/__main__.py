"""Judge cards of the 33 LLM judges of LLMJudge, against the human grades, and which of the judges differ.

    python -m benchmarks.judge_cards

Needs `llmjudge/human_test_qrels.txt` and `llmjudge/judges/*.txt` (github llm4eval/LLMJudge and LLMJudge-benchmark).
Some minutes on 2 cores.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from benchmarks.common import RESULTS, header, real_data
from searchlora.eval.files import atomic_text
from searchlora.eval.judge.card import JudgeCard
from searchlora.eval.judge.from_files import JudgeCards, judge_cards

SHOWN = ("kappa", "kappa_binary", "kappa_quadratic", "alpha", "mae", "bias", "invalid")


def main() -> None:
    folder = real_data() / "llmjudge"
    judges = {path.stem: path for path in sorted((folder / "judges").glob("*.txt"))}
    found = judge_cards(folder / "human_test_qrels.txt", judges)
    RESULTS.mkdir(exist_ok=True)
    with atomic_text(RESULTS / "judge_cards.json") as out:
        json.dump(_results(found), out, indent=1, ensure_ascii=False)
        out.write("\n")


def _results(found: JudgeCards) -> dict[str, object]:
    comparison = found.comparison
    assert comparison is not None
    cards = sorted(found.cards, key=lambda card: -card.figures["kappa"].value)
    differences = [
        {key: value for key, value in asdict(each).items() if key not in ("n", "queries")}
        for each in comparison.differences
    ]
    best = [each for each in differences if each["a"] == cards[0].judge]
    about = header("judge_cards", "judge_cards")
    return {
        **{key: getattr(about, key) for key in ("benchmark", "command", "date", "machine")},
        "versions": dict(about.versions),
        "caption": f"{cards[0].queries} queries; value and 95% interval by query; p by swapping labels query by query,"
        f" corrected over {len(differences)} pairs of judges",
        "rows": [row for card in cards for row in _rows(card)],
        "comparisons": sorted(best, key=lambda each: each["difference"]),
        "queries": cards[0].queries,
        "invalid": {card.judge: dict(card.invalid) for card in cards if card.invalid},
        "confusion": {card.judge: card.confusion for card in cards},
        "all_comparisons": {
            "correction": comparison.correction,
            "swaps": comparison.swaps,
            "pairs": len(differences),
            "differ_at_0.05": sum(each["p_corrected"] <= 0.05 for each in differences),
            "differences": differences,
        },
    }


def _rows(card: JudgeCard) -> list[dict[str, object]]:
    return [{"system": card.judge, "measure": name, **asdict(card.figures[name])} for name in SHOWN]


if __name__ == "__main__":
    main()
