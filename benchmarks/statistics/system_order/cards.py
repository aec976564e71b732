"""How far the judges agree with people pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.statistics.system_order.judges import Judge
from searchlora.eval.judge.card import JudgeCard, judge_card, to_json
from searchlora.eval.judge.comparison import compare_judges
from searchlora.eval.trec import Qrels

KAPPA = "kappa_binary"


def kappa_row(human: Qrels, judge: Judge) -> dict[str, Any]:
    """Kappa of relevant or not, over the pairs that the judge graded."""
    figure = _relevance_card(human, judge).figures["kappa"]
    return {"system": "", "measure": KAPPA, **asdict(figure)}


def card_rows(human: Qrels, judges: Sequence[Judge]) -> list[dict[str, Any]]:
    """Of each judge, over relevant or not: kappa, precision and recall of relevant, bias."""
    rows = []
    for judge in judges:
        card = _relevance_card(human, judge)
        relevant = card.grades[1]
        figures = {"kappa": card.figures["kappa"], "precision": relevant.precision, "recall": relevant.recall}
        figures["bias"] = card.figures["bias"]
        rows += [{"system": judge.name, "measure": measure, **asdict(figure)} for measure, figure in figures.items()]
    return rows


def differences(human: Qrels, judges: Sequence[Judge]) -> list[dict[str, Any]]:
    """Every two judges by kappa of relevant or not."""
    labels = {judge.name: _relevant(judge.grades) for judge in judges}
    found = compare_judges(_relevant(human), labels, scale=(0, 1), relevant=1)
    return [asdict(each) for each in found.differences]


def graded_cards(qrels: Qrels, human: Qrels, judges: Sequence[Judge]) -> dict[str, dict[str, Any]]:
    """The whole figures of each judge that grades as people do, over all pooled pairs (`pool`), and over those alone
    that people gave a grade (`graded by people`), none of which is 0."""
    made = {}
    for judge in judges:
        if judge.scale != (0, 1):
            cards = {
                of: judge_card(grades, judge.grades, name=judge.name, scale=judge.scale, relevant=1)
                for of, grades in (("pool", human), ("graded by people", qrels))
            }
            made[judge.name] = {of: _short(card) for of, card in cards.items()}
    return made


def _short(card: JudgeCard) -> dict[str, Any]:
    whole = to_json(card)
    return {key: whole[key] for key in ("n", "queries", "figures", "confusion", "missing", "extra", "notes")}


def _relevance_card(human: Qrels, judge: Judge) -> JudgeCard:
    return judge_card(_relevant(human), _relevant(judge.grades), scale=(0, 1), relevant=1)


def _relevant(grades: Qrels) -> dict[str, dict[str, int]]:
    return {topic: {document: int(grade > 0) for document, grade in row.items()} for topic, row in grades.items()}
