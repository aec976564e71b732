"""The audit log: what is recorded, and each way to change it afterwards."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from searchlora.adapters.aliases import ALIASES
from searchlora.adapters.audit import AUDIT, AuditLog, actor, check_audit
from searchlora.adapters.manifest import MANIFEST
from searchlora.adapters.object_store import ObjectStore
from searchlora.adapters.store import Store
from searchlora.adapters.transfer import pull, push
from searchlora.errors import StoreError


def kinds(store):
    return [(entry.what, entry.subject) for entry in check_audit(store).entries]


def problems(store, head=None):
    return check_audit(store, head).problems


@pytest.fixture
def moved(store, trained, draft):
    """A store with two versions and three moves of one alias."""
    for _ in range(2):
        store.add("echo", trained, draft)
    for version in (1, 2, 1):
        store.alias("echo", "production", version, f"to {version}")
    return store


def lines(store):
    return (store.root / AUDIT).read_text().splitlines()


def write(store, rows):
    (store.root / AUDIT).write_text("".join(f"{row}\n" for row in rows))


def test_what_is_done_to_a_store_is_recorded(moved, tmp_path):
    moved.split("echo", "production", {1: 0.9, 2: 0.1})
    moved.rollback("echo", "production")
    push("echo@1", str(tmp_path / "there"), store=moved)
    moved.remove("echo@2")
    other = Store(tmp_path / "other")
    pull(str(tmp_path / "there"), store=other)
    assert kinds(moved) == [
        *(("add", "echo@1"), ("add", "echo@2"), *[("alias", "echo")] * 3),
        *(("weights", "echo"), ("rollback", "echo"), ("push", "echo@1"), ("remove", "echo@2")),
    ]
    assert kinds(other) == [("pull", "echo@1")]
    assert problems(moved) == problems(other) == []
    entry = check_audit(moved).entries[4]
    assert "@" in entry.who and entry.detail == "production -> version 1 (before: 2): to 1"
    assert str(tmp_path / "there") in check_audit(other).entries[0].detail


def test_an_action_that_fails_is_recorded_as_failed(moved, tmp_path):
    (tmp_path / "there" / "README.md").mkdir(parents=True)  # a file cannot be written over it
    with pytest.raises(StoreError):
        push("echo@1", str(tmp_path / "there"), store=moved)
    last = check_audit(moved).entries[-2:]
    assert [(entry.what, entry.of) for entry in last] == [("push", None), ("failed", last[0].number)]
    assert problems(moved) == []


def test_what_cannot_be_recorded_is_not_done(moved):
    (moved.root / AUDIT).unlink()
    (moved.root / AUDIT).mkdir()
    with pytest.raises(StoreError, match=r"audit\.jsonl: cannot be written"):
        moved.alias("echo", "production", 2)
    assert moved.target("echo", "production") == 1


def altered(rows):
    row = json.loads(rows[3])
    return [*rows[:3], json.dumps(row | {"who": "mallory@host"}), *rows[4:]]


def rehashed(rows):
    """As `altered`, with the hash that fits the new content."""
    from searchlora.adapters.audit import AuditEntry

    entry = AuditEntry.model_validate_json(rows[3]).model_copy(update={"who": "mallory@host"})
    entry = entry.model_copy(update={"hash": entry.expected_hash})
    return [*rows[:3], entry.model_dump_json(exclude_none=True), *rows[4:]]


ATTACKS = {
    "altered": (altered, "Entry 4 was altered"),
    "rehashed": (rehashed, "Line 5 has entry 5, which does not continue"),
    "removed": (lambda rows: [*rows[:2], *rows[3:]], "Line 3 has entry 4, which does not continue"),
    "first removed": (lambda rows: rows[1:], "Line 1 has entry 2, which does not continue"),
    "reordered": (lambda rows: [*rows[:2], rows[3], rows[2], rows[4]], "Line 3 has entry 4, which does not continue"),
    "repeated": (lambda rows: [*rows, rows[-1]], "Line 6 has entry 5, which does not continue"),
    "no entry": (lambda rows: [*rows[:2], "{}", *rows[3:]], "Line 3 of the log is not an entry"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_changed_log_says_where_its_chain_breaks(moved, attack):
    change, problem = ATTACKS[attack]
    assert problems(moved) == []
    write(moved, change(lines(moved)))
    assert problems(moved)[0].startswith(problem)


def test_a_log_that_is_cut_at_its_end_is_found_by_the_store_and_by_a_head(moved):
    head = check_audit(moved).head
    write(moved, lines(moved)[:-1])
    assert problems(moved) == ["The aliases of echo have 1 moves that the log lacks."]
    assert "was cut at its end, or written anew" in problems(moved, head)[0]


def test_a_log_and_a_history_that_are_both_written_anew_are_found_by_a_head(moved):
    head = check_audit(moved).head
    moved.alias("echo", "production", 2)
    assert problems(moved, head) == []  # the log has grown since
    (moved.root / AUDIT).unlink()
    (moved.root / "echo" / ALIASES).unlink()
    moved.alias("echo", "production", 2, "it has always been there")
    assert problems(moved) == []
    assert len(problems(moved, head)) == 1


def test_a_history_that_contradicts_the_log_is_found(moved):
    file = moved.root / "echo" / ALIASES
    good = json.loads(file.read_text())
    for rows, problem in [
        ([{**good[0], "reason": "another"}, *good[1:]], "Entry 3: the history of the aliases of echo was altered"),
        (good[:-1], "Entry 5: the aliases of echo have no move 3"),
        ([*good, {**good[-1], "to": 2}], "The aliases of echo have 1 moves that the log lacks"),
    ]:
        file.write_text(json.dumps(rows))
        assert problems(moved)[0].startswith(problem)
    moved.alias("echo", "production", 1)  # the log covers the forged move, and still lacks it
    assert problems(moved) == ["The aliases of echo have 1 moves after entry 5 that the log lacks."]


def test_a_version_that_contradicts_the_log_is_found(moved):
    manifest = moved.root / "echo" / "1" / MANIFEST
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace('"task_version": ', '"task_version":  '))
    assert problems(moved) == ["Entry 1: the manifest of echo@1 was altered."]
    manifest.unlink()
    assert problems(moved) == ["Entry 1: the manifest of echo@1 cannot be read (No such file or directory)."]
    (moved.root / "echo" / "2").rename(moved.root / "echo" / "7")
    assert "Entry 2: echo@2 is not in the store. Its writer was killed, or it was deleted." in problems(moved)
    assert check_audit(moved).notes == ["1 versions are not in the log, such as echo@7."]


def test_a_store_that_is_older_than_its_log_is_no_problem(moved):
    (moved.root / AUDIT).unlink()
    assert problems(moved) == []
    moved.alias("echo", "production", 2)
    report = check_audit(moved)
    assert report.problems == []
    assert report.notes == [
        "3 moves of the aliases of echo are older than the log.",
        "2 versions are not in the log, such as echo@1.",
    ]


def _append(root, start, count):
    start.wait(30)
    for number in range(count):
        AuditLog(root).append("push", f"echo@{number + 1}")


@pytest.mark.slow
def test_two_processes_append_one_chain(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    writers = [context.Process(target=_append, args=(tmp_path, start, 25)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    report = check_audit(Store(tmp_path))
    assert len(report.entries) == 50 and report.problems == []
    assert [entry.number for entry in report.entries] == list(range(1, 51))


_WRITER = """
import sys
from pathlib import Path
from searchlora.adapters.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
while True:
    print(log.append("push", "echo@1", "x" * 400).number, flush=True)
