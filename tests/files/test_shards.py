"""Jobs in shards: parts by content, kills, and a merge that checks counts and keys."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.files import shards as module
from searchlora.files.shards import Job, Parts, Shard
from tests.child_scripts import run_script


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "PART_ROWS", 10)


@pytest.fixture
def calls() -> list[list[int]]:
    return []


@pytest.fixture
def job(calls):
    """Squares of numbers, in batches of 4; `calls` has the rows of each batch."""

    def made(rows=range(95), **more):
        return Job("squares", rows, lambda batch: calls.append(list(batch)) or [n * n for n in batch], batch=4, **more)

    return made


def test_any_number_of_shards_gives_the_same_rows(job, tmp_path):
    expected = [n * n for n in range(95)]
    for count in (1, 2, 4, 12):
        parts = Parts(tmp_path / str(count))
        for number in range(count, 0, -1):
            parts.compute(job(), Shard(number, count))
        merged = parts.merged()
        assert (list(merged), list(merged), merged.rows) == (expected, expected, 95)


def test_what_is_complete_is_not_computed_again_for_another_number_of_shards(job, calls, tmp_path):
    parts = Parts(tmp_path / "parts")
    parts.compute(job(), Shard(1, 2))  # parts 0, 2, 4, 6, 8
    calls.clear()
    for number in range(1, 4):
        parts.compute(job(), Shard(number, 3))
    assert sorted(row for batch in calls for row in batch) == [n for n in range(95) if n // 10 % 2]
    assert list(parts.merged()) == [n * n for n in range(95)]


def test_a_changed_row_changes_its_part_only(job, calls, tmp_path):
    parts = Parts(tmp_path / "parts")
    parts.compute(job())
    calls.clear()
    rows = [*range(31), -5, *range(32, 95)]
    parts.compute(job(rows))
    assert [row for batch in calls for row in batch] == [30, -5, *range(32, 40)]
    assert list(parts.merged()) == [n * n for n in rows]


def test_an_error_loses_no_complete_batch(job, calls, tmp_path):
    def fails(batch):
        if 24 in batch:
            raise KeyboardInterrupt
        return [n * n for n in batch]

    parts = Parts(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        parts.compute(Job("squares", range(95), fails, batch=4))
    parts.compute(job())
    assert calls[0] == [24, 25, 26, 27]
    assert list(parts.merged()) == [n * n for n in range(95)]


def test_references_are_read_for_the_parts_of_a_shard_only(job, tmp_path):
    read = []

    def texts(numbers):
        read.extend(numbers)
        return [n + 1 for n in numbers]

    Parts(tmp_path / "parts").compute(job(read=texts), Shard(3, 4))
    assert read == [*range(20, 30), *range(60, 70)]


def test_the_merge_names_what_is_missing_damaged_or_of_other_inputs(job, tmp_path):
    parts = Parts(tmp_path / "parts")
    with pytest.raises(DataError, match=r"there are no complete shards\. Give the first --out"):
        parts.merged()
    parts.compute(job(), Shard(2, 3))
    with pytest.raises(DataError, match=r"2 of 3 shards are not complete: 1/3, 3/3.*--shard"):
        parts.merged()
    parts.compute(job(about={"of": "other"}), Shard(1, 3))
    parts.compute(job(), Shard(3, 3))
    with pytest.raises(DataError, match=r"shard 2 of 3 had other inputs or weights than shard 1"):
        parts.merged()
    parts.compute(job(), Shard(1, 3))
    merged = parts.merged()
    key = json.loads((parts.folder / "shard-1-of-3.json").read_text())["parts"][1][1]
    file = parts.folder / f"{key}.part.jsonl"
    whole = file.read_text()
    for damaged in (whole.replace(key, "0" * 64), whole[: whole.rindex("{")], "", whole + whole.splitlines()[-1]):
        file.write_text(damaged)
        with pytest.raises(DataError, match=r"is damaged: it does not hold the results of 10 rows\. Delete it"):
            list(merged)
    file.write_text(whole[:-9])
    with pytest.raises(DataError, match="is not JSON"):
        list(merged)
    file.unlink()
    with pytest.raises(DataError, match=r"part\.jsonl: is missing"):
        list(merged)
    parts.compute(job(), Shard(1, 3))
    assert list(parts.merged()) == [n * n for n in range(95)]


def test_shards_that_count_other_rows_are_not_merged(job, tmp_path):
    parts = Parts(tmp_path / "parts")
    parts.compute(job(range(95)), Shard(1, 2))
    parts.compute(job(range(80)), Shard(2, 2))
    with pytest.raises(DataError, match="had other inputs"):
        parts.merged()
    file = parts.folder / "shard-2-of-2.json"
    parts.compute(job(range(95)), Shard(2, 2))
    description = json.loads(file.read_text())
    file.write_text(json.dumps({**description, "parts": description["parts"][1:]}))
    with pytest.raises(DataError, match="the parts hold 85 rows of 95"):
        parts.merged()


def test_shards_of_other_weights_are_not_merged(job, tmp_path):
    parts = Parts(tmp_path / "parts")
    parts.compute(job(), Shard(1, 2))
    parts.compute(replace(job(), key="squares by other weights"), Shard(2, 2))
    with pytest.raises(DataError, match="shard 2 of 2 had other inputs or weights than shard 1"):
        parts.merged()


def test_of_several_counts_the_complete_one_is_merged(job, tmp_path):
    """As two commands leave them that began at the same time."""
    parts = Parts(tmp_path / "parts")
    for number in (1, 2):
        parts.compute(job(), Shard(number, 2))
    for count in range(3, 20):
        (parts.folder / f"shard-2-of-{count}.json").write_text((parts.folder / "shard-2-of-2.json").read_text())
    assert list(parts.merged()) == [n * n for n in range(95)]


def test_a_foreign_description_is_named(job, tmp_path):
    parts = Parts(tmp_path / "parts")
    parts.compute(job())
    (parts.folder / "shard-1-of-1.json").write_text('{"about": {}}')
    with pytest.raises(DataError, match=r"shard-1-of-1\.json: is not the description of a shard"):
        parts.merged()


def test_a_part_that_another_process_completes_meanwhile_is_not_computed_again(job, calls, tmp_path, monkeypatch):
    parts = Parts(tmp_path / "parts")
    opened = module.AppendLog

    def late(*arguments):
        monkeypatch.setattr(module, "AppendLog", opened)
        parts.compute(job())  # the other process
        return opened(*arguments)

    monkeypatch.setattr(module, "AppendLog", late)
    parts.compute(job())
    assert sorted(row for batch in calls for row in batch) == list(range(95))
    assert not list(parts.folder.glob("*.log"))


def test_a_part_that_cannot_be_renamed_is_an_error_of_its_folder(job, tmp_path, monkeypatch):
    def fails(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "sync", fails)
    with pytest.raises(DataError, match=r"parts: cannot be written \(No space left on device\)"):
        Parts(tmp_path / "parts").compute(job())


def test_a_kill_during_the_removal_leaves_a_hidden_folder_at_most(job, tmp_path, monkeypatch):
    def dies(folder, **_):
        if folder.exists():
            raise KeyboardInterrupt

    parts = Parts(tmp_path / "out.partial")
    parts.compute(job())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module.shutil, "rmtree", dies)
        parts.remove()
    assert [file.name for file in tmp_path.iterdir()] == [".out.merged"]
    parts.compute(job())
    parts.remove()
    assert not list(tmp_path.iterdir())


def test_an_error_removes_no_folder_that_was_there(tmp_path):
    parts = Parts(tmp_path / "parts")
    for there in (False, True):
        with pytest.raises(KeyboardInterrupt), parts.removed_if_empty():
            parts.folder.mkdir(exist_ok=True)
            raise KeyboardInterrupt
        assert parts.folder.exists() == there
        parts.folder.mkdir(exist_ok=True)


def test_an_error_keeps_results_also_in_folders_of_the_folder(job, tmp_path):
    parts = Parts(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt), parts.removed_if_empty():
        Parts(parts.folder / "deep").compute(job(range(5)))
        raise KeyboardInterrupt
    assert list(Parts(parts.folder / "deep").merged()) == [n * n for n in range(5)]


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "-1/4", "1/4 ", "a/b", "1/4/4"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UsageError, match="is not a shard"):
        Shard.parse(text)


KILLED = """
import os, signal, sys
from pathlib import Path
from searchlora.files import append_log, shards

shards.PART_ROWS = 10
writes = int(sys.argv[2])
write = os.write

def dies(file, content):
    global writes
    writes -= content.endswith(b"}\\n")  # a row of a log
    if writes < 0:
        write(file, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(file, content)

append_log.os.write = dies
job = shards.Job("squares", range(95), lambda batch: [n * n for n in batch], batch=4)
shards.Parts(Path(sys.argv[1])).compute(job)
"""


@pytest.mark.slow
@pytest.mark.parametrize("writes", [0, 1, 3, 4, 5, 37])
def test_a_kill_in_the_middle_of_a_write_loses_one_batch(job, calls, tmp_path, writes):
    folder = tmp_path / "parts"
    assert run_script(KILLED, folder, writes).returncode == -signal.SIGKILL
    parts = Parts(folder)
    parts.compute(job())
    batches = writes // 4 * 3 + max(0, writes % 4 - 1)  # a part of 10 rows has a key and 3 batches
    assert len(calls) == 29 - batches
    assert list(parts.merged()) == [n * n for n in range(95)]
