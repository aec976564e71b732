"""`searchlora size`."""

from __future__ import annotations

import json
import re

import pytest

from searchlora.data.building import build
from searchlora.models.load import load_model, number_of_parameters
from searchlora.shop import make_shop
from searchlora.training.processes import run_in_children

#: What the memory of a training process is the sum of.
PARTS = ("weights", "gradients", "optimiser", "activations", "logits")


@pytest.mark.slow
def test_the_methods_stand_side_by_side(cli, tmp_path, tiny_base):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text((tiny_base.path / "config.json").read_text())
    given = ("size", "--base", folder, "--set", "max_length=128", "--memory", "1GB")
    result = json.loads(cli(*given, "--json").out)
    assert result["parameters"] == number_of_parameters(load_model(tiny_base))
    assert result["available"] == 10**9
    assert list(result["methods"]) == ["full", "lora", "qlora"]
    full, lora, qlora = result["methods"].values()
    assert full["trained"] == result["parameters"] and full["share"] == 1
    assert 0 < lora["trained"] == qlora["trained"] < full["trained"]
    for one in (full, lora, qlora):
        memory = one["memory"]
        assert one["training"] == sum(memory[part] for part in PARTS)
        assert one["peak"] == max(one["training"] + memory["validation"], memory["storing"])
        assert one["largest_batch_checkpointed"] >= one["largest_batch"] >= 1
        assert one["seconds"] is None
    table = cli(*given).out
    assert f"{full['trained']:,}" in table and "largest batch in 1.00 GB" in table


@pytest.mark.slow
def test_rows_of_a_dataset_are_measured_and_a_few_steps_trained(cli, tmp_path, tiny_base):
    make_shop(tmp_path / "shop", products=600, queries=100)
    build("rewriting", tmp_path / "shop", format="shop", out=tmp_path / "data")
    result = json.loads(
        cli(
            *("size", "--base", tiny_base.path, "--task", "rewriting", "--data", tmp_path / "data", "--json"),
            *("--calibrate", "--set", "optim.batch_size=2", "--set", "max_length=2000"),
        ).out
    )
    assert all(one["failure"] is None for one in result["methods"].values())
    batch = result["methods"]["lora"]["batch"]
    assert batch["rows"] == 2 and batch["nodes"] < batch["tokens"] <= 2 * batch["length"]
    assert result["tokens"] <= batch["length"]
    assert all(one["seconds"] > 0 for one in result["methods"].values())


@pytest.mark.slow
def test_batches_are_those_that_train_chooses_for_tokens_of_a_step(cli, tmp_path, tiny_base):
    make_shop(tmp_path / "shop", products=600, queries=100)
    build("rewriting", tmp_path / "shop", format="shop", out=tmp_path / "data")
    given = ("size", "--base", tiny_base.path, "--task", "rewriting", "--data", tmp_path / "data", "--json")
    asked = ("--set", "max_length=2000", "--set", "optim.tokens_per_step=100000")
    rows = []
    for memory in ("0.75GB", "0.8GB", "4GB"):
        result = json.loads(cli(*given, *asked, "--memory", memory).out)
        lora = result["methods"]["lora"]
        rows.append(lora["batch"]["rows"])
        assert rows[-1] * lora["gradient_accumulation"] * result["tokens"] == pytest.approx(100_000, rel=0.02)
        assert lora["training"] == sum(lora["memory"][part] for part in PARTS) < result["available"]
    assert sorted(set(rows)) == rows
    small = json.loads(cli(*given, *asked, "--memory", "0.7GB").out)["methods"]["full"]
    assert small["batch"]["rows"] == 1


@pytest.mark.slow
def test_a_method_that_cannot_be_trained_is_told_beside_the_others(cli, tmp_path, tiny_base, monkeypatch):
    from searchlora.experiments import size as verb

    make_shop(tmp_path / "shop", products=600, queries=100)
    build("rewriting", tmp_path / "shop", format="shop", out=tmp_path / "data")

    def run(work, steps, *, where):
        if where == "method=lora":
            raise MemoryError("no more")
        return run_in_children(work, steps, where=where)

    monkeypatch.setattr(verb, "run_in_children", run)
    given = ("--task", "rewriting", "--data", tmp_path / "data", "--calibrate", "--set", "optim.batch_size=2")
    table = cli("size", "--base", tiny_base.path, *given, "--set", "max_length=2000").out
    assert "The time of lora is not known: MemoryError: no more." in table
    assert re.search(r"time for 1,000 rows +[\d,]+ s +not known +[\d,]+ s", table)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--data", "d"], "--data: a dataset is one of a task. Give --task, too."),
        (
            ["--task", "rewriting", "--data", "d", "--target", "cuda", "--calibrate"],
            "--calibrate: time is measured on this machine, which trains on cpu. Leave out --target.",
        ),
        (["--calibrate"], "--calibrate: time is measured on training rows. Give --task and --data."),
        (["--memory", "24"], "--memory: '24' is not a size. Write, for example, 24GB."),
        (["--task", "embedding"], "embedding"),
        (["--base", "someone/unknown"], "hf download someone/unknown config.json"),
    ],
)
def test_what_cannot_be_sized_is_refused(refused, given, complaint):
    assert complaint in refused("size", *given)
