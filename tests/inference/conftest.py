"""Engines with adapters from folders, one of which gives NaN."""

from __future__ import annotations

import shutil

import pytest
from safetensors.torch import load_file, save_file

from searchlora.inference.local import LocalEngine
from tests.factories import random_adapter_folder
from tests.inference.small_models import local_engine


@pytest.fixture(scope="module")
def folders(tiny_base, tmp_path_factory):
    place = tmp_path_factory.mktemp("faults")
    found = {name: random_adapter_folder(tiny_base, place / name, seed)[0] for seed, name in enumerate("xyz")}
    for name, matrix in (("broken", "lora_A"), ("broken in B", "lora_B")):
        found[name] = place / name
        shutil.copytree(found["x"], found[name])
        weights = load_file(found[name] / "adapter_model.safetensors")
        next(tensor for key, tensor in weights.items() if matrix in key)[0, 0] = float("nan")
        save_file(weights, found[name] / "adapter_model.safetensors")
    return found


@pytest.fixture(params=["batched", "one adapter"])
def either(request, tiny_base, folders):
    """An engine of each kind."""
    engine = local_engine(request.param, tiny_base, max_num_seqs=4, max_loras=2, waiting=8)
    engine.load_folder("x", folders["x"])
    yield engine
    engine.close(5)


@pytest.fixture
def engine(tiny_base, folders):
    engine = LocalEngine(tiny_base, precision="fp32", max_num_seqs=4, max_loras=3, waiting=8)
    for name in "xy":
        engine.load_folder(name, folders[name])
    yield engine
    engine.close(5)
