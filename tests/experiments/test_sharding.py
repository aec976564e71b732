"""Shards in processes of this machine and on Ray: killed workers lose nothing, and failed shards are named."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from searchlora.errors import DataError, ShardsFailed, UsageError
from searchlora.experiments.sharding import Sharding, run_shards
from searchlora.files import shards
from searchlora.files.shards import Job, Parts, Shard
from searchlora.progress import silent

PLACES = ["here", pytest.param("ray", marks=pytest.mark.slow)]


@pytest.fixture(params=PLACES)
def sharding(request) -> Sharding:
    """Two shards at once."""
    if request.param == "ray":
        pytest.importorskip("ray", reason="Ray is not installed (pip install 'searchlora[ray]')")
    return Sharding(shards=2, on=request.param)


def _squares(shard: Shard, progress, *, folder: Path, dies: str = "", fails: str = "") -> None:
    """Work of a shard, with a note of each batch; the second one of shard `dies` is killed, unless it was before."""
    shards.PART_ROWS = 10

    def compute(batch):
        if str(shard) == fails and 24 not in batch:
            raise DataError("cannot be squared", where=f"row {batch[0]}")
        mark = folder.parent / "killed"
        if str(shard) == dies and 10 not in batch and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (folder.parent / f"{batch[0]}-{time.monotonic_ns()}").touch()
        return [n * n for n in batch]

    Parts(folder).compute(Job("squares", range(40), compute, batch=5), shard, progress)


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(sharding, tmp_path):
    parts = Parts(tmp_path / "parts")
    work = partial(_squares, folder=parts.folder, dies="2/2")
    reported = []
    report = lambda *call: reported.append(call)  # noqa: E731
    if sharding.on == "here":
        with pytest.raises(ShardsFailed, match=r"1 shards failed \(2/2\); shard 2/2: its process ended with code -9"):
            run_shards(work, sharding, parts, report)
    assert run_shards(work, sharding, parts, report)
    assert list(parts.merged()) == [n * n for n in range(40)]
    assert (tmp_path / "killed").exists()
    batches = sorted(int(file.name.partition("-")[0]) for file in tmp_path.glob("*-*"))
    assert batches == list(range(0, 40, 5))  # none was computed twice
    assert reported[-1][:2] == (2, 2)


@pytest.mark.slow
def test_a_failed_shard_is_named_and_the_other_is_complete(sharding, tmp_path):
    parts = Parts(tmp_path / "parts")
    with pytest.raises(ShardsFailed, match=r"shard 1/2: row 0: cannot be squared\. What is complete is not"):
        run_shards(partial(_squares, folder=parts.folder, fails="1/2"), sharding, parts, silent)
    with pytest.raises(DataError, match="1 of 2 shards are not complete: 1/2"):
        parts.merged()


def _note_share(shard: Shard, *_, folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGINT)  # as Ctrl+C, which is the parent's
    share = f"GPUs {os.environ['CUDA_VISIBLE_DEVICES']}, threads {os.environ['OMP_NUM_THREADS']}"
    (folder / str(shard.number)).write_text(share)


@pytest.mark.slow
def test_each_process_has_its_share_and_leaves_interrupts_to_its_parent(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")  # a build for GPUs
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # as `--threads 7` sets it
    assert run_shards(partial(_note_share, folder=tmp_path), Sharding(shards=2), Parts(tmp_path / "parts"), silent)
    assert [(tmp_path / number).read_text() for number in "12"] == ["GPUs 4,6, threads 3", "GPUs 5, threads 3"]


def _fail(*_, error: Exception) -> None:
    raise error


@pytest.mark.slow
def test_an_error_in_a_process_is_that_of_the_command(tmp_path):
    parts = Parts(tmp_path / "parts")
    with pytest.raises(ShardsFailed, match="--out names a folder") as failed:
        run_shards(partial(_fail, error=UsageError("--out names a folder")), Sharding(shards=2), parts, silent)
    assert failed.value.exit_code == UsageError.exit_code
    with pytest.raises(FileNotFoundError) as missing:  # which the command line explains
        run_shards(partial(_fail, error=FileNotFoundError(2, "No such file", "a")), Sharding(shards=2), parts, silent)
    assert missing.value.filename == "a" and "in _fail" in missing.value.__notes__[0]


class Unreadable(Exception):
    """Its pickle is read in the process that made it only, as the errors of a plugin are."""

    def __reduce__(self):
        return _read_in, (os.getpid(),)


def _read_in(process: int) -> Exception:
    if os.getpid() != process:
        raise ModuleNotFoundError("No module named 'plugin'")
    return Unreadable()


def _fail_as_first(shard: Shard, *_, folder: Path) -> None:
    if shard.number == 1:
        raise Unreadable
    (folder / "second").touch()


@pytest.mark.slow
def test_an_error_that_cannot_be_read_leaves_the_other_shards(tmp_path):
    with pytest.raises(ShardsFailed, match=r"shard 1/2: what its process sent cannot be read.*No module named"):
        run_shards(partial(_fail_as_first, folder=tmp_path), Sharding(shards=2), Parts(tmp_path / "parts"), silent)
    assert (tmp_path / "second").exists()


def _sleep(*_) -> None:
    time.sleep(600)


def test_an_interrupt_ends_all_processes(tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_shards(_sleep, Sharding(shards=2), Parts(tmp_path / "parts"), interrupt)
    assert not multiprocessing.active_children()


def _begin(*_, folder: Path) -> None:
    folder.mkdir()
    raise UsageError("is refused")


def test_a_shard_that_fails_leaves_the_folder_to_the_others(tmp_path):
    parts = Parts(tmp_path / "parts")
    for sharding, is_left in ((Sharding(), False), (Sharding(shard=Shard(1, 2)), True)):
        with pytest.raises(UsageError):
            run_shards(partial(_begin, folder=parts.folder), sharding, parts, silent)
        assert parts.folder.exists() == is_left


def test_options_that_exclude_each_other_are_refused():
    for options in ({"shards": 2}, {"on": "ray"}):
        with pytest.raises(UsageError, match="--shard computes one shard, here"):
            Sharding(shard=Shard(1, 2), **options)
    with pytest.raises(UsageError, match="only Ray reserves GPUs"):
        Sharding(shards=2, gpus_per_shard=1)
