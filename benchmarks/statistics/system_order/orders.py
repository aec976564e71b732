"""Agreement of judges with people on the order of systems and on pairs, and differences between judges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.statistics.system_order.correlation import Values, drawn_topics, kendall_tau, order_agreement, tau_ap
from benchmarks.statistics.system_order.judges import Judge
from searchlora.eval.agreement import Floats
from searchlora.eval.judge.card import JudgeCard, judge_card, to_json
from searchlora.eval.judge.comparison import compare_judges
from searchlora.eval.measures import retrieval_values
from searchlora.eval.trec import Qrels, Run

#: The measure that orders the systems, and a second one that ignores grades and ranks.
MEASURE, OTHER = "nDCG@10", "P@10"

Row = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """Runs measured with one set of grades: measure -> system -> topic -> value."""

    by: Mapping[str, Values]

    @classmethod
    def of(cls, runs: Mapping[str, Run], qrels: Qrels) -> Measured:
        """Measure runs over every topic of the qrels; an unjudged document is not relevant."""
        found = {name: retrieval_values(run, qrels, [MEASURE, OTHER]) for name, run in runs.items()}
        return cls({measure: {name: values[measure] for name, values in found.items()} for measure in (MEASURE, OTHER)})

    def on(self, systems: Sequence[str]) -> Measured:
        """Restrict to some systems."""
        return Measured({measure: {name: values[name] for name in systems} for measure, values in self.by.items()})


def order_rows(label: str, human: Measured, judge: Measured, *, resamples: int = 10_000) -> list[Row]:
    """tau and tau-ap of all systems and of the better half, and tau by the other measure, with intervals by topic."""
    top = len(human.by[MEASURE]) // 2
    found = order_agreement(human.by[MEASURE], judge.by[MEASURE], measure=MEASURE, top=top, resamples=resamples)
    other = order_agreement(human.by[OTHER], judge.by[OTHER], measure=OTHER, resamples=resamples)
    figures = {
        "tau": found.tau,
        "tau-ap": found.tau_ap,
        "tau, top half": found.tau_top,
        "tau-ap, top half": found.tau_ap_top,
        f"tau by {OTHER}": other.tau,
    }
    return [{"system": label, "measure": name, **vars(figure)} for name, figure in figures.items()]


def spread_rows(label: str, pairs: Iterator[tuple[Measured, Measured]]) -> list[Row]:
    """The figures of `order_rows` averaged over many pairs, with the middle 95% as the interval."""
    drawn: dict[str, list[float]] = {}
    systems = topics = 0
    for truth, other in pairs:
        for name, value in _figures(truth, other).items():
            drawn.setdefault(name, []).append(value)
        systems = len(truth.by[MEASURE])
        topics = len(next(iter(truth.by[MEASURE].values())))
    return [
        {
            "system": label,
            "measure": name,
            "value": float(np.mean(values)),
            "low": float(np.quantile(values, 0.025)),
            "high": float(np.quantile(values, 0.975)),
            "n": systems,
            "queries": topics,
            "draws": len(values),
        }
        for name, values in drawn.items()
    ]


def halves(human: Measured, *, times: int = 1000, seed: int = 0) -> Iterator[tuple[Measured, Measured]]:
    """Human values of two random halves of the topics: the agreement of one set of topics with another."""
    rng = np.random.default_rng(seed)
    topics = list(next(iter(human.by[MEASURE].values())))
    for _ in range(times):
        order = [topics[at] for at in rng.permutation(len(topics))]
        middle = len(order) // 2
        yield _of_topics(human, order[:middle]), _of_topics(human, order[middle:])


def tau_difference(
    human: Measured, a: Measured, b: Measured, *, resamples: int = 5000, seed: int = 0
) -> tuple[float, float, float, float]:
    """tau of judge a less tau of judge b: difference, its 95% interval by topic, and a two-sided p.

    Both judges are resampled by the same topics. p is twice the smaller share of resamples that are not on the side of
    the difference (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 15), with the +1 of Phipson
    and Smyth. Swapping the judges topic by topic, as for means, is not informative: of two mixtures of a
    good and a bad judge, the one with a few more topics of the good judge has its whole order.
    """
    truth, first, second = (_table(values.by[MEASURE]) for values in (human, a, b))
    observed = _tau(truth, first) - _tau(truth, second)
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [
            _tau(truth, first, times) - _tau(truth, second, times)
            for block in drawn_topics(len(truth), resamples, len(truth), rng)
            for times in block
        ]
    )
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return observed, float(low), float(high), min(1.0, float(2 * (beyond + 1) / (resamples + 1)))


def _figures(truth: Measured, other: Measured) -> dict[str, float]:
    a, b = _means(truth.by[MEASURE]), _means(other.by[MEASURE])
    best = sorted(a, key=lambda name: (-a[name], name))[: len(a) // 2]
    top_a, top_b = ({name: side[name] for name in best} for side in (a, b))
    return {
        "tau": kendall_tau(a, b),
        "tau-ap": tau_ap(a, b),
        "tau, top half": kendall_tau(top_a, top_b),
        "tau-ap, top half": tau_ap(top_a, top_b),
        f"tau by {OTHER}": kendall_tau(_means(truth.by[OTHER]), _means(other.by[OTHER])),
    }


def _means(values: Values) -> dict[str, float]:
    return _steady((name, sum(row.values()) / len(row)) for name, row in values.items())


def _of_topics(measured: Measured, topics: Sequence[str]) -> Measured:
    by = {
        measure: {name: {topic: row[topic] for topic in topics} for name, row in values.items()}
        for measure, values in measured.by.items()
    }
    return Measured(by)


def _table(values: Values) -> Floats:
    """Values `(topics, systems)` in a fixed order."""
    topics = sorted(next(iter(values.values())))
    return np.array([[values[name][topic] for name in sorted(values)] for topic in topics])


def _tau(truth: Floats, judged: Floats, times: Floats | None = None) -> float:
    """tau of the means of values `(topics, systems)`, with topics weighted by `times`."""
    weights = np.ones(len(truth)) if times is None else times
    a, b = (_steady((str(at), mean) for at, mean in enumerate(weights @ side / len(side))) for side in (truth, judged))
    return kendall_tau(a, b)


def _steady(means: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Round away the last digits, which depend on the order of summation, so that equal sums are ties."""
    return {name: round(float(value), 12) for name, value in means}


