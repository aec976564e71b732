"""Validation by the model that is trained, as on a GPU; here on the CPU, with small models."""

from __future__ import annotations

import pytest

from searchlora.experiments import train as verb
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import _job
from searchlora.experiments.validation import Validator
from searchlora.inference import local
from searchlora.inference.local import LocalEngine
from searchlora.models.resolve import BaseModel
from searchlora.progress import no_progress
from searchlora.recipe import load_recipe
from searchlora.training import sft
from searchlora.training.metrics import read_metrics
from searchlora.training.sft import train_adapter
from tests.factories import first_word, native_dataset, word_records
from tests.training.test_sft import SHORT, same

pytestmark = pytest.mark.slow

OPTIONS = (*SHORT, "precision=fp32", "validation.every_steps=3", "checkpoints.every_steps=4")


@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_validation_in_place_measures_the_adapter_and_does_not_change_training(tiny_base, tmp_path, method):
    task, records = first_word(tmp_path / "task"), word_records(64)
    recipe = load_recipe({}, overrides=[*OPTIONS, f"method={method}"])
    engines, how = [], {"precision": "fp32", "quantization": recipe.quantization}

    def of_model(model) -> LocalEngine:
        engines.append(LocalEngine(tiny_base, model=model, batch_invariant=False, **how))
        return engines[-1]

    in_place = Validator(task, None, records[:8], records[:4], max_new_tokens=4, in_place=of_model)
    without = train_adapter(task, recipe, tiny_base, records, tmp_path / "without")
    train_adapter(task, recipe, tiny_base, records, tmp_path / "with", validate=in_place)
    assert len(engines) == 1 and not engines[0].shares_batches
    assert same(without.adapter, tmp_path / "with" / "checkpoints" / "checkpoint-12")
    lines = [line for line in read_metrics(tmp_path / "with" / "metrics.jsonl") if "validation_loss" in line]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    engine = LocalEngine(tiny_base, **how)
    copied = Validator(task, engine, records[:8], records[:4], max_new_tokens=4)(without.adapter)
    assert lines[-1]["validation_loss"] == pytest.approx(copied["loss"], abs=2e-4)
    assert lines[-1]["validation_accuracy"] == copied["accuracy"]


def test_a_whole_model_validates_in_place_as_its_stored_copy(tiny_base, tmp_path):
    task, records = first_word(tmp_path / "task"), word_records(64)
    recipe = load_recipe({}, overrides=[*OPTIONS, "method=full", "optim.full_learning_rate=1e-3"])

    def of_model(model) -> LocalEngine:
        return LocalEngine(tiny_base, model=model, precision="fp32", batch_invariant=False)

    in_place = Validator(task, None, records[:8], records[:4], max_new_tokens=4, in_place=of_model)
    without = train_adapter(task, recipe, tiny_base, records, tmp_path / "without")
    trained = train_adapter(task, recipe, tiny_base, records, tmp_path / "with", validate=in_place)
    assert trained.summary["final_loss"] == without.summary["final_loss"]
    measured = {
        line["step"]: line for line in read_metrics(tmp_path / "with" / "metrics.jsonl") if "validation_loss" in line
    }
    copied = Validator(
        task, lambda folder: LocalEngine(BaseModel("c", folder), precision="fp32"), records[:8], records[:4], None, 4
    )(trained.adapter)
    best = measured[trained.summary["best"]["step"]]
    assert best["validation_loss"] == pytest.approx(copied["loss"], abs=2e-4)
    assert best["validation_accuracy"] == copied["accuracy"]


def test_on_a_gpu_training_loads_no_second_copy_of_the_base(tiny_base, tmp_path, monkeypatch):
    """With a GPU faked where training asks whether there is one."""
    loaded = []
    for module in (local, sft):
        load = module.load_model
        monkeypatch.setattr(
            module, "load_model", lambda *args, _load=load, **options: (loaded.append(1), _load(*args, **options))[1]
        )
    monkeypatch.setattr(verb, "uses_gpu", lambda: True)
    options = verb.TrainingOptions(OPTIONS, tiny_base.name)
    job = verb._job("rewriting", dataset(tmp_path), options, None, str(tmp_path / "store"), lambda _: print)
    result = job.train(tmp_path / "run", resume=False)
    assert len(loaded) == 1
    assert result.validated == "nf4" and result.summary["best"]["loss"] > 0


def dataset(folder):
    rows = []
    for n in range(36):
        row = {"id": f"r{n}", "group": f"g{n}", "query": f"{n} kicks", "rewrite": f"{n} shoes"}
        rows.append({**row, "split": "train" if n % 6 else "validation"})
    return native_dataset("rewriting", folder / "data", rows)


def test_the_validation_rows_are_those_of_many_queries(tiny_base, tmp_path):
    rows = [
        {"query": f"query {query}", "passage": f"passage {number}", "grade": number % 2, "split": split}
        for split, queries in (("validation", range(10)), ("train", range(10, 12)))
        for query in queries
        for number in range(20)
    ]
    native_dataset("judgment", tmp_path / "data", rows)
    options = TrainingOptions(["validation.rows=20", "validation.generate_rows=0"], base=str(tiny_base.path))
    validator = _job("judgment", tmp_path / "data", options, None, tmp_path / "store", no_progress)._validator()
    assert len(validator.records) == 20
    assert len({record["query"] for record in validator.records}) > 5
