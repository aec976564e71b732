"""Full fine-tuning of a causal language model: trained, stored, verified, compared, promoted, exported and served."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest
from safetensors.torch import load_file, save_file

from searchlora.adapters.full_model import model_of
from searchlora.adapters.load_check import verify
from searchlora.adapters.manifest import write_manifest
from searchlora.adapters.operations import path
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter, file_hashes
from searchlora.errors import GoldenMismatch, LoadCheckFailed, UsageError
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.train import train
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.models.load import load_model
from searchlora.models.resolve import BaseModel, resolve
from searchlora.pipelines.pipeline import build_pipeline
from searchlora.pipelines.stages.adapter import AdapterSettings
from searchlora.recipe import load_recipe
from searchlora.server.api.config import ServeConfig
from searchlora.server.api.serve import make_service
from searchlora.training.sft import train_adapter
from tests.factories import first_word, word_records, write_jsonl
from tests.server.api.serving import asked, served

pytestmark = pytest.mark.slow

FIXTURE = Path(__file__).parents[1] / "fixtures" / "tiny"
DATA = FIXTURE / "datasets" / "rewriting"
FAST = ("optim.max_steps=4", "optim.batch_size=4", "precision=fp32", "validation.every_steps=4", "validation.rows=4")
FULL = ("method=full", "optim.full_learning_rate=1e-3")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store with the whole model `whole@1` and the adapter `small@1`, both for rewriting."""
    root = tmp_path_factory.mktemp("full")
    store = Store(root / "store")
    for name, more in (("whole", FULL), ("small", ("method=lora", "lora.r=4"))):
        options = TrainingOptions(base=str(FIXTURE / "base"), overrides=(*FAST, *more))
        train("rewriting", DATA, name, options, store=store)
    store.alias("whole", "live", 1)
    return store


def test_the_stored_model_has_all_weights_trained(place):
    stored = place.get("whole@1")
    training = stored.manifest.training
    assert stored.is_full and stored.manifest.trained.quantization == "none"
    assert training["parameters_trained"] == training["parameters"]
    small = place.get("small").manifest.training
    assert small["parameters"] == training["parameters"] > small["parameters_trained"]
    before, after = load_file(FIXTURE / "base" / "model.safetensors"), load_file(stored.path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(not before[name].float().equal(after[name].float()) for name in before if "proj" in name)


def test_it_verifies_and_loads_in_transformers(place, cli):
    verified = cli("adapters", "verify", "whole@1", "--base", FIXTURE / "base", "--store", place.root)
    assert verified.code == 0, verified.err
    folder = path("whole@1", store=place)
    assert folder == place.get("whole@1").path.resolve()
    model = load_model(BaseModel("elsewhere", folder), precision="fp32")
    assert model.dtype.is_floating_point


def test_weights_that_give_other_logits_do_not_verify(place, tmp_path):
    """The hashes are made to fit, so only the golden logits tell."""
    copied = shutil.copytree(place.get("whole@1").path, tmp_path / "whole" / "1")
    for file in copied.iterdir():
        file.chmod(0o644)
    tensors = load_file(copied / "model.safetensors")
    save_file({name: value * 1.05 for name, value in tensors.items()}, copied / "model.safetensors")
    manifest = place.get("whole@1").manifest
    manifest = manifest.model_copy(update={"files": file_hashes(copied)})
    write_manifest(manifest, copied)
    with pytest.raises(GoldenMismatch, match=r"is .* off"):
        verify(StoredAdapter(copied, manifest))


def test_the_engine_of_a_whole_model_answers_to_its_name(place):
    stored = place.get("whole@1")
    engine = LocalEngine(model_of(stored), place, precision="fp32")
    prompt = Request(({"role": "user", "content": "red shoes"},), "whole@1", max_new_tokens=4)
    named, plain = engine.generate([prompt, Request(prompt.messages, None, max_new_tokens=4)])
    assert named.text == plain.text
    assert engine.load("whole@1") == "whole@1"
    engine.close()


def test_another_engine_refuses_it_and_says_why(place):
    engine = LocalEngine(resolve(str(FIXTURE / "base")), place, precision="fp32")
    request = Request(({"role": "user", "content": "red shoes"},), "whole@1", max_new_tokens=4)
    with pytest.raises(LoadCheckFailed, match=r"whole@1: is a whole model.*serve --base whole@1.*cannot share a batch"):
        engine.generate([request])
    with pytest.raises(LoadCheckFailed, match="whole model"):
        engine.load("whole@1")
    engine.close()


def test_it_is_compared_with_base_and_adapter(place, tmp_path):
    options = EvaluationOptions(cache_dir=tmp_path)
    found, again = (evaluate("whole@1", DATA, options, compare_with=["small"], store=place) for _ in range(2))
    assert {"base zero-shot", "small@1", "whole@1"} <= found.systems.keys()
    assert found.comparison.candidate == "whole@1"
    assert "whole@1" in again.reused


def test_a_pipeline_runs_it(place, cli, tmp_path):
    topics = write_jsonl(tmp_path / "topics.jsonl", [{"id": "q1", "query": "red shoes"}])
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"id": "d1", "text": "red shoes for runners"}])
    ran = cli(
        *("run", "rewrite_bm25", "--queries", topics, "--corpus", corpus, "--store", place.root),
        *("--set", "adapter=whole@1", "--out", tmp_path / "out.jsonl"),
    )
    assert ran.code == 0, ran
    assert "whole@1" in (tmp_path / "out.jsonl").read_text(encoding="utf-8")


