"""One resumable writer: kills, full disks, second processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.files import append_log
from searchlora.files.append_log import AppendLog

KEY = {"version": 1}


def rows(file, key=None):
    with AppendLog(file, key) as log:
        return list(log)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "folder" / "rows.log"


def test_rows_outlive_the_process_and_belong_to_a_key(file):
    with AppendLog(file, KEY) as log:
        log.append({"text": "ä\u2028\n"})
        log.append({"n": 2})
        assert list(log) == [{"text": "ä\u2028\n"}, {"n": 2}]
    assert rows(file, KEY) == [{"text": "ä\u2028\n"}, {"n": 2}]
    assert len(rows(file)) == 3  # the key is the first line
    assert rows(file, {"version": 2}) == [] == rows(file, KEY)


@pytest.mark.parametrize("key", [None, KEY])
def test_half_a_line_at_the_end_is_removed(file, key):
    with AppendLog(file, key) as log:
        log.append({"n": 1})
    whole = file.read_bytes()
    for cut in range(1, 9):
        file.write_bytes(whole + b'{"n": 2}\n'[:cut])
        with AppendLog(file, key) as log:
            assert log.removed == b'{"n": 2}'[:cut]
            log.append({"n": 3})
            assert list(log) == [{"n": 1}, {"n": 3}]


@pytest.mark.parametrize("line", [b"nonsense", b"[1]", b"\xff", b'{"n": NaN}'])
def test_a_malformed_line_is_named_and_stays(file, line):
    file.parent.mkdir()
    file.write_bytes(b'{"n": 1}\n' + line + b"\n")
    for _ in range(2):
        with pytest.raises(DataError, match=r"rows\.log, line 2: is not"):
            rows(file)


@pytest.mark.slow
def test_rows_survive_a_kill(file):
    program = (
        "import sys\nfrom pathlib import Path\nfrom searchlora.files.append_log import AppendLog\n"
        "log = AppendLog(Path(sys.argv[1]))\nn = 0\n"
        "while True:\n    log.append({'n': n})\n    print(n, flush=True)\n    n += 1\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, file], stdout=subprocess.PIPE, text=True)
    confirmed = [child.stdout.readline() for _ in range(30)]
    with pytest.raises(UsageError, match="another process writes to it"):
        AppendLog(file)
    child.send_signal(signal.SIGKILL)
    confirmed += child.stdout.readlines()
    child.wait()
    numbers = [int(line) for line in confirmed if line.endswith("\n")]
    found = [row["n"] for row in rows(file)]
    assert found[: len(numbers)] == numbers == list(range(len(numbers))) and len(found) <= len(numbers) + 1


@pytest.mark.parametrize("how", ["nothing", "half", "no sync", "not cut"])
def test_a_full_disk_is_an_error_and_leaves_whole_lines(file, monkeypatch, how):
    write = os.write

    def full(*_):
        raise OSError(28, "No space left on device")

    with AppendLog(file) as log:
        log.append({"n": 1})
        with monkeypatch.context() as patch:
            if how == "no sync":
                patch.setattr(append_log.os, "fsync", full)
            else:
                patch.setattr(append_log.os, "write", full if how == "nothing" else lambda f, data: write(f, data[:4]))
            if how == "not cut":  # as when a full file system turns read-only, and recovers
                patch.setattr(append_log.os, "ftruncate", full)
            for _ in range(2):
                with pytest.raises(DataError, match=r"rows\.log: cannot be written \("):
                    log.append({"n": "lost"})
        log.append({"n": 2})
    assert rows(file) == [{"n": 1}, {"n": 2}]


def test_a_row_without_a_utf_8_form_is_refused(file):
    with AppendLog(file) as log:
        with pytest.raises(DataError, match="cannot be written as UTF-8"):
            log.append({"text": "\ud800"})
        assert list(log) == []


def test_nothing_is_confirmed_into_a_deleted_file(file):
    with AppendLog(file) as log:
        log.append({"n": 1})
        file.unlink()
        with pytest.raises(DataError, match="deleted while it was in use"):
            log.append({"n": 2})


def test_a_folder_that_cannot_be_written_is_an_error(file):
    file.parent.write_text("a file")
    with pytest.raises(DataError, match=r"rows\.log: cannot be written"):
        AppendLog(file)


def test_a_log_that_cannot_be_begun_leaves_no_file_open(file, monkeypatch):
    AppendLog(file, {"key": 1}).close()
    opened = sum(1 for _ in Path("/proc/self/fd").iterdir())

    def full(_):
        raise OSError(28, "no space")

    monkeypatch.setattr(AppendLog, "clear", full)
    for _ in range(3):
        with pytest.raises(OSError, match="no space"):
            AppendLog(file, {"key": 2})
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == opened
