"""The verb `monitor`: recorded searches of now against those of before and against the queries of training."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from searchlora.errors import DataError, UsageError
from searchlora.eval.agreement import as_scale, confusion, disagreement, kappa
from searchlora.eval.drift import (
    LEAST,
    Alarm,
    DriftTest,
    alarms,
    has_other_letters,
    labels_test,
    queries_test,
    values_test,
    words_test,
)
from searchlora.eval.formats import read_qrels
from searchlora.eval.resampling import estimate
from searchlora.eval.text_identity import words
from searchlora.events.export import FAILED, Search, chosen, user_of
from searchlora.events.log import EventLog
from searchlora.files import atomic_text, read_rows, strict
from searchlora.files.json_text import finite
from searchlora.files.yaml_text import read_settings

_DAY_S = 86_400.0

#: Beginning of the names under which the log has the last reports; the pipeline follows.
_NOTE = "monitor "

#: Test -> least effect of an alarm, where the file does not say otherwise.
MIN_EFFECTS: Mapping[str, float] = {
    "queries": 0.05,
    "new words": 0.05,
    "words": 0.5,
    "other letters": 0.02,
    "failed": 0.01,
    "no hits": 0.02,
    "chosen": 0.03,
    "invalid": 0.02,
    "skipped": 0.02,
    "undecided": 0.05,
    "labels": 0.05,
    "probability": 0.05,
}


class TrainingQueries(BaseModel):
    """Queries that an adapter was trained on.

    Attributes:
        file: Rows: JSONL, CSV, TSV or Parquet.
        field: The column of the query.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path
    field: str = "query"


class JudgeCheck(BaseModel):
    """A few fresh grades of people for a judge.

    Attributes:
        human, judged: Qrels; pairs that both grade are compared.
        min_kappa: An alarm is raised if Cohen's kappa is below.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    human: Path
    judged: Path
    min_kappa: float = Field(ge=-1, le=1)


class MonitorConfig(BaseModel):
    """What is compared.

    Attributes:
        events: What `serve --events` names.
        pipeline: Searches of this pipeline only; None: all.
        window_days: Length of the period that is now.
        reference_days: Length of the period before it.
        training: Queries of training, with which those of now are compared, too.
        encoder: Encoder whose vectors a classifier reads; None: n-grams of letters.
        level: Probability of a false alarm of a check, over all of its tests.
        min_effects: Test -> least effect of an alarm.
        judge: Grades of people for a judge.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    events: str
    pipeline: str | None = None
    window_days: float = Field(1.0, gt=0)
    reference_days: float = Field(7.0, gt=0)
    training: TrainingQueries | None = None
    encoder: str | None = None
    level: float = Field(0.05, gt=0, lt=1)
    min_effects: dict[str, float] = {}
    judge: JudgeCheck | None = None


@dataclass(frozen=True)
class MonitorReport:
    """What a check has found.

    Attributes:
        searches, reference: Numbers of searches of the two periods.
        alarms: Each test, with p corrected over all; those with `raised` are alarms.
        left_out: Why tests were left out.
    """

    searches: int
    reference: int
    alarms: Sequence[Alarm]
    left_out: Sequence[str] = ()

    @property
    def raised(self) -> list[Alarm]:
        """The alarms."""
        return [alarm for alarm in self.alarms if alarm.raised]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        tests = [
            {
                "name": alarm.test.name,
                "before": alarm.test.before,
                "now": alarm.test.after,
                "n_before": alarm.test.n_before,
                "n_now": alarm.test.n_after,
                "p": alarm.p,
                "alarm": alarm.raised,
                "finding": alarm.test.finding,
            }
            for alarm in self.alarms
        ]
        counts = {"searches": self.searches, "reference": self.reference}
        return {**counts, "alarms": len(self.raised), "tests": tests, "left_out": list(self.left_out)}

    def metrics(self) -> str:
        """The report in Prometheus' text format, for the textfile collector of node_exporter."""
        lines = []
        for name, help_text, value in (
            ("alarm", "1 if the test raises an alarm", lambda alarm: int(alarm.raised)),
            ("p", "p of the test, corrected over all tests", lambda alarm: alarm.p),
            ("value", "Value of now", lambda alarm: alarm.test.after),
        ):
            lines += [f"# HELP searchlora_drift_{name} {help_text}.", f"# TYPE searchlora_drift_{name} gauge"]
            lines += [
                f"searchlora_drift_{name}{{test={json.dumps(alarm.test.name, ensure_ascii=False)}}} {value(alarm):g}"
                for alarm in self.alarms
            ]
        return "\n".join(lines) + "\n"


