"""Contract of every measure that a report shows: a policy accepts it, and decides in the right direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from searchlora.errors import UsageError
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation, evaluate_run
from searchlora.eval.policy import Facts, Policy, decide
from searchlora.eval.tables import Header, to_json
from searchlora.outputs import Grade, InvalidOutput, Label
from searchlora.records import Record
from searchlora.task import EvaluationInput, GenerationTask, load_encoder_task, load_generation_task

CANDIDATE, BASE, RULE = "new@2", "base", "rule"
INVALID = InvalidOutput("?", "not an answer")
Outputs = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Report:
    """The evaluations behind a report, and the names of all measures that it shows."""

    evaluations: Mapping[str, Evaluation]

    def compared(self, *also_tested: str) -> Comparison:
        return compare(self.evaluations, candidate=CANDIDATE, also_tested=also_tested, resamples=200)

    @property
    def measures(self) -> list[str]:
        made = to_json(self.compared(), Header("", "", "", "", {}))
        shown = [row["measure"] for key in ("rows", "unjudged") for row in made.get(key, ())]
        return list(dict.fromkeys(shown))


def repeated(records: Sequence[Record], times: int = 5) -> list[Record]:
    copies = [
        {**record, "id": f"q{n}-{number} d{number}", "group": f"{n}-{number}"}
        for n in range(times)
        for number, record in enumerate(records)
    ]
    return [{**record, "kind": "ab"[number % 2]} for number, record in enumerate(copies)]


def prompted_outputs(task: GenerationTask, records: Sequence[Record]) -> Outputs:
    """The expected outputs, no valid output at all, and the expected ones on every second record."""

    def expected(record: Record) -> Any:
        output = task.parse(task.target(record), record)
        choices = task.output(record).choices
        if isinstance(output, Label | Grade) and choices:
            target = task.target(record).splitlines()[0]
            shares = tuple(0.9 if choice == target else 0.1 / (len(choices) - 1) for choice in choices)
            output = replace(output, probabilities=shares)
        return output

    right = [expected(record) for record in records]
    some = [output if number % 2 else INVALID for number, output in enumerate(right)]
    plain = [replace(each, probabilities=None) if isinstance(each, Label | Grade) else each for each in right]
    return {RULE: plain, BASE: some, CANDIDATE: right}


def measured(task: Any, records: Sequence[Record], outputs: Outputs, *, retrieval: bool = False) -> Report:
    """Evaluations of the outputs; with retrieval, only right outputs find the relevant document first."""
    qrels = {str(record["id"]): {"good": 2, "bad": 0} for record in records} if retrieval else None
    evaluations = {}
    for name, of_system in outputs.items():
        found = {
            str(record["id"]): {"good": 1.0, "bad": 2.0 if isinstance(output, InvalidOutput) else 0.5}
            for record, output in zip(records, of_system, strict=True)
        }
        inputs = EvaluationInput(records, of_system, found if retrieval else None, qrels)
        evaluations[name] = task.evaluate(inputs)
    return Report(evaluations)


def prompted(
    name: str, settings: Mapping[str, Any] | None = None, *, retrieval: bool = False, field: str = ""
) -> Report:
    task = load_generation_task(name)
    task = task.bound(settings) if settings is not None else task
    records = repeated([record for record in task.examples if not field or field in record])
    if name == "rewriting":
        records = [
            {
                **record,
                "needs_rewrite": record["query"] != record["rewrite"],
                "protected": [record["rewrite"].split()[0]],
            }
            for record in records
        ]
    if name == "judgment":
        records = [{**record, "votes": {str(record["grade"]): 2, "0": 1}} for record in records]
    return measured(task, records, prompted_outputs(task, records), retrieval=retrieval)


def intent(kind: str, **settings: Any) -> Report:
    return prompted("intent", {"kind": kind, "out_of_scope": None, **settings}, field=kind)


def embedding(labelled: bool) -> Report:
    task = load_encoder_task("embedding")
    records = repeated([{"id": "", "query": "boots", "label": "shoes"}, {"id": "", "query": "mat", "label": "beds"}])
    if not labelled:
        records = repeated(task.examples)
    right = [record.get("label", "") for record in records]
    some = [output if number % 2 else INVALID for number, output in enumerate(right)]
    return measured(task, records, {RULE: right, BASE: some, CANDIDATE: right}, retrieval=not labelled)


def run_of_an_experiment() -> Report:
    topics = {f"q{n}": {"query": f"query {n}", "kind": "ab"[n % 2]} for n in range(20)}
    qrels = {topic: {"good": 2, "bad": 0} for topic in topics}
    good = {topic: {"good": 3.0, "unknown": 2.0, "bad": 1.0} for topic in topics}
    poor = {topic: {"bad": 3.0, "unknown": 2.0, "good": 1.0} for topic in list(topics)[:15]}
    evaluations = {
        name: evaluate_run(run, qrels, topics=topics, slices=["kind"], tested=["nDCG@10"])
        for name, run in {RULE: poor, BASE: poor, CANDIDATE: good}.items()
    }
    return Report(evaluations)


REPORTS: Mapping[str, Callable[[], Report]] = {
    "rewriting": lambda: prompted("rewriting", retrieval=True),
    "rewriting without judgments": lambda: prompted("rewriting"),
    "judgment": lambda: prompted("judgment"),
    "rag_answer": lambda: prompted("rag_answer"),
    "intent, one label": lambda: intent(
        "label", labels=["delivery_status", "charged_twice"], out_of_scope="charged_twice"
    ),
    "intent, labels": lambda: intent("labels", labels=["refund", "return"]),
    "intent, object": lambda: intent("object", schema=load_generation_task("intent").settings.get("schema") or SCHEMA),
    "embedding, retrieval": lambda: embedding(labelled=False),
    "embedding, classes": lambda: embedding(labelled=True),
    "experiment": run_of_an_experiment,
}
SCHEMA = {
    "type": "object",
    "properties": {"category": {"type": "string"}, "brand": {"type": "string"}, "price_max": {"type": "number"}},
}

#: Measures in which the expected output need not have the best value.
WITHOUT_IDEAL = {"words"}


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTS)
def test_a_policy_decides_in_every_measure_that_a_report_shows(name):
    report = REPORTS[name]()
    assert len(report.measures) > 1
    for measure in report.measures:
        comparison = report.compared(measure)
        sliced = "kind" in {each.slice for each in comparison.slice_pairs if each.pair.measure == measure}
        slices = {"kind": {"max_fall": 0.1}} if sliced else {}
        policy = Policy.model_validate({"measure": measure, "beat": {"base": {}, "baselines": "all"}, "slices": slices})
        if measure in comparison.zero_is_best:
            with pytest.raises(UsageError, match="0 is best"):
                decide(policy, comparison, CANDIDATE, Facts({"base": BASE}))
            continue
        results = {each.rule: each for each in decide(policy, comparison, CANDIDATE, Facts({"base": BASE}))}
        assert results["beat base"].finding.startswith(measure) or f"has no {measure}" in results["beat base"].finding
        assert f"beat {RULE}" in results
        assert sliced == any(rule.startswith("slice kind = ") for rule in results)


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTS)
def test_ideal_outputs_are_worse_in_no_measure(name):
    report = REPORTS[name]()
    for measure in set(report.measures) - WITHOUT_IDEAL:
        comparison = report.compared(measure)
        for pair in comparison.comparisons:
            if (pair.b, pair.measure) == (BASE, measure):
                assert comparison.gain(measure, pair.difference) >= 0, measure


def test_costs_and_measures_that_a_system_lacks_are_named_as_such():
    rows = {f"q{n}": n / 20 for n in range(20)}
    both = Evaluation("MRR", {"MRR": rows}, {}, costs={"ms per query": 5.0})
    more = replace(both, values={"MRR": rows, "calibration": rows})
    comparison = compare({"rule": both, "base": more, "new": more}, candidate="new", resamples=200)
    policy = Policy.model_validate({"measure": "calibration", "beat": {"base": {}, "baselines": "all"}})
    results = {
        each.rule: each for each in decide(policy, comparison, "new", Facts({"base": "base"}, not_baselines={"base"}))
    }
    assert not results["beat rule"].passed and "rule has no calibration" in results["beat rule"].finding
    for measure, message in (("ms per query", "max_latency_ms"), ("MAP", "not measured")):
        with pytest.raises(UsageError, match=message):
            decide(Policy(measure=measure), comparison, "new", Facts({"base": "base"}))
    absent = compare({"rule": more, "new": both}, candidate="new", resamples=200)
    with pytest.raises(UsageError, match="of which new has no value"):
        decide(Policy(measure="calibration", beat={}), absent, "new", Facts({}))
