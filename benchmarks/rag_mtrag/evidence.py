"""Accuracy of the evidence measure on pairs whose support is known by construction.

    python -m benchmarks.rag_mtrag.evidence

Human labels of support are not available. From a random sample of questions of the SQuAD development set:

* claim: the question without its question words, followed by the answer. Its own paragraph supports it. Not supporting
  are the paragraph of the same article with the largest word overlap and without the answer, and its own paragraph when
  the answer is replaced by one of another paragraph of the article.
* sentence: a sentence of the paragraph, word for word. Its own paragraph supports it, the nearest other one does not.

From MT-RAG, sentences of the reference answers: a passage of the same row should support them (people wrote or
corrected them from these passages, so some are supported by reasoning or not at all). The passages of the nearest row
of another group do not. Thresholds are chosen on half of the SQuAD articles by Youden's J over claims; figures are over
the other half and over MT-RAG. "Nearest" is defined by the evidence measure itself, which makes the test harder. Takes
some minutes; no model is loaded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import roc_auc_score

from benchmarks.common import header, real_data, save
from benchmarks.rag_mtrag.data import SEED, MtRag
from benchmarks.readers import squad
from searchlora.cli.terminal import print_comparison
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.grade_measures import KAPPA, grade_measures
from searchlora.eval.tables import to_json
from searchlora.eval.text_identity import fingerprint, normalised
from searchlora.records import SourceRow
from searchlora.tasks.rag_answer.citations import SUPPORTED, reference_sentences, support, titled

NAME = "rag_evidence"
QUESTIONS = 1_000
OURS = "content words and numbers"

_ASKING = frozenset(
    ["who", "whom", "whose", "what", "which", "when", "where", "why", "how", "did", "do", "does", "many"]
)


Rule = Callable[[str, str], float]

_ROUGE = RougeScorer(["rougeL", "rouge2"], use_stemmer=True)
RULES: Mapping[str, Rule] = {
    OURS: lambda sentence, text: support(sentence, text) or 0.0,
    "ROUGE-L precision": lambda sentence, text: float(_ROUGE.score(text, sentence)["rougeL"].precision),
    "ROUGE-2 precision": lambda sentence, text: float(_ROUGE.score(text, sentence)["rouge2"].precision),
}


@dataclass(frozen=True)
class Case:
    """A sentence, passages, and whether one of them supports it."""

    id: str
    kind: str
    group: str
    sentence: str
    passages: tuple[str, ...]
    supported: bool


def main() -> None:
    data = real_data()
    cases = [*squad_cases(data / "squad" / "squaddev_v1.1.json.gz"), *mtrag_cases(MtRag.read(data))]
    fitting = [case for case in cases if case.kind.startswith("claim") and _fits(case)]
    evaluated = [case for case in cases if not _fits(case)]
    scores = {name: _scores([*fitting, *evaluated], rule) for name, rule in RULES.items()}
    fitted = {name: youden(fitting, of_rule) for name, of_rule in scores.items()}
    used = {**fitted, OURS: SUPPORTED}
    found = {name: _evaluation(evaluated, of_rule, used[name]) for name, of_rule in scores.items()}
    comparison = compare(found, candidate=OURS)
    rows = [*to_json(comparison, header(NAME, "rag_mtrag.evidence"))["rows"], *_areas(evaluated, scores)]
    about = {
        "caption": "accuracy over pairs, Cohen's kappa, and the areas under the ROC curve for each kind of pair alone; "
        "95% interval by article or group",
        "rows": rows,
        "thresholds": used,
        "fitted": fitted,
        "fitted_on": len(fitting),
    }
    save(NAME, comparison, about, module="rag_mtrag.evidence")
    print_comparison(comparison)


def squad_cases(path: Path, questions: int = QUESTIONS) -> list[Case]:
    """Cases from claims and sentences of SQuAD."""
    rows = [row.data for row in squad.read_squad(path) if isinstance(row, SourceRow) and row.data["answers"]]
    articles: dict[str, dict[str, str]] = {}
    answers: dict[str, list[str]] = {}
    for row in rows:
        articles.setdefault(row["article"], {})[row["paragraph"]] = row["context"]
        answers.setdefault(row["paragraph"], []).append(row["answers"][0]["text"])
    chance = random.Random(SEED)
    cases = []
    for row in chance.sample(rows, questions):
        answer, paragraph = row["answers"][0]["text"], row["context"]
        others = {name: text for name, text in articles[row["article"]].items() if name != row["paragraph"]}
        without = [text for text in others.values() if normalised(answer) not in normalised(text)]
        foreign = [
            answer
            for name in others
            for answer in answers.get(name, ())
            if normalised(answer) not in normalised(paragraph)
        ]
        if not without or not foreign:
            continue
        claim = f"{_asked(row['question'])} {answer}"
        swapped = f"{_asked(row['question'])} {chance.choice(foreign)}"
        sentence = chance.choice(reference_sentences(paragraph) or [paragraph])
        cases += [
            Case(f"{row['id']} own", "claim, own paragraph", row["article"], claim, (paragraph,), True),
            Case(
                f"{row['id']} other", "claim, other paragraph", row["article"], claim, (_near(claim, without),), False
            ),
            Case(f"{row['id']} swapped", "claim, wrong answer", row["article"], swapped, (paragraph,), False),
            Case(f"{row['id']} word", "sentence, own paragraph", row["article"], sentence, (paragraph,), True),
            Case(
                f"{row['id']} word other",
                "sentence, other paragraph",
                row["article"],
                sentence,
                (_near(sentence, list(others.values())),),
                False,
            ),
        ]
    return cases


def mtrag_cases(mtrag: MtRag) -> list[Case]:
    """Cases from sentences of MT-RAG references, with their own passages and those of the nearest other row."""
    answered = [row for row in mtrag.official if row["kind"] == "answerable"]
    texts = {row["id"]: tuple(_gold(row)) for row in answered}
    cases = []
    for row in answered:
        others = [other for other in answered if other["source"] == row["source"] and other["group"] != row["group"]]
        near = max(others, key=lambda other: support(row["question"], " ".join(texts[other["id"]])) or 0.0)
        for number, sentence in enumerate(reference_sentences(row["reference"])):
            name = f"{row['id']} {number}"
            cases += [
                Case(f"{name} own", "MT-RAG, own passages", row["group"], sentence, texts[row["id"]], True),
                Case(f"{name} other", "MT-RAG, other passages", row["group"], sentence, texts[near["id"]], False),
            ]
    return cases


def youden(cases: Sequence[Case], scores: Mapping[str, float]) -> float:
    """The threshold, in steps of 0.05, with the greatest Youden's J (sensitivity plus specificity)."""
    of_cases = np.array([scores[case.id] for case in cases])
    truth = np.array([case.supported for case in cases])
    steps = [round(0.05 * step, 2) for step in range(1, 20)]
    return max(steps, key=lambda at: float((of_cases[truth] >= at).mean() + (of_cases[~truth] < at).mean()))


