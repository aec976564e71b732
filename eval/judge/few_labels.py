"""Decide between two runs with few human labels: an interval of their difference that may be watched at every label.

**Estimate** (`label_plan` gives the pairs and their order). After t labels, with the priority s of the next pair, a
pair of weight w was labelled with probability π = min(1, |w| / s). The difference of a topic is estimated by

    D = Σ w m + Σ over labelled pairs w (g − m) / π,

with the gain g of the label and a prediction m of each pair. The terms are uncorrelated (Duffield, Lund and Thorup,
2007), and D is right on average whatever m is. The prediction is a line through the judge's gains, fitted to the labels
of the other topics: a judge that errs costs labels, and not the validity. This is prediction-powered inference
(Angelopoulos et al., Science 382, 2023) with labels chosen by their influence.

**Interval**: for new topics, not for these alone. The variance of the mean of D over topics contains that of the
missing labels. As labels arrive, such estimates have the joint distribution of a Brownian motion in information time,
1 / variance (Jennison and Turnbull, JASA 92, 1997), so Robbins' normal mixture gives an interval that holds at all
times together:

    mean ± √(v (1 + r) log((1 + r) / (r α²))),  r proportional to the variance v,

an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Annals of Statistics 52, 2024). Its
normal quantile is replaced by that of Student's t with the number of labelled topics − 1. Coverage by simulation:
`benchmarks.few_labels`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from searchlora.eval.intervals import COVERAGE, Floats
from searchlora.eval.judge.label_plan import GainMeasure, LabelPlan

#: Labels, and topics with a label, below which nothing is decided. By simulation the interval holds from here on.
MINIMUM_LABELS, MINIMUM_TOPICS = 20, 10

#: The interval before the first one.
_UNKNOWN = (-1.0, 1.0)

#: Number of labels at which the interval is as narrow as it can be, for gains of `_SPREAD`: decisions fall about here.
_TYPICAL_LABELS = 100

#: Ratio r of the interval there, near its flat optimum.
_RATIO = 0.15

#: Standard deviation of a gain about its prediction, and pseudo-labels with it that the first labels are added to.
_SPREAD, _PRIOR_LABELS = 0.5, 2.0

#: Pseudo-topics whose differences vary as those of gains with `_SPREAD` that are independent. Without them, topics that
#: happen not to differ would have no variance, and the interval no width: rare losses would be taken for none.
_PRIOR_TOPICS = 2.0

#: Which run is used from now on.
Decision: TypeAlias = Literal["candidate", "baseline", "open"]

#: (topic, document) -> grade; None for "cannot tell", which has no gain, as an unjudged document has none.
Grades: TypeAlias = Mapping[tuple[str, str], int | None]


@dataclass(frozen=True)
class FewLabels:
    """What is known after some labels.

    Attributes:
        difference: Mean over topics of candidate − baseline.
        labels, pairs: Labels that count, and all pairs that could be labelled.
        topics: Number of all topics.
        low, high: Interval of the difference, 95% for all numbers of labels together; −1 to 1 before the first one.
        margin: That of the plan.
        decision: `candidate` if the interval is above the margin, `baseline` if it is below, `open` otherwise.
        more: Expected number of further labels until the decision, if the difference is as estimated, or until the
            first interval; None: all labels would probably not decide, and more topics are needed. 0 when decided.
    """

    difference: float
    labels: int
    pairs: int
    topics: int
    margin: float
    low: float
    high: float
    decision: Decision
    more: int | None

    @property
    def outlook(self) -> str:
        """What is decided, or what remains to be done, in a sentence.

        Examples:
            >>> FewLabels(0.1, 50, 700, 43, 0.0, -0.05, 0.25, "open", 37).outlook
            'About 37 more pairs until a decision.'
            >>> FewLabels(-0.02, 90, 700, 43, -0.1, -0.08, 0.04, "candidate", 0).outlook
            'Decided: the candidate is not worse by more than 0.1.'
        """
        if self.decision != "open":
            above = self.decision == "candidate"
            by = f" by more than {abs(self.margin):g}" if self.margin else ""
            word = "better" if self.margin > 0 or (self.margin == 0 and above) else "worse"
            negated = "not " if self.margin and above == (self.margin < 0) else ""
            return f"Decided: the candidate is {negated}{word}{by}."
        if self.labels == self.pairs:
            return "All pairs are labelled and do not decide: more topics are needed."
        if self.more is None:
            return "All pairs would probably not decide: more topics are needed."
        pairs = f"{self.more} more pair{'s' if self.more > 1 else ''}"
        if (self.low, self.high) == _UNKNOWN:
            return f"The first estimate takes about {pairs}."
        return f"About {pairs} until a decision."


class LabelWatch:
    """The estimates for one plan, after any number of labels."""

    def __init__(self, plan: LabelPlan) -> None:
        self.plan = plan
        self._gains = GainMeasure.parse(plan.measure)
        self._pairs = _Pairs.of(plan)

    def after(self, grades: Grades) -> FewLabels:
        """The estimate from the labels of the first pairs of the plan, up to the first one without a label.

        Labels of later pairs are not lost: they count once all before them are there.

        Raises:
            UsageError: for a grade above the highest one of the measure.

        Examples:
            >>> runs = [{f"q{q}": {"a": 2.0 - order, "b": 1.0} for q in range(40)} for order in (0, 2)]
            >>> watch = LabelWatch(LabelPlan.of(*runs, "P@1"))
            >>> first = watch.plan.pairs[:30]
            >>> watch.after({(pair.topic, pair.document): int(pair.document == "a") for pair in first}).decision
            'candidate'
        """
        self._gains.check_grades(grades.values())
        gains = []
        for pair in self.plan.pairs:
            if (pair.topic, pair.document) not in grades:
                break
            grade = grades[pair.topic, pair.document]
            gains.append(0.0 if grade is None else self._gains.gain(grade))
        return self.estimate(np.array(gains))

    def estimate(self, gains: Floats) -> FewLabels:
        """The estimate from the gains of the first pairs, `(labels,)`."""
        sample, pairs = _Sample.of(self._pairs, gains), self._pairs
        known = sample.difference, len(gains), len(self.plan.pairs), pairs.topics, self.plan.margin
        if self._first is None or len(gains) < self._first:
            more = None if self._first is None else self._first - len(gains)
            return FewLabels(*known, *_UNKNOWN, decision="open", more=more)
        half = self._half_width(sample.variance, len(np.unique(pairs.topic[: len(gains)])))
        low, high = max(-1.0, sample.difference - half), min(1.0, sample.difference + half)
        if low > self.plan.margin:
            return FewLabels(*known, low, high, decision="candidate", more=0)
        if high < self.plan.margin:
            return FewLabels(*known, low, high, decision="baseline", more=0)
        return FewLabels(*known, low, high, decision="open", more=self._more(sample))

    @cached_property
    def _first(self) -> int | None:
        """The number of labels of the first interval; None if there are too few pairs or topics for one."""
        _, first_pairs = np.unique(self._pairs.topic, return_index=True)
        if len(self.plan.pairs) < MINIMUM_LABELS or len(first_pairs) < MINIMUM_TOPICS:
            return None
        return max(MINIMUM_LABELS, int(np.sort(first_pairs)[MINIMUM_TOPICS - 1]) + 1)

    def _half_width(self, variance: float, topics: int) -> float:
        from scipy import special

        if variance <= 0:
            return 0.0
        ratio = _RATIO * variance / self._typical_variance
        z = math.sqrt((1 + ratio) * math.log((1 + ratio) / (ratio * (1 - COVERAGE) ** 2)))
        return -math.sqrt(variance) * float(special.stdtrit(topics - 1, special.ndtr(-z)))

    @cached_property
    def _typical_variance(self) -> float:
        """The variance after `_TYPICAL_LABELS`, of independent gains with the standard deviation `_SPREAD`."""
        typical = min(_TYPICAL_LABELS, len(self.plan.pairs) // 2)
        return self._pairs.unlabelled(0, _SPREAD**2) + self._pairs.missing(typical, _SPREAD**2)

    def _more(self, sample: _Sample) -> int | None:
        """Further labels until the interval probably leaves the margin, by bisection."""
        labels, pairs = sample.labels, len(self.plan.pairs)
        distance = abs(sample.difference - self.plan.margin)

        def decides(labels: int) -> bool:
            variance = sample.between + self._pairs.missing(labels, sample.spread)
            return self._half_width(variance, self._pairs.topics) < distance

        if not decides(pairs):
            return None
        low, high = labels, pairs
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if decides(middle) else (middle + 1, high)
        return max(1, low - labels)


@dataclass(frozen=True)
class _Pairs:
    """The pairs of a plan as arrays, `(pairs,)`; `judged` is the judge's gain about its mean, 0 where there is none."""

    topics: int
    topic: NDArray[np.int64]
    weight: Floats
    priority: Floats
    judged: Floats

    @classmethod
    def of(cls, plan: LabelPlan) -> _Pairs:
        number = {topic: row for row, topic in enumerate(plan.topics)}
        judged = np.array([math.nan if pair.judged is None else pair.judged for pair in plan.pairs])
        centred = np.nan_to_num(judged - np.nanmean(judged)) if not np.isnan(judged).all() else np.zeros(len(judged))
        return cls(
            len(plan.topics),
            np.array([number[pair.topic] for pair in plan.pairs]),
            np.array([pair.weight for pair in plan.pairs]),
            np.array([pair.priority for pair in plan.pairs]),
            centred,
        )

    def probabilities(self, labels: int) -> Floats:
        """Probability of each pair to be among the first `labels`, given the priority of the next."""
        if labels >= len(self.weight):
            return np.ones(len(self.weight))
        probabilities: Floats = np.minimum(1.0, np.abs(self.weight) / self.priority[labels])
        return probabilities

    def missing(self, labels: int, spread: float) -> float:
        """Variance of the mean by the missing labels, after `labels`, of gains with the variance `spread`."""
        per_pair = self.weight**2 * (1 / self.probabilities(labels) - 1)
        return float(per_pair.sum()) * spread / self.topics**2

    def unlabelled(self, labels: int, spread: float) -> float:
        """Variance of the mean by all gains after the first `labels`, which have the variance `spread`."""
        return float((self.weight[labels:] ** 2).sum()) * spread / self.topics**2


