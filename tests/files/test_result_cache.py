"""One cache of keyed results: kills, several processes, damaged files, limits."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.files import result_cache
from searchlora.files.result_cache import MIN_BYTES, ResultCache, cache_key


@pytest.fixture
def file(tmp_path):
    return tmp_path / "folder" / "results.sqlite"


def test_values_outlive_the_process_and_keep_their_types(file):
    value = {"text": "ä\0", "list": [1, 0.5, True, None], "empty": {}}
    ResultCache(file).put("a", value, label="system a, \ud800")
    ResultCache(file).put_all({"b": 1, "a2": None})
    cache = ResultCache(file)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (value, 1, None, 3)
    cache.put("a", "again")
    assert ResultCache(file).get("a") == "again"


def test_without_a_file_nothing_is_stored():
    cache = ResultCache(None)
    cache.put("a", 1)
    assert cache.get("a") is None and len(cache) == 0


def test_a_key_depends_on_each_part_and_its_type():
    assert cache_key("a", {"b": 1, "c": 2}) == cache_key("a", {"c": 2, "b": 1}) != cache_key("a", {"b": 1})
    assert len({cache_key(*parts) for parts in (["ab"], ["a", "b"], [["a", "b"]], ["1"], [1], [1.0], [True])}) == 7
    for part in (float("nan"), b"bytes"):
        with pytest.raises((TypeError, ValueError)):
            cache_key(part)


def test_values_that_are_no_json_are_refused_before_anything_is_written(file):
    cache = ResultCache(file)
    for value in (float("inf"), {1, 2}):
        with pytest.raises((TypeError, ValueError)):
            cache.put_all({"a": 1, "b": value})
    assert len(cache) == 0


_WRITER = """
import sys
from pathlib import Path
from searchlora.files.result_cache import ResultCache
cache = ResultCache(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    cache.put(f"{sys.argv[2]} {number}", number)
    print(number, flush=True)
"""


@pytest.mark.slow
def test_confirmed_values_survive_a_kill(file):
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, file, "a", "1000000"], stdout=subprocess.PIPE, text=True)
    confirmed = [writer.stdout.readline() for _ in range(30)]
    writer.send_signal(signal.SIGKILL)
    confirmed += writer.stdout.readlines()
    writer.wait()
    numbers = [int(line) for line in confirmed if line.endswith("\n")]
    cache = ResultCache(file)
    assert [cache.get(f"a {number}") for number in numbers] == numbers
    assert len(numbers) <= len(cache) <= len(numbers) + 1
    cache.put("after", 1)


@pytest.mark.slow
def test_processes_and_threads_write_together(file):
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, file, name, "40"], stdout=subprocess.DEVNULL) for name in "ab"
    ]
    cache = ResultCache(file)
    threads = [
        threading.Thread(target=lambda name=name: [cache.put(f"{name} {number}", number) for number in range(20)])
        for name in "cd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(cache) == 2 * 40 + 2 * 20


@pytest.mark.parametrize(
    "stored",
    ["'nonsense'", "5e999", "x'ff00ff'", "printf('%.*c', 200000, '[')", "'[NaN]'", '\'{"a": 1, "a": 2}\'', "''"],
)
def test_a_damaged_entry_is_unknown_and_can_be_written_again(file, stored):
    ResultCache(file).put_all({"a": 1, "b": 2})
    with sqlite3.connect(file) as database:
        database.execute(f"UPDATE results SET value = {stored} WHERE key = 'a'")
    cache = ResultCache(file)
    assert (cache.get("a"), cache.get("b")) == (None, 2)
    cache.put("a", 3)
    assert cache.get("a") == 3


def _damaged(file, how):
    ResultCache(file).put_all({str(number): "x" * 1000 for number in range(100)})
    content = bytearray(file.read_bytes())
    if how == "text":
        content[:] = b"q1 Q0 d1 1 0.5 bm25\n" * 100
    elif how == "pages":
        content[4096:] = b"\xff" * (len(content) - 4096)
    else:
        del content[8000:]
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["text", "pages", "cut"])
def test_a_damaged_file_is_renamed_and_the_cache_begins_anew(file, how):
    _damaged(file, how)
    content = file.read_bytes()
    with pytest.warns(UserWarning, match=r"results\.sqlite: cannot be used as a cache .* renamed to .*damaged-1;"):
        cache = ResultCache(file)
        assert [cache.get(str(number)) for number in range(100)] == [None] * 100
    cache.put("a", 1)
    assert ResultCache(file).get("a") == 1
    assert file.with_name("results.sqlite.damaged-1").read_bytes() == content
    _damaged(file, how)
    with pytest.warns(UserWarning, match=r"damaged-2;"):
        ResultCache(file).put_all({str(number): 1 for number in range(200)})
    assert ResultCache(file).get("150") == 1


SCHEMAS = [
    "CREATE TABLE documents (id TEXT)",
    "DROP INDEX by_use; DROP TABLE results; CREATE TABLE results (a, b)",
    """DROP INDEX by_use; DROP TABLE results; CREATE VIEW results AS WITH RECURSIVE c (key, value, label, used) AS
    (SELECT '', '', '', 1 UNION ALL SELECT key, value, label, used + 1 FROM c) SELECT * FROM c""",
    """CREATE TRIGGER endless AFTER INSERT ON results BEGIN INSERT INTO results WITH RECURSIVE c (x) AS
    (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x, x, x, x FROM c; END""",
]


@pytest.mark.parametrize("script", SCHEMAS)
def test_a_foreign_database_is_refused_or_renamed(file, script):
    ResultCache(file).put("a", 1)
    with sqlite3.connect(file) as database:
        database.executescript(script)
    with pytest.raises(DataError, match=r"results\.sqlite: cannot be used as a cache \(it has '.*', which no cache"):
        ResultCache(file, refuse_foreign=True)
    with pytest.warns(UserWarning, match="which no cache has"):
        assert ResultCache(file).get("a") is None


def test_a_file_that_a_user_named_by_mistake_stays(tmp_path):
    run = tmp_path / "run.trec"
    run.write_text("q1 Q0 d1 1 0.5 bm25\n" * 100)
    with pytest.raises(DataError, match=r"run\.trec: cannot be used as a cache \(file is not a database\)"):
        ResultCache(run, refuse_foreign=True)
    assert run.read_text().startswith("q1 Q0 d1")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        ResultCache(tmp_path / "pipe")


def test_an_open_cache_goes_on_when_its_file_is_deleted(file):
    cache = ResultCache(file)
    cache.put("a", 1)
    file.unlink()
    assert cache.get("a") is None
    cache.put("b", 2)
    assert ResultCache(file).get("b") == 2


def test_a_full_disk_and_an_unwritable_folder_are_errors_that_name_the_file(file):
    cache = ResultCache(file)
    cache.put("a", 1)
    cache._connected().execute("PRAGMA max_page_count = 10")
    with pytest.raises(DataError, match=r"results\.sqlite: cannot be used as a cache \(database or disk is full\)"):
        cache.put("b", "x" * 100_000)
    assert (cache.get("a"), cache.get("b")) == (1, None)
    with pytest.raises(DataError, match="cannot be used as a cache"):
        ResultCache(file / "below a file")


def test_the_results_used_least_recently_are_evicted(file):
    cache = ResultCache(file, max_bytes=MIN_BYTES)
    for number in range(200):
        cache.put(str(number), "x" * 1000)
        assert cache.get("0") is not None  # used again and again
        assert file.stat().st_size <= 1.2 * MIN_BYTES
    assert cache.get("199") is not None and cache.get("1") is None and 20 < len(cache) < 60
    with pytest.raises(UsageError, match="a cache of 5 bytes holds nothing"):
        ResultCache(file, max_bytes=5)


def test_reads_are_written_together_and_seen_by_another_process(file, monkeypatch):
    monkeypatch.setattr(result_cache, "_READS", 10)
    ResultCache(file).put_all({str(number): "x" * 1000 for number in range(50)})
    reading = ResultCache(file, max_bytes=MIN_BYTES)
    for number in range(10):
        reading.get(str(number))
    ResultCache(file, max_bytes=MIN_BYTES).put_all({f"new {number}": "x" * 1000 for number in range(10)})
    assert reading.get("0") is not None and reading.get("20") is None


@pytest.mark.parametrize("used", ["'zz'", "9223372036854775807", "-9223372036854775808"])
def test_numbers_that_somebody_wrote_into_the_file_end_no_run(file, used):
    ResultCache(file).put_all({str(number): "x" * 1000 for number in range(50)})
    with sqlite3.connect(file) as database:
        database.execute(f"UPDATE results SET used = {used}")
    cache = ResultCache(file, max_bytes=MIN_BYTES)
    for number in range(100):
        cache.put(f"new {number}", "x" * 1000)
    assert len(cache) < 60


def test_an_insertion_and_its_eviction_are_one_transaction(file):
    ResultCache(file).put_all({str(number): "x" * 1000 for number in range(60)})
    cache = ResultCache(file, max_bytes=MIN_BYTES)
    cache._connected().execute("CREATE TEMP TRIGGER t BEFORE DELETE ON results BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(DataError, match="no"):
        cache.put("new", "x" * 1000)
    assert len(cache) == 60 and cache.get("new") is None
