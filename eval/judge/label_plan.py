"""Which pairs to label first, so that few human labels decide between two runs.

The difference of two runs in SDCG@k or P@k is a sum over pairs of topic and document: the weight of a pair, which
follows from its ranks in both runs, times its gain, which follows from its grade. A pair with the same rank in both
runs has the weight 0 and needs no label.

**Order**: priority sampling (Duffield, Lund and Thorup, J. ACM 54(6), 2007). Each pair has a random number u in (0, 1]
and the priority |weight| / u; the pairs are labelled by falling priority. The first t pairs are then a sample, for
every t, in which a pair is the more probable the more its grade can change the difference: labelling may stop anywhere.
See `few_labels` for the estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log2
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from searchlora.errors import DataError, UsageError
from searchlora.eval.judge.labels import Labels
from searchlora.eval.measures import parse_measure
from searchlora.eval.trec import Run, ranked
from searchlora.files import atomic_text, read_bytes
from searchlora.files.json_text import json_line

#: Weights nearer to 0 are rounding errors.
_ZERO = 1e-12

_Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class GainMeasure:
    """A measure that is a sum over the first k documents: the discount of a rank times the gain of a grade.

    * `SDCG(max_rel=3)@10`, scaled discounted cumulative gain: DCG (Järvelin and Kekäläinen 2002) divided by that of k
      documents of the highest grade. It is nDCG for topics that have so many.
    * `P@10`, `P(rel=2)@10`: precision.

    Attributes:
        name: As ir_measures writes it.
        cutoff: k.
        lowest: The lowest grade with a gain.
        highest: The grade with the gain 1.
    """

    name: str
    cutoff: int
    lowest: int
    highest: int

    @classmethod
    def parse(cls, name: str) -> GainMeasure:
        """Raises `UsageError` for a measure that is not such a sum.

        Examples:
            >>> GainMeasure.parse("P(rel=2)@5")
            GainMeasure(name='P(rel=2)@5', cutoff=5, lowest=2, highest=2)
        """
        measure = parse_measure(name).measure
        allowed = {"SDCG": {"cutoff", "max_rel"}, "P": {"cutoff", "rel"}}
        parameters = measure.params
        if not set(parameters) <= allowed.get(measure.NAME, set()) or "cutoff" not in parameters:
            raise UsageError(
                f"{name} is not a sum over documents, so its labels cannot be chosen by pair",
                fix="Use SDCG(max_rel=3)@10, with the highest grade as max_rel, or P@10.",
            )
        lowest, highest = 1, parameters.get("max_rel", 1)
        if measure.NAME == "P":
            lowest = highest = parameters.get("rel", 1)
        if highest < 1:
            raise UsageError(f"the highest grade of {name} is below 1", fix="Give that of the scale as max_rel.")
        return cls(str(measure), parameters["cutoff"], lowest, highest)

    @property
    def is_graded(self) -> bool:
        """Whether each grade has a gain of its own, as in SDCG."""
        return self.name.startswith("SDCG")

    def check_grades(self, grades: Iterable[int | None]) -> None:
        """Raise `UsageError` for a grade of people above the highest one."""
        above = max((grade for grade in grades if grade is not None), default=0)
        if self.is_graded and above > self.highest:
            raise UsageError(
                f"a label has the grade {above}, and the plan is for {self.name}",
                fix=f"Plan again with max_rel={above}, or give grades up to {self.highest}.",
            )

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Whether a measure is such a sum."""
        try:
            cls.parse(name)
        except UsageError:
            return False
        return True

    @classmethod
    def choose(cls, measures: Iterable[str], highest: int) -> str:
        """The first of some measures that is such a sum, else SDCG@10 with this highest grade.

        Examples:
            >>> GainMeasure.choose(["nDCG@10", "P@5"], 3), GainMeasure.choose(["nDCG@10"], 3)
            ('P@5', 'SDCG(max_rel=3)@10')
        """
        return next((name for name in measures if cls.accepts(name)), f"SDCG(max_rel={highest})@10")

    def discounts(self) -> list[float]:
        """The discount of each rank; they add up to 1."""
        if not self.is_graded:
            return [1 / self.cutoff] * self.cutoff
        discounts = [1 / log2(rank + 1) for rank in range(1, self.cutoff + 1)]
        return [discount / sum(discounts) for discount in discounts]

    def gain(self, grade: int) -> float:
        """The gain of a grade, 0 to 1. A grade above the highest has the gain 1."""
        return min(grade, self.highest) / self.highest if grade >= self.lowest else 0.0


@dataclass(frozen=True)
class PlannedPair:
    """A pair to label.

    Attributes:
        weight: What a gain of 1 adds to the difference of the topic.
        priority: |weight| divided by a random number; pairs are labelled by falling priority.
        judged: The gain by a judge; None: the judge has no grade of it.
    """

    topic: str
    document: str
    weight: _Finite
    priority: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    judged: Annotated[float, Field(ge=0, le=1)] | None = None