@dataclass(frozen=True)
class _Sample:
    """The estimate from the first labels.

    Attributes:
        difference: Mean over topics.
        variance: Its variance over topics and labels.
        between: The same if all pairs had a label, as predicted from these.
        spread: Variance of a gain about its prediction.
    """

    labels: int
    difference: float
    variance: float
    between: float
    spread: float

    @classmethod
    def of(cls, pairs: _Pairs, gains: Floats) -> _Sample:
        labels, weight = len(gains), pairs.weight
        probability = pairs.probabilities(labels)[:labels]
        influence = weight[:labels] ** 2 / probability
        influence = influence / influence.mean() if labels else influence
        predicted = _predicted(pairs, gains, influence)
        residual = gains - predicted[:labels]
        spread = _PRIOR_LABELS * _SPREAD**2 + float(influence @ residual**2)
        spread /= _PRIOR_LABELS + float(influence.sum())
        expected = weight * predicted
        corrected = expected.copy()
        corrected[:labels] += weight[:labels] * residual / probability
        expected[:labels] = weight[:labels] * gains
        differences = np.bincount(pairs.topic, corrected, minlength=pairs.topics)
        prior = pairs.unlabelled(0, _SPREAD**2) * pairs.topics
        observed = _variance_of_mean(differences, prior)
        # Gains without a label are not as smooth as their predictions.
        between = _variance_of_mean(np.bincount(pairs.topic, expected, minlength=pairs.topics), prior)
        between += pairs.unlabelled(labels, spread)
        # In samples that happen to hold few surprises the observed variance is too small.
        variance = max(observed, between + pairs.missing(labels, spread))
        return cls(labels, float(np.clip(differences.mean(), -1, 1)), variance, between, spread)


