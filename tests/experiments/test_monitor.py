"""`searchlora monitor`: injected drifts raise an alarm, a quiet day does not, and people and machines are told."""

from __future__ import annotations

import json
import random
import time

import pytest
import yaml

from searchlora.errors import DataError, UsageError
from searchlora.eval.trec import write_qrels
from searchlora.events.log import EventLog
from searchlora.experiments.monitor import MonitorConfig, monitor, read_config
from tests.eval.test_drift import LAW, SHOP
from tests.events.recorded import search_event

DAY_S = 86_400
NOW = time.time()


def _id(log, ago, number):
    """Ids of one moment are in random order, on which it would depend whether a test of 5% raises an alarm."""
    return log.new_id(NOW - ago * DAY_S - 60 + number / 100)


def day(log, ago, n=150, words=SHOP, hits=0.95, intent=0.5, invalid=0.02, seed=0):
    """Searches of sessions of their own, some days ago."""
    rng = random.Random(f"{ago} {seed}")
    rows = []
    for number in range(n):
        flags = ["invalid: empty"] if rng.random() < invalid else []
        shown = ("P1", "P2") if rng.random() < hits else ()
        event = search_event(" ".join(rng.choices(words, k=3)), hits=shown, flags=flags, session=f"{ago} {number}")
        event["stages"][0] |= {"adapter": "rewriter@2", "label": "rewriter@2"}
        event["stages"][0]["output"] = {"intent": "buy" if rng.random() < intent else "ask"}
        id_ = _id(log, ago, number)
        rows.append({"id": id_, "time": 0, **event})
    log.write(rows, [])


@pytest.fixture
def log(tmp_path):
    log = EventLog(tmp_path / "events")
    for ago in range(1, 8):
        day(log, ago)
    return log


def report(tmp_path, **more):
    return monitor(MonitorConfig(events=str(tmp_path / "events"), **more), NOW)


def test_a_day_like_those_before_raises_no_alarm(log, tmp_path):
    day(log, 0)
    found = report(tmp_path)
    assert (found.searches, found.reference) == (150, 1050)
    assert found.raised == []
    assert {alarm.test.name for alarm in found.alarms} == {
        *("queries", "new words", "words", "other letters", "failed", "no hits", "chosen"),
        *("invalid, rewriter", "skipped, rewriter", "undecided, rewriter", "labels, rewriter"),
    }


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"words": LAW}, {"queries", "new words"}),
        ({"words": [*SHOP, "кровать", "лампа", "стол", "шкаф"]}, {"queries", "new words", "other letters"}),
        ({"words": [*SHOP, "đèn–bàn", "ghế", "tủ–sách", "giường"]}, {"queries", "new words"}),  # a Latin script
        ({"hits": 0.6}, {"no hits"}),
        ({"intent": 0.9}, {"labels, rewriter"}),
        ({"invalid": 0.4}, {"invalid, rewriter"}),
    ],
)
def test_what_has_changed_is_named(log, tmp_path, change, names):
    day(log, 0, **change)
    assert {alarm.test.name for alarm in report(tmp_path).raised} == names


def test_users_who_ask_alike_several_times_are_no_drift(log, tmp_path):
    """Each user has a word of his own: a classifier that saw half of his queries would know the others again."""
    rng = random.Random(4)
    for ago in (0, 1, 2, 3):
        rows = []
        for user in range(100):
            own = f"thing{rng.randrange(10**6)}"
            for number in range(4):
                event = search_event(f"{own} {rng.choice(SHOP)}", user=f"{ago} {user}", pipeline="chatty")
                rows.append({"id": _id(log, ago, 4 * user + number), "time": 0, **event})
        log.write(rows, [])
    found = report(tmp_path, pipeline="chatty")
    (queries,) = [alarm for alarm in found.alarms if alarm.test.name == "queries"]
    assert queries.test.n_after <= 100
    assert not queries.raised


