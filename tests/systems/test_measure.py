"""The contract of `System` and `measure`: caching, resuming, invalid outputs, circularity, costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest

from searchlora.errors import NotInStore, PipelineError, UsageError
from searchlora.eval.judgments.card import JudgmentsCard
from searchlora.eval.judgments.lineage import RunLineage, query_hash
from searchlora.files.result_cache import ResultCache
from searchlora.outputs import CitedAnswer, Grade, InvalidOutput, Label
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.records import Document
from searchlora.systems import measure as measuring
from searchlora.systems.fixed import FixedResults, RunFile
from searchlora.systems.measure import measure, outputs_of, run_system
from searchlora.systems.measures import RetrievalMeasures, TaskMeasures
from searchlora.systems.system import Outputs, System
from searchlora.task import load_generation_task

ROWS = [{"id": f"q{n}", "query": f"tent {n}"} for n in range(6)]
QRELS = {row["id"]: {"d1": 1} for row in ROWS}
MEASURES = RetrievalMeasures(QRELS, ["MRR@10"])


class Searching(System):
    """Finds the relevant document for even rows; `seen` has the rows of each call."""

    batch_size = 2

    def __init__(self, name="ours", *, key="v1", lineage=(), passing=(), invalid=(), costs=None):
        self.name, self.key, self.seen = name, key, []
        self.models, self.passing, self.invalid = lineage, passing, invalid
        self.costs = {"ms per query": 2.0} if costs is None else costs

    @property
    def fingerprint(self):
        return self.key

    @property
    def lineage(self):
        return RunLineage(tuple(self.models))

    def run(self, rows, progress=lambda *_: None):
        names = [row["id"] for row in rows]
        self.seen.append(names)
        progress(len(rows), len(rows))
        run = {name: {"d1": 2.0, "d2": 1.0} if int(name[1:]) % 2 == 0 else {"d2": 1.0} for name in names}
        invalid = {name: "it is no text" for name in names if name in self.invalid}
        passing = [name for name in names if name in self.passing]
        return Outputs([None] * len(rows), run, invalid, self.costs, {"bm25": self.costs}, passing)


@pytest.fixture
def cache(tmp_path):
    return ResultCache(tmp_path / "results.sqlite")


def test_a_measured_system_is_not_run_again_and_has_the_same_results(cache):
    first = measure([Searching()], ROWS, MEASURES, cache)
    again = Searching()
    second = measure([again], ROWS, MEASURES, cache)
    assert (first.reused, second.reused) == ((), ("ours",))
    assert again.seen == []
    assert second.comparison == first.comparison
    assert second.results["ours"].raw == first.results["ours"].raw
    assert second.comparison.row("ours", "MRR@10").value == pytest.approx(0.5)
    assert second.comparison.costs["ours"] == {"ms per query": 2.0}


def test_only_new_rows_are_run(cache):
    measure([Searching()], ROWS[:3], MEASURES, cache)
    system = Searching()
    assert measure([system], ROWS, MEASURES, cache).reused == ()
    assert system.seen == [["q3", "q4"], ["q5"]]


def test_a_system_whose_rows_are_run_together_runs_all_of_them_if_one_is_new(cache):
    measure([Searching()], ROWS[:3], MEASURES, cache)
    system = Searching()
    system.batch_size = None
    measure([system], ROWS, MEASURES, cache)
    assert system.seen == [[row["id"] for row in ROWS]]


@pytest.mark.parametrize("other", [{"key": "v2"}, {"key": None}])
def test_another_fingerprint_or_none_is_run_again(cache, other):
    measure([Searching()], ROWS, MEASURES, cache)
    for _ in range(2 if other["key"] is None else 1):
        system = Searching(**other)
        measure([system], ROWS, MEASURES, cache)
        assert sum(map(len, system.seen)) == len(ROWS)


def test_without_a_cache_all_rows_are_run_in_one_call():
    system = Searching()
    measure([system], ROWS, MEASURES)
    assert len(system.seen) == 1


def test_rows_without_a_stage_that_failed_for_the_moment_are_run_again(cache):
    measure([Searching(passing=["q1"], invalid=["q1"])], ROWS, MEASURES, cache)
    system = Searching()
    result = measure([system], ROWS, MEASURES, cache)
    assert system.seen == [["q1"]]
    assert result.comparison.invalid["ours"] == {}


def test_invalid_outputs_are_counted_whether_they_are_cached_or_not(cache):
    for _ in range(2):
        comparison = measure([Searching(invalid=["q2"])], ROWS, MEASURES, cache).comparison
        assert comparison.invalid["ours"] == {"q2": "it is no text"}


def test_costs_of_another_machine_are_left_out(cache, monkeypatch):
    measure([Searching()], ROWS, MEASURES, cache)
    monkeypatch.setattr(measuring, "machine", lambda: "another")
    result = measure([Searching()], ROWS, MEASURES, cache).results["ours"]
    assert result.reused and result.raw.costs == {} and result.raw.parts == {}


def test_a_mean_cost_is_that_of_all_rows(cache):
    outputs_of(Searching(costs={"ms per query": 1.0}), ROWS[:2], cache)
    outputs, _ = outputs_of(Searching(costs={"ms per query": 4.0}), ROWS, cache)
    assert outputs.costs["ms per query"] == pytest.approx((2 * 1 + 4 * 4) / 6)
    assert outputs.parts["bm25"]["ms per query"] == pytest.approx(3)


OUTPUTS = [
    Label("tent", (0.75, 0.25)),
    Grade(1, (0.5, 0.5)),
    CitedAnswer("It is dry [1].", (1,), abstained=False),
    InvalidOutput("no", "not one of the labels"),
    {"colour": "red"},
    "text",
]


class Answering(Searching):
    def __init__(self):
        super().__init__()
        self.outputs = dict(zip([row["id"] for row in ROWS], OUTPUTS, strict=True))

    def run(self, rows, progress=lambda *_: None):
        del progress
        self.seen.append([row["id"] for row in rows])
        return Outputs([self.outputs[row["id"]] for row in rows])


def test_outputs_of_every_type_are_read_back(cache):
    outputs_of(Answering(), ROWS, cache)
    assert outputs_of(Answering(), ROWS, cache) == (Outputs(OUTPUTS), True)


def test_outputs_that_json_cannot_represent_are_not_cached(cache):
    @dataclass(frozen=True)
    class Custom:
        value: int

    system = Answering()
    system.outputs = {row["id"]: Custom(1) for row in ROWS}
    outputs_of(system, ROWS, cache)
    assert len(cache) == 0


def test_many_rows_are_written_a_part_at_a_time(tmp_path, monkeypatch):
    class Watched(ResultCache):
        def put_all(self, values, label=""):
            written.append(len(values))
            super().put_all(values, label)

    written = []
    monkeypatch.setattr(measuring, "_WRITTEN", 4)
    system = Searching()
    system.batch_size = None
    measure([system], ROWS, MEASURES, Watched(tmp_path / "results.sqlite"))
    assert len(system.seen) == 1 and written == [4, 2]


@pytest.mark.parametrize(("score", "cached"), [(np.float32(0.5), 1), (float("nan"), 0), (float("inf"), 0)])
def test_scores_of_any_type_are_cached_if_they_are_finite(cache, score, cached):
    class Scoring(Searching):
        def run(self, rows, progress=lambda *_: None):
            del rows, progress
            return Outputs([None], {"q0": {"d1": score}})

    outputs, _ = outputs_of(Scoring(), ROWS[:1], cache)
    assert outputs.run["q0"]["d1"] is score
    assert len(cache) == cached


@pytest.mark.parametrize(
    "damage",
    [
        {"output": ["label"]},
        {"output": {"grade": {"value": "1"}}},
        {"hits": 5},
        {"hits": [["d1"]]},
        {"hits": [["d1", "x"]]},
        {"hits": [["d1", None]]},
        {"invalid": 7},
        {"costs": {"ms per query": "soon"}},
        {"costs": None},
        {"parts": [1]},
        {"machine": ...},
    ],
)
def test_what_somebody_wrote_into_the_cache_is_computed_again(tmp_path, damage):
    class Altered(ResultCache):
        def put_all(self, values, label=""):
            changed = {key: {name: value for name, value in (entry | damage).items() if value is not ...}
                       for key, entry in values.items()}  # fmt: skip
            super().put_all(changed, label)

    file = tmp_path / "results.sqlite"
    expected, _ = outputs_of(Searching(), ROWS, Altered(file))
    again = Searching()
    assert outputs_of(again, ROWS, ResultCache(file)) == (expected, False)
    assert sum(map(len, again.seen)) == len(ROWS)


def test_an_output_that_the_system_cannot_have_is_computed_again(cache):
    outputs_of(Answering(), ROWS, cache)
    system = Answering()
    system.accepts = lambda _, output: output != "text"
    outputs_of(system, ROWS, cache)
    assert system.seen == [["q5"]]


CARD = JudgmentsCard("llm", "2026-07-01", judge="judge@1", judge_lineage=("judge@1",))


def test_a_circular_judge_is_refused_before_anything_is_run_or_marked():
    measures = replace(MEASURES, card=CARD)
    systems = [Searching("other"), Searching("ours", lineage=["judge@3"])]
    with pytest.raises(UsageError, match="the judge judge@1 and the system share judge@1"):
        measure(systems, ROWS, measures, candidate="ours")
    assert systems[0].seen == systems[1].seen == []
    comparison = measure(systems, ROWS, measures, candidate="ours", allow_circular=True).comparison
    assert set(comparison.circular) == {"ours"}
    seen = replace(CARD, judge_queries=(query_hash("tent 1"),))
    with pytest.raises(UsageError, match="was trained on 1 of the 6 topics"):
        measure([Searching()], ROWS, replace(MEASURES, card=seen))


def test_a_system_of_a_removed_adapter_is_measured_unless_a_judge_may_be_part_of_it():
    class Removed(Searching):
        @property
        def lineage(self):
            raise NotInStore("is not in the store", where="judge@1")

    for card in (None, JudgmentsCard("human", "2026-07-01")):
        measured = measure([Removed()], ROWS, replace(MEASURES, card=card))
        assert measured.comparison.row("ours", "MRR@10").n == len(ROWS)
    with pytest.raises(NotInStore):
        measure([Removed()], ROWS, replace(MEASURES, card=CARD))


def test_two_systems_of_one_name_are_refused():
    with pytest.raises(UsageError, match="two systems are called 'ours'"):
        measure([Searching(), Searching()], ROWS, MEASURES, candidate="ours")


class Failing(Searching):
    def run(self, rows, progress=lambda *_: None):
        del rows, progress
        raise PipelineError("no hits", where="stage 1")


def test_a_system_that_fails_ends_the_measurement_unless_it_is_optional():
    failing = Failing("without bm25")
    with pytest.raises(PipelineError, match="no hits"):
        measure([Searching(), failing], ROWS, MEASURES, candidate="ours")
    failing.optional = True
    result = measure([Searching(), failing, Searching("theirs")], ROWS, MEASURES, candidate="ours")
    assert result.left_out == {"without bm25": "no hits (stage 1)"}
    assert list(result.results) == ["ours", "theirs"]


def test_run_files_and_existing_results_are_systems(tmp_path):
    run = {row["id"]: {"d1": 1.0} for row in ROWS}
    file = tmp_path / "run.txt"
    file.write_text("".join(f"{row['id']} Q0 d1 1 1.0 run\n" for row in ROWS))
    systems = [RunFile("file", file), FixedResults("fixed", ROWS, run=run)]
    comparison = measure(systems, ROWS, MEASURES, baseline="file").comparison
    assert comparison.values["MRR@10"]["file"] == comparison.values["MRR@10"]["fixed"]
    assert systems[0].lineage is None and systems[1].lineage == RunLineage(())
    assert run_system(systems[0], ROWS, MEASURES).raw.invalid is None


SCRIPT = """
import os, signal, sys
from pathlib import Path
from searchlora.files.result_cache import ResultCache
from searchlora.systems.measure import measure
from tests.systems.test_measure import MEASURES, ROWS, Searching