def auc(scores: NDArray[np.float64], truth: NDArray[np.bool_], clusters: Sequence[str]) -> tuple[float, float, float]:
    """The area under the ROC curve, and its 95% percentile interval over 1,000 resamples of clusters."""
    members = [np.flatnonzero(np.asarray(clusters) == name) for name in sorted(set(clusters))]
    chance = np.random.default_rng(SEED)
    drawn = []
    for _ in range(1_000):
        places = np.concatenate([members[member] for member in chance.integers(len(members), size=len(members))])
        drawn.append(roc_auc_score(truth[places], scores[places]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(roc_auc_score(truth, scores)), float(low), float(high)


def _evaluation(cases: Sequence[Case], scores: Mapping[str, float], threshold: float) -> Evaluation:
    predicted = {case.id: scores[case.id] >= threshold for case in cases}
    return Evaluation(
        headline="accuracy",
        values={"accuracy": {case.id: float(predicted[case.id] == case.supported) for case in cases}},
        aggregates={
            "kappa": grade_measures((0, 1), 1)[KAPPA].aggregate(
                {case.id: int(case.supported) for case in cases},
                {id_: int(value) for id_, value in predicted.items()},
            )
        },
        clusters={case.id: case.group for case in cases},
        slices={"pair": {case.id: case.kind for case in cases}},
        tested=("accuracy",),
    )


def _areas(cases: Sequence[Case], scores: Mapping[str, Mapping[str, float]]) -> list[dict[str, object]]:
    """AUC of each kind of unsupported pair against the supported pairs of the same kind."""
    kinds = {
        "AUC, claims": ("claim, own paragraph", "claim, other paragraph"),
        "AUC, wrong answers": ("claim, own paragraph", "claim, wrong answer"),
        "AUC, sentences": ("sentence, own paragraph", "sentence, other paragraph"),
        "AUC, MT-RAG": ("MT-RAG, own passages", "MT-RAG, other passages"),
    }
    rows: list[dict[str, object]] = []
    for measure, of in kinds.items():
        chosen = [case for case in cases if case.kind in of]
        truth = np.array([case.supported for case in chosen])
        for name, of_rule in scores.items():
            of_chosen = np.array([of_rule[case.id] for case in chosen])
            value, low, high = auc(of_chosen, truth, [case.group for case in chosen])
            rows.append(
                {"system": name, "measure": measure, "value": value, "low": low, "high": high, "n": len(chosen)}
            )
    return rows


def _scores(cases: Sequence[Case], rule: Rule) -> dict[str, float]:
    return {case.id: max(rule(case.sentence, text) for text in case.passages) for case in cases}


def _asked(question: str) -> str:
    return " ".join(word for word in question.rstrip("? ").split() if word.lower() not in _ASKING)


def _near(sentence: str, texts: Sequence[str]) -> str:
    return max(texts, key=lambda text: support(sentence, text) or 0.0)


def _gold(row: Mapping[str, object]) -> list[str]:
    return [titled(passage) for passage in row["passages"] if passage["id"] in row["gold"]]


def _fits(case: Case) -> bool:
    """Whether a case is in the half of the articles on which thresholds are chosen; MT-RAG is not."""
    return not case.kind.startswith("MT-RAG") and fingerprint(f"{SEED} {case.group}") % 2 == 0


if __name__ == "__main__":
    main()