def test_a_log_that_does_not_exist_is_an_error_and_no_quiet_day(tmp_path):
    with pytest.raises(UsageError, match="there are no events"):
        monitor(MonitorConfig(events=str(tmp_path / "typo")))


def test_queries_of_training_are_compared_too(log, tmp_path):
    day(log, 0)
    rng = random.Random(1)
    for name, words in (("same", SHOP), ("other", LAW)):
        rows = [json.dumps({"text": " ".join(rng.choices(words, k=3))}) for _ in range(200)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")

    def raised(name):
        found = report(tmp_path, training={"file": str(tmp_path / f"{name}.jsonl"), "field": "text"})
        return {alarm.test.name for alarm in found.raised}

    assert (raised("same"), raised("other")) == (set(), {"queries, training"})


def test_a_pipeline_and_periods_are_chosen(log, tmp_path):
    day(log, 0, words=LAW)
    assert report(tmp_path, pipeline="another").searches == 0
    assert report(tmp_path, window_days=2, reference_days=3).searches == 300
    few = report(tmp_path, window_days=0.0001)
    assert few.left_out[0].startswith("a period has fewer than 30 users")


def test_a_judge_whose_kappa_is_surely_below_raises_an_alarm(log, tmp_path):
    day(log, 0)
    rng = random.Random(2)
    human = {f"t{topic}": {f"d{place}": rng.randint(0, 1) for place in range(5)} for topic in range(40)}
    write_qrels(tmp_path / "human", human)
    write_qrels(tmp_path / "good", human)
    random_grades = {topic: {document: rng.randint(0, 1) for document in row} for topic, row in human.items()}
    write_qrels(tmp_path / "bad", random_grades)

    def raised(name):
        judge = {"human": str(tmp_path / "human"), "judged": str(tmp_path / name), "min_kappa": 0.4}
        return [alarm.test.name for alarm in report(tmp_path, judge=judge).raised]

    assert (raised("good"), raised("bad")) == ([], ["judge"])
    write_qrels(tmp_path / "few", {"t0": random_grades["t0"]})
    judge = {"human": str(tmp_path / "human"), "judged": str(tmp_path / "few"), "min_kappa": 0.99}
    few = report(tmp_path, judge=judge)
    assert (few.raised, "from 5 pairs of 1 topics" in few.left_out[-1]) == ([], True)
    write_qrels(tmp_path / "none", {"x": {"d": 1}})
    with pytest.raises(DataError, match="no pair has a grade"):
        raised("none")


def test_the_command_reports_and_exits_with_3_for_an_alarm(cli, log, tmp_path):
    config = tmp_path / "monitor.yaml"
    config.write_text(yaml.safe_dump({"events": str(tmp_path / "events")}), encoding="utf-8")
    day(log, 0)
    quiet = cli("monitor", config, "--out", tmp_path / "report.json", "--metrics", tmp_path / "drift.prom")
    assert quiet.code == 0, quiet.err
    assert "150 searches now, 1,050 before." in quiet.out
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["alarms"] == 0
    day(log, 0, 300, hits=0.2, seed=1)
    loud = cli("monitor", config, "--metrics", tmp_path / "drift.prom")
    assert loud.code == 3
    assert "ALARM  no hits" in loud.out
    assert 'searchlora_drift_alarm{test="no hits"} 1' in (tmp_path / "drift.prom").read_text(encoding="utf-8")
    assert json.loads(cli("monitor", config, "--json").out)["alarms"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("window_days: 1", "events"),
        ("events: e\nwindow_days: 0", "window_days"),
        ("events: e\nmin_effects: {speed: 1}", "no test 'speed'"),
        ("events: e\ncolour: red", "colour"),
        ("[", "monitor.yaml"),
    ],
)
def test_settings_that_are_none_are_refused(tmp_path, text, said):
    (tmp_path / "monitor.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        read_config(tmp_path / "monitor.yaml")