"""


@pytest.mark.slow
def test_a_killed_writer_loses_no_entry_that_it_has_reported(tmp_path):
    seen = 0
    for pause in (0.0, 0.01, 0.02, 0.03, 0.05):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        seen = int(writer.stdout.readline())
        time.sleep(pause)
        os.kill(writer.pid, signal.SIGKILL)
        seen = int((writer.stdout.read().splitlines() or [seen])[-1])
        writer.wait()
        writer.stdout.close()
        report = check_audit(Store(tmp_path))
        assert report.problems == [] and len(report.entries) in (seen, seen + 1)


def test_half_an_entry_is_removed_by_the_next_writer(moved):
    with (moved.root / AUDIT).open("a") as out:
        out.write(lines(moved)[-1][:50])
    assert problems(moved) == []
    moved.alias("echo", "production", 2)
    assert problems(moved) == [] and len(lines(moved)) == 6


def test_a_move_whose_writer_was_killed_is_told_until_the_alias_is_moved_again(moved):
    """The entry is written, and the move is not."""
    history = (moved.root / "echo" / ALIASES).read_text()
    moved.alias("echo", "production", 2)
    (moved.root / "echo" / ALIASES).write_text(history)
    assert "have no move 4. Its writer was killed" in problems(moved)[0]
    Store(moved.root).alias("echo", "production", 2)
    report = check_audit(Store(moved.root))
    assert report.problems == []
    assert report.notes == ["The move of entry 6 was never made; its writer was killed."]


def test_a_store_at_a_url_has_a_log_that_writers_share(trained, draft, tmp_path, monkeypatch):
    url = f"memory://audit/{tmp_path.name}"
    one = Store(url)
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "another machine"))
    two = Store(url)
    one.add("echo", trained, draft)
    two.add("echo", trained, draft)
    stale = two.alias_history("echo")
    one.alias("echo", "production", 1)
    with pytest.raises(StoreError, match="from another machine"):
        two._record_move("echo", stale.move("production", 2, None)[0])
    assert isinstance(two, ObjectStore)
    token = actor.set("key ann")
    two.alias("echo", "production", 2)
    actor.reset(token)
    two.remove("echo@1")
    fresh = one.copied_to(tmp_path / "fresh")
    report = check_audit(fresh)
    assert report.problems == [] and report.entries[5].who == "key ann"
    assert [entry.what for entry in report.entries] == [*["add"] * 2, "alias", "alias", "failed", "alias", "remove"]
    assert problems(fresh, "ab" * 32) != []
    record = f"{one._remote}/echo/aliases/000000001"
    one._system.pipe_file(record, one._system.cat_file(record).replace(b'"to":1', b'"to":2'))
    changed = one.copied_to(tmp_path / "fresher")
    assert problems(changed) == [f"Entry {n}: the history of the aliases of echo was altered." for n in (3, 6)]


def test_two_writers_at_a_url_append_one_chain(tmp_path):
    stores = [Store(f"memory://audit/{tmp_path.name}") for _ in range(2)]
    start = threading.Barrier(2)

    def append(store):
        start.wait(30)
        for number in range(20):
            store.audit.append("push", f"echo@{number + 1}")

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(append, stores))
    report = check_audit(stores[0])
    assert report.problems == [] and [entry.number for entry in report.entries] == list(range(1, 41))


def test_the_command_prints_the_head_and_fails_for_a_broken_chain(moved, cli):
    called = cli("adapters", "audit", "--store", moved.root)
    head = check_audit(moved).head
    assert called.code == 0 and called.out.splitlines()[-1] == f"Head: {head}"
    assert cli("adapters", "audit", "--store", moved.root, "--head", head).code == 0
    write(moved, altered(lines(moved)))
    broken = cli("adapters", "audit", "--store", moved.root, "--json")
    assert broken.code == 1 and json.loads(broken.out)["problems"][0].startswith("Entry 4 was altered")