def test_a_bare_stage_asks_the_base_and_not_the_whole_model(place):
    stages = [AdapterSettings(name="whole@1", zero_shot=bare) for bare in (False, True)]
    whole, base = (stage.engine.base for stage in build_pipeline("p", stages, store=place, documents=[]).stages)
    assert (whole.version, base.version) == ("whole@1", None)
    assert base.path == FIXTURE / "base"


def test_it_is_served_as_the_base(place):
    service = make_service(ServeConfig(base="whole@1", store=place.root, precision="fp32"))
    assert service.base == "whole@1"
    with served(service) as url, httpx.Client(base_url=url, timeout=30) as client:
        listed = {each["id"] for each in client.get("/v1/models").json()["data"]}
        assert "whole@1" in listed and "small@1" not in listed
        for name in ("whole@1", "whole@live"):
            answer = client.post("/v1/chat/completions", json=asked("red shoes", name))
            assert answer.status_code == 200, answer.text
        refused = client.post("/v1/chat/completions", json=asked("red shoes", "small"))
        assert refused.status_code == 409 and "was trained on" in refused.text
    with pytest.raises(UsageError, match=r"small@1 is an adapter, not a whole model"):
        make_service(ServeConfig(base="small@1", store=place.root))


def test_a_base_server_lists_only_its_adapters(place):
    service = make_service(ServeConfig(base=str(FIXTURE / "base"), store=place.root, precision="fp32"))
    with served(service) as url, httpx.Client(base_url=url, timeout=30) as client:
        listed = {each["id"] for each in client.get("/v1/models").json()["data"]}
        assert "small@1" in listed and "whole@1" not in listed
        answer = client.post("/v1/chat/completions", json=asked("red shoes", "whole@1"))
        assert answer.status_code >= 400 and "whole model" in answer.text


def test_it_is_exported_as_it_is(place, cli, tmp_path, monkeypatch):
    monkeypatch.setattr("searchlora.adapters.manifest.resolve", lambda *_: pytest.fail("the base was looked up"))
    exported = cli("adapters", "export", "whole@1", "--out", tmp_path / "out", "--store", place.root)
    assert exported.code == 0 and "Wrote whole@1, a whole model" in exported.out, exported
    assert load_model(BaseModel("out", tmp_path / "out")) is not None


def test_a_killed_full_run_resumes(tiny_base, tmp_path):
    """A resumed run ends with the weights of an uninterrupted one."""
    task, records = first_word(tmp_path / "task"), word_records(32)
    recipe = load_recipe({}, overrides=[*FULL, *FAST[1:3], "optim.max_steps=6", "checkpoints.every_steps=3"])
    whole = train_adapter(task, recipe, tiny_base, records, tmp_path / "a")
    train_adapter(task, recipe, tiny_base, records, tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "checkpoint-6")
    resumed = train_adapter(task, recipe, tiny_base, records, tmp_path / "b", resume=True)
    assert resumed.summary["resumed_from_step"] == 3
    one, two = load_file(whole.adapter / "model.safetensors"), load_file(resumed.adapter / "model.safetensors")
    assert all((one[name] - two[name]).abs().max() < 1e-5 for name in one)