def read_config(path: str | Path) -> MonitorConfig:
    """The settings in a YAML file; paths are relative to the working folder.

    Raises:
        DataError: if the file cannot be read.
        UsageError: for an unknown key or an invalid value.
    """
    config = read_settings(path, MonitorConfig)
    if unknown := sorted(config.min_effects.keys() - MIN_EFFECTS.keys()):
        fix = f"Tests: {', '.join(MIN_EFFECTS)}."
        raise UsageError(f"'min_effects': there is no test '{unknown[0]}'", where=str(path), fix=fix)
    return config


def monitor(config: MonitorConfig, now: float | None = None) -> MonitorReport:
    """Compare the searches of the last days with those before; the log keeps the report, for `/v1/production`.

    Args:
        now: End of the window in seconds since 1970; None: of the clock.

    Raises:
        DataError, EngineError: if the log or a file cannot be read.
        BaseModelError: for an unknown encoder.
    """
    end = time.time() if now is None else now
    with closing(EventLog(config.events, create=False)) as log:
        report = _compared(config, log, end)
        log.set_note(f"{_NOTE}{config.pipeline or ''}", json.dumps(finite({"time": end, **report.to_json()})))
    return report


def last_reports(log: EventLog) -> dict[str, Any]:
    """Pipeline, or "" for all -> the last report: `MonitorReport.to_json` with its `time` in seconds since 1970."""
    return {name: json.loads(text) for name, text in log.notes(_NOTE).items()}


def _compared(config: MonitorConfig, log: EventLog, end: float) -> MonitorReport:
    begin = end - config.window_days * _DAY_S
    before, after = (
        _Period.of(search for search in log.searches(*period) if config.pipeline in (None, search[0]["pipeline"]))
        for period in ((begin - config.reference_days * _DAY_S, begin), (begin, end))
    )
    encode = _encoder(config.encoder)
    tests = list(_tests(before, after, encode))
    if config.training is not None:
        trained = [str(row.data[config.training.field]) for row in _rows(config.training)]
        test = queries_test(trained, after.first_queries, encode)
        if test is not None:
            finding = test.finding.replace("the queries", "the queries and those of training")
            tests.append(replace(test, name="queries, training", finding=finding))
    left_out = []
    users = len(before.queries), len(after.queries)
    if min(users) < LEAST:
        left_out.append(f"a period has fewer than {LEAST} users: before {users[0]}, now {users[1]}")
    effects = {**MIN_EFFECTS, **config.min_effects}
    found = alarms(tests, {test.name: _effect(test.name, effects) for test in tests}, config.level)
    if config.judge is not None:
        of_judge = _judge_alarm(config.judge)
        if isinstance(of_judge, str):
            left_out.append(of_judge)
        else:
            found.append(of_judge)
    return MonitorReport(after.searches, before.searches, found, left_out)


def _effect(name: str, effects: Mapping[str, float]) -> float:
    """The least effect for a test, whose name may go on with a stage: `invalid, shop-rewriter`."""
    return effects[name.partition(",")[0]]