KAPPA = "kappa_binary"


def kappa_row(human: Qrels, judge: Judge) -> dict[str, Any]:
    """Binary kappa over the pairs that the judge graded."""
    figure = _relevance_card(human, judge).figures["kappa"]
    return {"system": "", "measure": KAPPA, **asdict(figure)}


def card_rows(human: Qrels, judges: Sequence[Judge]) -> list[dict[str, Any]]:
    """Binary kappa, precision and recall of relevant, and bias of each judge."""
    rows = []
    for judge in judges:
        card = _relevance_card(human, judge)
        relevant = card.grades[1]
        figures = {"kappa": card.figures["kappa"], "precision": relevant.precision, "recall": relevant.recall}
        figures["bias"] = card.figures["bias"]
        rows += [{"system": judge.name, "measure": measure, **asdict(figure)} for measure, figure in figures.items()]
    return rows


def differences(human: Qrels, judges: Sequence[Judge]) -> list[dict[str, Any]]:
    """Compare every two judges by binary kappa."""
    labels = {judge.name: _relevant(judge.grades) for judge in judges}
    found = compare_judges(_relevant(human), labels, scale=(0, 1), relevant=1)
    return [asdict(difference) for difference in found.differences]


def graded_cards(qrels: Qrels, human: Qrels, judges: Sequence[Judge]) -> dict[str, dict[str, Any]]:
    """All figures of the judges on the human scale.

    They are over all pooled pairs (`pool`) and over the pairs with a human grade (`graded by people`), none of which
    is 0.
    """
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
    card_values = to_json(card)
    return {key: card_values[key] for key in ("n", "queries", "figures", "confusion", "missing", "extra", "notes")}


def _relevance_card(human: Qrels, judge: Judge) -> JudgeCard:
    return judge_card(_relevant(human), _relevant(judge.grades), scale=(0, 1), relevant=1)


def _relevant(grades: Qrels) -> dict[str, dict[str, int]]:
    return {topic: {document: int(grade > 0) for document, grade in row.items()} for topic, row in grades.items()}
