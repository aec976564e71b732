"""The engine of a pipeline's stages: of this process or a server, as file, stage and manifest say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from searchlora.adapters.operations import Origin, store_adapter
from searchlora.adapters.store import Store
from searchlora.errors import PipelineError
from searchlora.inference.answer_cache import AnswerCache
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.remote.engine import RemoteEngine
from searchlora.inference.settings import LocalSettings, ServerSettings
from searchlora.pipelines.config import read_pipeline
from searchlora.pipelines.pipeline import build_pipeline
from searchlora.pipelines.stages.adapter import AdapterSettings
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.prompts import messages
from searchlora.task import load_generation_task
from tests.factories import first_word, random_adapter, random_adapter_folder, write_jsonl
from tests.server.api.serving import made_service, served

STAGES = "stages:\n  - adapter: {name: one}\n  - adapter: {name: one, engine: {url: 'http://b'}}\n  - bm25: {}\n"


@pytest.fixture
def task(tmp_path, monkeypatch):
    task = first_word(tmp_path / "task")
    monkeypatch.setattr("searchlora.task.load_task", lambda *_: task)
    return task


@pytest.fixture
def store(tiny_base, tmp_path, task):
    store = Store(tmp_path / "store")
    folder, recipe = random_adapter_folder(tiny_base, tmp_path / "made", 1, ("precision=fp32",))
    store_adapter(store, "one", folder, task=task, recipe=recipe, base=tiny_base)
    return store


def written(folder, text):
    (folder / "mine.yaml").write_text(f"name: mine\n{text}", encoding="utf-8")
    return folder / "mine.yaml"


def test_the_server_of_a_file_is_the_default_of_its_stages(tmp_path):
    file = written(tmp_path, f"parameters: {{place: 'http://a'}}\nengine: {{url: $place, load: true}}\n{STAGES}")
    first, second, bm25 = read_pipeline(file).stages
    assert first == AdapterSettings(name="one", engine=ServerSettings(url="http://a", load=True))
    assert (second.engine, bm25) == (ServerSettings(url="http://b"), Bm25Settings())
    other, *_ = read_pipeline(file, ["place=http://c"]).stages
    assert other.engine.url == "http://c"
    given, second, _ = read_pipeline(file, engine=ServerSettings(url="http://d")).stages
    assert [given.engine.url, second.engine.url] == ["http://d", "http://b"]
    here, *_ = read_pipeline(written(tmp_path, STAGES)).stages
    assert here.engine is None


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ("{kind: server}", r"mine\.yaml, engine: 'url': field required"),
        ("{url: x, api_key: secret}", r"engine: 'api_key'.*Known keys: api_key_env, concurrency, dialect, kind, load"),
        ("{url: x, kind: other}", r"engine: 'kind': there is no engine 'other'. Kinds: local, server"),
        ("{kind: local, url: x}", r"engine: 'url'.*Known keys: adapter_bytes, "),
        ("{url: $place}", r"engine: 'url' refers to the parameter '\$place'"),
        ("http://a", r"mine\.yaml: 'engine'"),
    ],
)
def test_an_invalid_engine_names_its_key(tmp_path, engine, says):
    with pytest.raises(PipelineError, match=says):
        read_pipeline(written(tmp_path, f"engine: {engine}\n{STAGES}"))


def test_an_engine_is_local_or_a_server(tmp_path):
    def engine_of(text):
        first, *_ = read_pipeline(written(tmp_path, f"engine: {text}\n{STAGES}")).stages
        return first.engine

    assert engine_of("{}") == LocalSettings()
    local = "{kind: local, quantization: nf4, precision: bf16, max_loras: 8, prefix_tokens: 0}"
    assert engine_of(local) == LocalSettings(quantization="nf4", precision="bf16", max_loras=8, prefix_tokens=0)
    for server in ("{kind: server, url: 'http://a'}", "{url: 'http://a'}"):
        assert engine_of(server) == ServerSettings(url="http://a")


def test_a_stage_has_an_engine_of_its_own_with_parameters(tmp_path):
    stage = "  - adapter: {name: one, engine: {quantization: $bits, max_num_seqs: 4}}"
    text = f"parameters: {{bits: nf4}}\nstages:\n{stage}\n  - bm25: {{}}\n"
    first, _ = read_pipeline(written(tmp_path, text)).stages
    assert first.engine == LocalSettings(quantization="nf4", max_num_seqs=4)
    with pytest.raises(PipelineError, match=r"mine\.yaml, stage 1, engine: 'quantization'"):
        read_pipeline(written(tmp_path, text), ["bits=int8"])
    with pytest.raises(PipelineError, match=r"stage 1, engine: the settings of an engine are a mapping"):
        read_pipeline(written(tmp_path, "stages: [adapter: {name: one, engine: nf4}]"))


@pytest.mark.slow
def test_settings_of_a_local_engine_reach_it(store):
    settings = LocalSettings(quantization="nf4", precision="bf16", max_num_seqs=5, batch_invariant=False)
    (stage,) = build_pipeline("p", [AdapterSettings(name="one", engine=settings)], store=store, documents=[]).stages
    assert (stage.engine.precision, stage.engine.call_size) == ("nf4+bf16", 5)
    assert stage.engine.engine_id == settings.engine_id("fp32") == "local, nf4+bf16, not batch invariant"
    (own,) = build_pipeline("p", [AdapterSettings(name="one")], store=store, documents=[]).stages
    assert own.engine.engine_id == "local, fp32"  # the precision of the recipe


@pytest.mark.slow
def test_stages_of_one_server_share_an_engine(store, monkeypatch):
    monkeypatch.setenv("THE_KEY", "secret")
    there, elsewhere = ServerSettings(url="http://a", api_key_env="THE_KEY"), ServerSettings(url="http://b")
    stages = [AdapterSettings(name="one", engine=engine) for engine in (there, elsewhere, there, None)]
    engines = [stage.engine for stage in build_pipeline("p", stages, store=store, documents=[]).stages]
    assert [type(engine) for engine in engines] == [RemoteEngine] * 3 + [LocalEngine]
    assert engines[0] is engines[2] is not engines[1]


@pytest.mark.slow
def test_the_key_of_a_server_is_named_on_the_command_line(tiny_base, store, tmp_path, monkeypatch, cli, refused):
    monkeypatch.setenv("THE_KEY", "secret")
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": "d", "text": "tent boot stove"}])
    file = written(tmp_path, "stages: [adapter: {name: one}, bm25: {}]")
    command = ["search", file, "tent", "--corpus", tmp_path / "corpus.jsonl", "--store", store.root]
    with served(made_service(tiny_base, store, api_keys=("secret",))) as url:
        called = cli(*command, "--server", url, "--api-key-env", "THE_KEY")
        assert called.code == 0, called
        assert "refuses with 401" in refused(*command, "--server", url)
    assert "there is no server for the key" in refused(*command, "--api-key-env", "THE_KEY")
    assert "'api_key_env'" in refused(*command, "--server", url, "--api-key-env", "no name")


@pytest.mark.parametrize("place", ["file", "stage"])
def test_a_pipeline_file_may_name_only_allowed_api_key_variables(tmp_path, monkeypatch, place):
    engine = "engine: {url: 'http://evil', api_key_env: $key}"
    stage = f"  - adapter: {{name: one, {engine}}}\n"
    text = f"{engine}\n{STAGES}" if place == "file" else f"stages:\n{stage}"
    file = written(tmp_path, f"parameters: {{key: AWS_SECRET_ACCESS_KEY}}\n{text}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("SEARCHLORA_API_KEY_VARIABLES", "SEARCH_KEY, OTHER")
    with pytest.raises(PipelineError, match="may not send the environment variable AWS_SECRET_ACCESS_KEY"):
        read_pipeline(file)
    assert read_pipeline(file, ["key=OTHER"]).stages[0].engine.api_key_env == "OTHER"


@pytest.mark.slow
def test_adapters_of_one_base_share_an_engine_unless_they_differ_in_precision(tiny_base, tmp_path, task):
    store = Store(tmp_path / "store")
    for seed, precision in enumerate(("bf16", "fp32", "bf16"), start=1):
        folder, recipe = random_adapter_folder(tiny_base, tmp_path / f"made{seed}", seed, (f"precision={precision}",))
        store_adapter(store, "one", folder, task=task, recipe=recipe, base=tiny_base)
    stages = [AdapterSettings(name=f"one@{version}") for version in (1, 2, 3)]
    first, second, third = (stage.engine for stage in build_pipeline("p", stages, store=store, documents=[]).stages)
    assert [first.precision, second.precision] == ["bf16", "fp32"]
    assert third is first


@pytest.mark.slow
def test_a_zero_shot_stage_answers_as_the_base_model_to_the_same_prompt(store, task):
    stages = [AdapterSettings(name="one", max_new_tokens=4, zero_shot=bare) for bare in (False, True)]
    adapted, bare = build_pipeline("p", stages, store=store, documents=[]).stages
    assert (adapted.label, bare.label) == ("one@1", "base(first-word)")
    assert bare.engine is adapted.engine
    record = {"id": "r", "group": "r", "text": "tent boot"}
    (expected,) = bare.engine.generate([Request(messages(task, record), None, 4)])
    assert [output.raw for output in bare.ask([record])] == [expected.text]
    assert [output.raw for output in adapted.ask([record])] != [expected.text]


@pytest.mark.slow
def test_cached_answers_are_those_of_the_same_weights(tiny_base, tmp_path, task, store):
    random_adapter(store, "one", task, tiny_base, tmp_path / "made2", seed=2)
    both = [AdapterSettings(name=f"one@{version}") for version in (1, 2)]
    settings = [*both, AdapterSettings(name="one@2", zero_shot=True)]
    searches = [{"id": text, "group": text, "query": text, "text": text} for text in ("tent", "axe")]

    def built(cache=None):
        return build_pipeline("p", settings, store=store, documents=[], cache=cache)

    def answers(pipeline):
        rows: list[Mapping[str, Any]] = []
        pipeline.execute(searches, trace=rows.append)
        return [[*map(_without_flag, row["requests"])] for row in rows], [row["flags"].count("cached") for row in rows]

    expected, cached = answers(built())
    assert not any(cached) and all(expected)
    first, cached = answers(built(AnswerCache(tmp_path / "answers.db")))
    assert first == expected and not any(cached)
    again, cached = answers(built(AnswerCache(tmp_path / "answers.db")))
    assert again == expected and cached == [1] * 6


def _without_flag(request):
    return {key: value for key, value in request.items() if key != "cached"}


@pytest.mark.slow
def test_a_zero_shot_stage_renders_with_the_options_of_its_adapter(tiny_base, tmp_path, task):
    store = Store(tmp_path / "store")
    folder, recipe = random_adapter_folder(tiny_base, tmp_path / "made", 1, ("prompt.date=2020-02-29",))
    store_adapter(store, "one", folder, task=task, recipe=recipe, base=tiny_base)
    stages = [AdapterSettings(name="one", zero_shot=bare) for bare in (False, True)]
    adapted, bare = build_pipeline("p", stages, store=store, documents=[]).stages
    assert bare.engine.renderer.options.date == "2020-02-29" != adapted.engine.renderer.options.date
    server = AdapterSettings(name="one", zero_shot=True, engine=ServerSettings(url="http://a"))
    (asked,) = build_pipeline("p", [server], store=store, documents=[]).stages
    assert asked.engine.renderer.options.date == "2020-02-29"


@pytest.mark.slow
def test_values_tuned_for_the_adapter_are_not_those_of_its_base(tiny_base, tmp_path):
    store, judgment = Store(tmp_path / "store"), load_generation_task("judgment")
    folder, recipe = random_adapter_folder(tiny_base, tmp_path / "made", 1)
    task = judgment.bound(judgment.settings_of({"grades": "2"}, ()))
    origin = Origin(tuned={"temperature": 3.0})
    store_adapter(store, "judge", folder, task=task, recipe=recipe, base=tiny_base, origin=origin)
    own = {"first_stage_weight": 0.5}
    stages = [AdapterSettings(name="judge", zero_shot=bare, tuned=own) for bare in (False, True)]
    adapted, bare = build_pipeline("p", stages, store=store, documents=[]).stages
    assert (adapted.task.tuned, bare.task.tuned) == ({"temperature": 3.0, **own}, own)