@dataclass(frozen=True)
class LabelPlan:
    """The pairs whose labels decide between two runs, in the order in which they are labelled.

    Attributes:
        measure: See `GainMeasure`.
        candidate, baseline: Names of the two runs.
        topics: All topics, those without a pair among them: there the runs do not differ.
        seed: Seed of the random numbers.
        margin: Difference that the candidate must exceed; negative: by which it may be worse.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    kind: Literal["label plan"]
    measure: str
    candidate: str
    baseline: str
    seed: int
    margin: Annotated[float, Field(gt=-1, lt=1)]
    topics: tuple[str, ...]
    pairs: tuple[PlannedPair, ...]

    @classmethod
    def of(
        cls,
        candidate: Run,
        baseline: Run,
        measure: str,
        judged: Labels | None = None,
        *,
        names: tuple[str, str] = ("candidate", "baseline"),
        topics: Sequence[str] | None = None,
        margin: float = 0.0,
        seed: int = 0,
    ) -> LabelPlan:
        """The plan for two runs.

        Args:
            judged: Grades of a judge; the better they are, the fewer labels are needed. An invalid one is none.
            names: Names of candidate and baseline.
            topics: All topics; None: those of either run.

        Raises:
            UsageError: for a measure that is not a sum over documents, a margin outside −1 to 1, or runs that do not
                differ.

        Examples:
            >>> plan = LabelPlan.of({"q1": {"a": 2.0, "b": 1.0}}, {"q1": {"b": 2.0, "a": 1.0}}, "SDCG(max_rel=3)@2")
            >>> [(pair.document, round(pair.weight, 3)) for pair in plan.pairs]
            [('a', 0.226), ('b', -0.226)]
        """
        if not -1 < margin < 1:
            raise UsageError(f"the margin {margin} is not between −1 and 1")
        gains = GainMeasure.parse(measure)
        topics = list(dict.fromkeys([*candidate, *baseline]) if topics is None else topics)
        weights = {
            (topic, document): weight
            for topic in topics
            for document, weight in _weights(topic, candidate, baseline, gains).items()
        }
        if not weights:
            raise UsageError(f"the two runs have the same {gains.name} whatever the labels", fix="Compare others.")
        chances = np.random.default_rng(seed).uniform(size=len(weights))
        pairs = [
            PlannedPair(topic, document, weight, abs(weight) / (1 - chance), _judged(judged, topic, document, gains))
            for ((topic, document), weight), chance in zip(weights.items(), chances.tolist(), strict=True)
        ]
        pairs.sort(key=lambda pair: -pair.priority)
        return cls("label plan", gains.name, *names, seed, margin, tuple(topics), tuple(pairs))

    @classmethod
    def read(cls, path: str | Path) -> LabelPlan:
        """Read a file that `write` wrote. Raises `DataError` for another."""
        try:
            plan = _PLAN.validate_json(read_bytes(Path(path)))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the file"
            fix = "Write it with `searchlora grade plan`."
            raise DataError(f"is not a label plan ({field}: {first['msg']})", where=str(path), fix=fix) from None
        if fault := plan._fault():
            raise DataError(fault, where=str(path), fix="Write it again with `searchlora grade plan`.")
        return plan

    def write(self, path: str | Path) -> None:
        """Write it as JSON."""
        with atomic_text(Path(path)) as out:
            out.write(json_line(asdict(self)))

    def _fault(self) -> str | None:
        """What is wrong with the pairs; None for a plan as `of` makes it."""
        topics, seen = set(self.topics), set[tuple[str, str]]()
        if len(topics) < len(self.topics):
            return "a topic is repeated"
        if not self.pairs:
            return "there is no pair"
        before = float("inf")
        for pair in self.pairs:
            named = f"the pair of topic {pair.topic} and document {pair.document}"
            if pair.topic not in topics:
                return f"{named} is of no topic of the plan"
            if (pair.topic, pair.document) in seen:
                return f"{named} is repeated"
            if not 0 < abs(pair.weight) <= 1 or pair.priority < abs(pair.weight):
                return f"{named} has no possible weight and priority"
            if pair.priority > before:
                return f"{named} is not in its place: pairs are in the order of their priorities"
            seen.add((pair.topic, pair.document))
            before = pair.priority
        return None

    def check_scale(self, scale: Sequence[int]) -> None:
        """Raise `UsageError` if people grade on a scale that the measure does not fit."""
        highest, gains = max(scale), GainMeasure.parse(self.measure)
        if gains.highest > highest or (gains.is_graded and gains.highest < highest):
            raise UsageError(
                f"the plan's {self.measure} has {gains.highest} as the highest grade, people grade up to {highest}",
                fix="Plan again with this --scale, or give it to the page.",
            )

    def by_topic(self) -> dict[str, list[str]]:
        """topic -> documents of the pairs."""
        documents: dict[str, list[str]] = {}
        for pair in self.pairs:
            documents.setdefault(pair.topic, []).append(pair.document)
        return documents


def _weights(topic: str, candidate: Run, baseline: Run, gains: GainMeasure) -> Mapping[str, float]:
    weights: dict[str, float] = {}
    for run, sign in ((candidate, 1), (baseline, -1)):
        for document, discount in zip(ranked(run.get(topic, {})), gains.discounts(), strict=False):
            weights[document] = weights.get(document, 0.0) + sign * discount
    return {document: weight for document, weight in weights.items() if abs(weight) > _ZERO}


def _judged(judged: Labels | None, topic: str, document: str, gains: GainMeasure) -> float | None:
    grade = (judged or {}).get(topic, {}).get(document)
    return None if grade is None else gains.gain(grade)


_PLAN = TypeAdapter(LabelPlan)
