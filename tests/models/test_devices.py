"""The GPUs of a machine with several, as its driver lists them."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from searchlora.experiments import train as training
from searchlora.experiments.improve import command as improving
from searchlora.models.devices import VISIBLE, chosen_gpu, default_device, visible_gpus
from searchlora.models.load import load_model
from searchlora.models.memory import available_memory, base_parameters
from searchlora.models.resolve import BaseModel
from tests.test_threads import control_groups

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
    with chosen_gpu(said.append):
        assert os.environ[VISIBLE] == "GPU-b"
    assert VISIBLE not in os.environ
    assert said == ["Using GPU 1 (NVIDIA L4, 23.1 GB free) of 3."]


@pytest.mark.usefixtures("three_gpus")
def test_of_the_gpus_that_the_user_shows_the_first_is_chosen(monkeypatch):
    said: list[str] = []
    monkeypatch.setenv(VISIBLE, "2,0,1")
    with chosen_gpu(said.append):
        assert os.environ[VISIBLE] == "2"
    assert os.environ[VISIBLE] == "2,0,1" and said == ["Using GPU 2 of 3."]


@pytest.mark.usefixtures("three_gpus")
def test_one_gpu_is_left_alone(monkeypatch):
    for shown in ("1", ""):
        monkeypatch.setenv(VISIBLE, shown)
        with chosen_gpu(pytest.fail):
            assert os.environ[VISIBLE] == shown


def test_a_machine_without_a_gpu_has_none_to_choose(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(VISIBLE, raising=False)
    assert visible_gpus() == []
    with chosen_gpu(pytest.fail):
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


def test_the_first_gpu_is_the_default(monkeypatch):
    assert default_device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_device() == "cuda:0"


# The number of a base's parameters, and the memory that is free


@pytest.mark.slow
def test_the_parameters_of_a_base_are_counted_in_the_headers_of_its_files(tiny_base: BaseModel) -> None:
    model = load_model(tiny_base, to_write=True)
    assert base_parameters(tiny_base.path) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        (["0::/"], {"memory.max": "1000000\n", "memory.current": "400000\n"}, 600_000),
        (["0::/"], {"memory.max": "1000", "memory.current": "4000"}, 0),
        (["0::/"], {"memory.max": "max\n", "memory.current": "400000\n"}, 10**9),
        (["0::/"], {}, 10**9),
        (  # pages of a file that was read, such as the weights of a base, are given back
            ["0::/"],
            {
                "memory.max": "1000000",
                "memory.current": "900000",
                "memory.stat": "anon 90000\nfile 810000\ninactive_file 700000\nactive_file 100000\n",
            },
            900_000,
        ),
        (
            ["0::/pod/box"],
            {
                "pod/memory.max": "500000",
                "pod/memory.current": "200000",
                "pod/box/memory.max": "900000",
                "pod/box/memory.current": "100000",
            },
            300_000,
        ),
        (
            ["4:memory:/docker/1", "2:cpu,cpuacct:/docker/1"],
            {
                "memory/memory.limit_in_bytes": "1000000",
                "memory/memory.usage_in_bytes": "900000",
                "memory/memory.stat": "inactive_file 5\ntotal_inactive_file 300000\ntotal_active_file 200000\n",
            },
            600_000,
        ),
    ],
)
def test_the_limits_of_control_groups_bound_the_available_memory(tmp_path, monkeypatch, lines, files, expected):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    control_groups(tmp_path, lines, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert available_memory(tmp_path) == expected
