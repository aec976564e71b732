"""Pipelines that use a server: configuration, and answers equal to the local engine."""

from __future__ import annotations

import json

import pytest

from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.errors import PipelineError
from searchlora.inference.local import LocalEngine
from searchlora.inference.remote.engine import RemoteEngine
from searchlora.pipelines.config import AdapterSettings, Bm25Settings, EngineSettings, read_pipeline
from searchlora.pipelines.pipeline import build_pipeline
from tests.made import made_folder
from tests.server.api.serving import made_service, served
from tests.words import first_word

STAGES = "stages:\n  - adapter: {name: one}\n  - adapter: {name: one, engine: {url: 'http://b'}}\n  - bm25: {}\n"


@pytest.fixture
def store(tiny_base, tmp_path, monkeypatch):
    task, store = first_word(tmp_path / "task"), Store(tmp_path / "store")
    monkeypatch.setattr("searchlora.task.load_task", lambda *_: task)
    folder, recipe = made_folder(tiny_base, tmp_path / "made", 1, ("precision=fp32",))
    store_adapter(store, "one", folder, task=task, recipe=recipe, base=tiny_base)
    return store


def written(folder, text):
    (folder / "mine.yaml").write_text(f"name: mine\n{text}", encoding="utf-8")
    return folder / "mine.yaml"


def test_the_server_of_a_file_is_the_default_of_its_stages(tmp_path):
    file = written(tmp_path, f"parameters: {{place: 'http://a'}}\nengine: {{url: $place, load: true}}\n{STAGES}")
    first, second, bm25 = read_pipeline(file).stages
    assert first == AdapterSettings(name="one", engine=EngineSettings(url="http://a", load=True))
    assert (second.engine, bm25) == (EngineSettings(url="http://b"), Bm25Settings())
    other, *_ = read_pipeline(file, ["place=http://c"]).stages
    assert other.engine.url == "http://c"
    given, second, _ = read_pipeline(file, engine=EngineSettings(url="http://d")).stages
    assert [given.engine.url, second.engine.url] == ["http://d", "http://b"]
    here, *_ = read_pipeline(written(tmp_path, STAGES)).stages
    assert here.engine is None


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ("{}", r"mine\.yaml, engine: 'url': field required"),
        ("{url: x, api_key: secret}", r"engine: 'api_key'.*Known keys: api_key_env, concurrency, dialect, kind, load"),
        ("{url: x, kind: other}", r"engine: 'kind'"),
        ("{url: x, dialect: other}", r"engine: 'dialect'"),
        ("{url: x, concurrency: 0}", r"engine: 'concurrency'"),
        ("{url: x, timeout_s: 0}", r"engine: 'timeout_s'"),
        ("{url: x, api_key_env: 'no name'}", r"engine: 'api_key_env'"),
        ("{url: $place}", r"engine: 'url' refers to the parameter '\$place'"),
        ("http://a", r"mine\.yaml: 'engine'"),
    ],
)
def test_an_invalid_server_names_its_key(tmp_path, engine, says):
    with pytest.raises(PipelineError, match=says):
        read_pipeline(written(tmp_path, f"engine: {engine}\n{STAGES}"))


@pytest.mark.slow
def test_stages_of_one_server_share_an_engine(store, monkeypatch):
    monkeypatch.setenv("THE_KEY", "secret")
    there, elsewhere = EngineSettings(url="http://a", api_key_env="THE_KEY"), EngineSettings(url="http://b")
    stages = [AdapterSettings(name="one", engine=engine) for engine in (there, elsewhere, there, None)]
    engines = [stage.engine for stage in build_pipeline("p", stages, store=store, documents=[]).stages]
    assert [type(engine) for engine in engines] == [RemoteEngine] * 3 + [LocalEngine]
    assert engines[0] is engines[2] is not engines[1]


@pytest.mark.slow
def test_an_unset_api_key_variable_is_named(store, monkeypatch):
    monkeypatch.delenv("THE_KEY", raising=False)
    stage = AdapterSettings(name="one", engine=EngineSettings(url="http://a", api_key_env="THE_KEY"))
    with pytest.raises(
        PipelineError, match=r"http://a: the environment variable THE_KEY with the server.s key is not set"
    ):
        build_pipeline("p", [stage], store=store, documents=[])


@pytest.mark.slow
def test_a_server_gives_the_answers_of_the_local_engine(tiny_base, store, tmp_path, monkeypatch, cli, refused):
    monkeypatch.setenv("THE_KEY", "secret")
    searches = [{"id": str(n), "query": f"{word} and more"} for n, word in enumerate(("tent", "boot", "stove"))]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(search) + "\n" for search in searches))
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"id": "d", "text": "tent boot stove"}) + "\n")
    files = [f"--{name}={tmp_path / name}.jsonl" for name in ("queries", "corpus")]
    here = build_pipeline("p", [AdapterSettings(name="one")], store=store, documents=[])
    file = written(tmp_path, "stages: [adapter: {name: one}, bm25: {}]")
    command = ["run", file, *files, "--out", tmp_path / "run.trec", "--store", store.root]
    with served(made_service(tiny_base, store, api_keys=("secret",))) as url:
        stage = AdapterSettings(name="one", engine=EngineSettings(url=url, api_key_env="THE_KEY"))
        there = build_pipeline("p", [stage], store=store, documents=[])
        assert [found["outputs"] for found in there.execute(searches)] == [
            found["outputs"] for found in here.execute(searches)
        ]
        called = cli(*command, "--server", url, "--api-key-env", "THE_KEY")
        assert (called.code, len((tmp_path / "run.trec").read_text().splitlines())) == (0, 3), called
        assert "refuses with 401" in refused(*command, "--server", url)
    assert "there is no server for the key" in refused(*command, "--api-key-env", "THE_KEY")
    assert "'api_key_env'" in refused(*command, "--server", url, "--api-key-env", "no name")


FILE_ENGINE = "engine: {url: 'http://evil', api_key_env: VARIABLE}\n" + STAGES
STAGE_ENGINE = "stages:\n  - adapter: {name: one, engine: {url: 'http://evil', api_key_env: VARIABLE}}\n  - bm25: {}\n"
PARAMETER = "parameters: {key: VARIABLE}\nengine: {url: 'http://evil', api_key_env: $key}\n" + STAGES


@pytest.mark.parametrize("text", [FILE_ENGINE, STAGE_ENGINE, PARAMETER], ids=["file", "stage", "parameter"])
def test_a_pipeline_file_may_name_only_allowed_api_key_variables(tmp_path, monkeypatch, text):
    def read(name):
        return read_pipeline(written(tmp_path, text.replace("VARIABLE", name)))

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("SEARCHLORA_API_KEY_VARIABLES", raising=False)
    with pytest.raises(PipelineError, match="may not send the environment variable AWS_SECRET_ACCESS_KEY") as caught:
        read("AWS_SECRET_ACCESS_KEY")
    assert "SEARCHLORA_API_KEY_VARIABLES=AWS_SECRET_ACCESS_KEY" in str(caught.value)
    monkeypatch.setenv("SEARCHLORA_API_KEY_VARIABLES", "SEARCH_KEY, OTHER")
    for name in ("SEARCH_KEY", "OTHER"):
        stage, *_ = read(name).stages
        assert stage.engine.api_key_env == name
    with pytest.raises(PipelineError, match="may not send"):
        read("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(PipelineError, match="may not send"):
        read("SEARCH")
