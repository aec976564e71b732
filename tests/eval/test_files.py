"""Whether a file can be written is known before the work of which it is the end."""

from __future__ import annotations

import os

import pytest

from searchlora.errors import DataError
from searchlora.files import atomic_text, check_writable


def test_what_can_be_written_passes_and_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = tmp_path / "old.txt"
    old.write_text("old")
    check_writable(None, old, tmp_path / "new" / "deep" / "file.txt", type(tmp_path)("beside.txt"))
    assert list(tmp_path.iterdir()) == [old] and old.read_text() == "old"


@pytest.mark.parametrize("name", ["", "file/below", "file/much/below", "x" * 300])
def test_what_writing_would_refuse_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    target = tmp_path / name
    with pytest.raises(DataError) as told:
        check_writable(target)
    assert told.value.where == str(target) and told.value.what.startswith("cannot be written (")
    with pytest.raises(DataError), atomic_text(target) as out:
        out.write("x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="is not writable"):
        check_writable(tmp_path / "new.txt")
    tmp_path.chmod(0o700)
