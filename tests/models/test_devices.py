"""The GPUs of a machine with several, as its driver lists them."""

from __future__ import annotations

import os
import sys

import pytest
import torch

from searchlora.errors import UsageError
from searchlora.experiments import train as training
from searchlora.experiments.improve import command as improving
from searchlora.models.devices import (
    VISIBLE,
    check_not_launched,
    chosen_gpus,
    default_device,
    launched_processes,
    visible_gpus,
)

LISTED = "GPU-a, NVIDIA L4, 2000\nGPU-b, NVIDIA L4, 22000\nGPU-c, NVIDIA L4, 9000"


@pytest.fixture
def three_gpus(tmp_path, monkeypatch):
    """A driver's `nvidia-smi` that lists three GPUs, and a build of PyTorch for CUDA."""
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nprint('''{LISTED}''')\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv(VISIBLE, raising=False)


@pytest.mark.usefixtures("three_gpus")
def test_of_several_gpus_the_one_with_most_free_memory_is_chosen_and_said():
    said: list[str] = []
    with chosen_gpus(1, said.append):
        assert os.environ[VISIBLE] == "GPU-b"
    assert VISIBLE not in os.environ
    assert said == ["Using GPU 1 (NVIDIA L4, 23.1 GB free) of 3."]


@pytest.mark.usefixtures("three_gpus")
def test_of_the_gpus_that_the_user_shows_the_first_ones_are_chosen(monkeypatch):
    said: list[str] = []
    monkeypatch.setenv(VISIBLE, "2,0,1")
    with chosen_gpus(2, said.append):
        assert os.environ[VISIBLE] == "2,0"
    assert os.environ[VISIBLE] == "2,0,1" and said == ["Using GPU 2 and GPU 0 of 3."]


@pytest.mark.usefixtures("three_gpus")
def test_as_many_gpus_as_processes_are_left_alone(monkeypatch):
    for processes, shown in ((3, None), (1, "1"), (1, "")):
        if shown is not None:
            monkeypatch.setenv(VISIBLE, shown)
        with chosen_gpus(processes, pytest.fail):
            assert os.environ.get(VISIBLE) == shown


@pytest.mark.usefixtures("three_gpus")
def test_more_processes_than_gpus_are_refused():
    with pytest.raises(UsageError, match="4 processes need a GPU each, and 3 are visible"), chosen_gpus(4, print):
        pass


def test_a_machine_without_a_gpu_has_none_to_choose(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(VISIBLE, raising=False)
    assert visible_gpus() == []
    with chosen_gpus(2, pytest.fail):
        assert VISIBLE not in os.environ


@pytest.mark.usefixtures("three_gpus")
def test_verbs_that_train_choose_before_anything_asks_for_a_gpu(monkeypatch, tmp_path):
    def job(*_: object) -> None:
        raise RuntimeError(os.environ[VISIBLE])

    for module, verb in ((training, training.train), (improving, improving.improve)):
        monkeypatch.setattr(module, "_job", job)
        with pytest.raises(RuntimeError, match="GPU-b"):
            verb("rewriting", tmp_path, "r", store=tmp_path / "store")


@pytest.mark.usefixtures("three_gpus")
def test_a_build_of_pytorch_for_cpus_has_no_gpus(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert visible_gpus() == []
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert len(visible_gpus()) == 3


def test_each_rank_has_the_gpu_of_its_number(monkeypatch):
    assert default_device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_device() == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert default_device() == "cuda:3"


def test_the_first_process_of_a_launcher_trains_for_all(monkeypatch):
    assert launched_processes() == 1
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_PORT": "1"}
    told |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "ACCELERATE_MIXED_PRECISION": "fp16", "OMP_NUM_THREADS": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert launched_processes() is None
    monkeypatch.setenv("RANK", "0")
    assert launched_processes() == 2
    assert not told.keys() & os.environ.keys()
    assert launched_processes() == 1


def test_processes_on_several_machines_do_not_train(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="4 processes were launched, of which 2 are on this machine"):
        launched_processes()


def test_a_process_of_a_launcher_is_refused(monkeypatch):
    check_not_launched()
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_not_launched()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UsageError, match=r"this is process 1 of 2.*without a launcher"):
        check_not_launched()