class Killed(Searching):
    def run(self, rows, progress=lambda *_: None):
        if len(self.seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(rows, progress)

measure([Killed()], ROWS, MEASURES, ResultCache(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_a_killed_measurement_continues_after_the_last_batch(tmp_path):
    file = tmp_path / "results.sqlite"
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(file)], check=False, env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    system = Searching()
    continued = measure([system], ROWS, MEASURES, ResultCache(file))
    assert system.seen == [["q4", "q5"]]
    assert continued.comparison == measure([Searching()], ROWS, MEASURES).comparison


def test_a_rewrite_costs_the_search_by_which_it_is_measured():
    documents = [Document("d1", "red tent"), Document("d2", "green couch")]
    rows = [{"id": "q1", "group": "q1", "query": "tent"}, {"id": "q2", "group": "q2", "query": "sofa"}]
    measures = TaskMeasures(
        load_generation_task("rewriting"), {"q1": {"d1": 1}, "q2": {"d2": 1}}, retrieve=Bm25Settings().over(documents)
    )
    timed = run_system(FixedResults("timed", rows, ["tent", "couch"], costs={"ms per query": 5.0}), rows, measures)
    assert 5.0 < timed.evaluation.costs["ms per query"] < 1000
    assert {row: list(hits) for row, hits in timed.raw.run.items()} == {"q1": ["d1"], "q2": ["d2"]}
    free = run_system(FixedResults("rule", rows, ["tent", "couch"]), rows, measures)
    assert free.evaluation.costs == {}
