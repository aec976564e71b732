"""`--device` restricts a command to the CPU or to one GPU before a library looks for GPUs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from searchlora.cli.options import use_device
from searchlora.errors import UsageError
from tests.cli.test_commands import LEAVES

VERBS = ("train", "evaluate", "experiment", "promote", "judge", "run", "search", "serve")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Changes of the environment end with the test."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_that_compute_take_a_device(verb):
    assert any("--device" in parameter.opts for parameter in LEAVES[verb].params)


def test_the_cpu_hides_every_gpu():
    assert use_device("cpu") == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_without_the_option_nothing_is_restricted():
    assert use_device(None) is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", "CPU", "cuda:1,cuda:2", ""])
def test_another_name_is_refused(device):
    with pytest.raises(UsageError, match=r"--device.*is not a device.*cpu, cuda or cuda:N"):
        use_device(device)


def test_a_number_counts_the_gpus_that_the_user_allows(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert use_device("cuda:1") == "cuda:1"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with pytest.raises(UsageError, match="lists 2 GPUs"):
        use_device("cuda:2")


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch sees a GPU")
def test_a_command_refuses_a_gpu_that_is_not_there(refused, tmp_path):
    complaint = refused("train", "rewriting", "--data", tmp_path, "--name", "a", "--device", "cuda")
    assert "sees no such GPU" in complaint
    assert "--device cpu" in complaint


@pytest.mark.slow
def test_a_command_on_the_cpu_sees_no_gpu():
    script = (
        "import sys, atexit, os; from searchlora.cli import main;"
        "sys.argv = ['searchlora', 'search', 'bm25', 'tent', '--corpus', 'none.jsonl', '--device', 'cpu'];"
        "atexit.register(lambda: print(repr(os.environ['CUDA_VISIBLE_DEVICES']), 'torch' in sys.modules)); main()"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout.strip() == "'' False"
    assert "none.jsonl" in ended.stderr