def _variance_of_mean(values: NDArray[Any], prior: float) -> float:
    """Variance of the mean of a value of each topic, with `_PRIOR_TOPICS` that have the variance `prior`."""
    freedom = len(values) - 1
    if not freedom:
        return math.inf
    return (float(values.var(ddof=1)) * freedom + _PRIOR_TOPICS * prior) / (freedom + _PRIOR_TOPICS) / len(values)


def _predicted(pairs: _Pairs, gains: Floats, influence: Floats) -> Floats:
    """The prediction of each pair, `(pairs,)`: weighted least squares on the labels of all other topics.

    The prior is one half for each gain, and counts as `_PRIOR_LABELS`.
    """
    judged, topic = pairs.judged[: len(gains)], pairs.topic[: len(gains)]

    def others(values: Floats) -> Floats:
        """Sum over the labels of all other topics, of each topic."""
        of_topic = np.bincount(topic, values, minlength=pairs.topics)
        rest: Floats = of_topic.sum() - of_topic
        return rest

    ones, slopes = others(influence) + _PRIOR_LABELS, others(influence * judged**2) + _PRIOR_LABELS
    mixed = others(influence * judged)
    target = others(influence * gains) + _PRIOR_LABELS * 0.5, others(influence * judged * gains)
    determinant = ones * slopes - mixed**2
    intercept = (slopes * target[0] - mixed * target[1]) / determinant
    slope = (ones * target[1] - mixed * target[0]) / determinant
    predicted: Floats = np.clip(intercept[pairs.topic] + slope[pairs.topic] * pairs.judged, 0, 1)
    return predicted