@dataclass
class _Period:
    """What tests read of a period; each mapping is by user, see `user_of`."""

    searches: int = 0
    queries: dict[str, list[str]] = field(default_factory=dict)
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, searches: Iterable[Search]) -> _Period:
        period = cls()
        for event, feedback in searches:
            period.searches += 1
            user = user_of(event)
            period.queries.setdefault(user, []).append(event["query"])
            period._add("failed", user, bool(event.get(FAILED)))
            if event.get(FAILED):
                continue
            period._add("no hits", user, not event["hits"])
            period._add("chosen", user, bool(chosen(event, feedback)))
            for stage in event["stages"]:
                period._add_stage(user, stage)
        return period

    @property
    def first_queries(self) -> list[str]:
        """The first query of each user: a classifier would know a user again by the others."""
        return [queries[0] for queries in self.queries.values()]

    def _add(self, name: str, user: str, value: float) -> None:
        self.values.setdefault(name, {}).setdefault(user, []).append(float(value))

    def _add_stage(self, user: str, stage: Mapping[str, Any]) -> None:
        """Flags of a stage, and the label and probability of what it wrote. A new version is the same stage."""
        if "adapter" not in stage and stage["kind"] != "classical":
            return
        name = str(stage["label"]).partition("@")[0]
        for flag in ("invalid", "skipped", "undecided"):
            self._add(f"{flag}, {name}", user, any(each.startswith(flag) for each in stage["flags"]))
        for field_name, value in stage["output"].items():
            if isinstance(value, str) and field_name not in ("query", "answer"):
                self.labels.setdefault(f"labels, {name}", {}).setdefault(user, value)
            elif isinstance(value, Mapping) and isinstance(value.get("probability"), float):
                self._add(f"probability, {name}", user, value["probability"])


def _tests(before: _Period, after: _Period, encode: Callable[[Sequence[str]], Any] | None) -> Iterator[DriftTest]:
    by_query: Mapping[str, tuple[str, Callable[[str], float]]] = {
        "words": ("words of a query", lambda query: len(words(query))),
        "other letters": ("queries with letters beyond Latin", has_other_letters),
    }
    candidates = [
        queries_test(before.first_queries, after.first_queries, encode),
        words_test(before.queries, after.queries) if before.queries else None,
    ]
    for name, (says, of) in by_query.items():
        one, other = (
            {session: [float(of(query)) for query in queries] for session, queries in period.queries.items()}
            for period in (before, after)
        )
        candidates.append(values_test(name, one, other, says))
    for name in before.values.keys() & after.values.keys():
        candidates.append(values_test(name, before.values[name], after.values[name], name))
    for name in before.labels.keys() & after.labels.keys():
        first, last = ([*period.labels[name].values()] for period in (before, after))
        candidates.append(labels_test(name, first, last, name))
    yield from sorted(filter(None, candidates), key=lambda test: test.name)


def _judge_alarm(check: JudgeCheck) -> Alarm | str:
    """An alarm if the 95% interval of kappa is below what is asked for; why there is none, without an interval."""
    human, judged = read_qrels(check.human), read_qrels(check.judged)
    pairs = {
        topic: [(grade, judged[topic][document]) for document, grade in grades.items() if document in judged[topic]]
        for topic, grades in human.items()
        if topic in judged
    }
    pairs = {topic: graded for topic, graded in pairs.items() if graded}
    if not pairs:
        raise DataError("no pair has a grade of the judge, too", where=f"{check.human}, {check.judged}")
    scale = as_scale({grade for graded in pairs.values() for pair in graded for grade in pair})
    tables = np.stack(
        [confusion([one for one, _ in graded], [other for _, other in graded], scale) for graded in pairs.values()]
    )
    n = sum(map(len, pairs.values()))
    found = estimate(partial(kappa, weights=disagreement(scale)), tables.astype(float), n, bounds=(-1, 1))
    if math.isnan(found.high):
        return (
            f"no interval of the judge's kappa from {n} pairs of {len(pairs)} topics: more topics and grades are needed"
        )
    finding = (
        f"Cohen's kappa of the judge with people is {found.value:.3f} ({found.low:.3f} to {found.high:.3f}) over {n}"
        f" pairs of {len(pairs)} topics; at least {check.min_kappa:g}"
    )
    raised = found.high < check.min_kappa
    return Alarm(DriftTest("judge", check.min_kappa, found.value, n, n, 1.0, finding), 1.0, raised)


def _encoder(name: str | None) -> Callable[[Sequence[str]], Any] | None:
    if name is None:
        return None
    from searchlora.systems.encoder_baseline import FrozenEncoder

    return FrozenEncoder(name).encode_once


def _rows(training: TrainingQueries) -> Iterator[Any]:
    yield from strict(read_rows(training.file, [training.field]))


def write_report(report: MonitorReport, out: Path | None, metrics: Path | None) -> None:
    """Write the report as JSON, and as Prometheus' text, atomically. Raises `DataError`."""
    if out is not None:
        with atomic_text(out) as file:
            file.write(json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n")
    if metrics is not None:
        with atomic_text(metrics) as file:
            file.write(report.metrics())
