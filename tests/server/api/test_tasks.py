"""Task endpoints answer as a pipeline stage does, with the task's own prompt, parser and fallback."""

from __future__ import annotations

import json

import httpx
import pytest

from searchlora.adapters.store import Store
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.outputs import Graded
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.prompts import messages
from searchlora.server.api import adapter_tasks, tasks
from searchlora.server.api.tasks import output_json
from searchlora.task import load_task
from tests.factories import first_word, random_adapter
from tests.server.api.serving import made_service, served

LABELS = {"kind": "label", "labels": ["buy", "other", "return"], "out_of_scope": None}
SETTINGS = {"rewriting": None, "judgment": None, "rag_answer": None, "intent": LABELS}
PASSAGES = [
    {"id": "p1", "title": "Red couch", "text": "A couch for two people."},
    {"id": "p2", "title": "", "text": "A green tent for four."},
    {"id": "p3", "title": "Stove", "text": "It burns gas."},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny_base):
    folder = tmp_path_factory.mktemp("tasks")
    store = Store(folder / "store")
    for seed, (name, settings) in enumerate(SETTINGS.items()):
        random_adapter(store, name.replace("_", "-"), load_task(name).bound(settings), tiny_base, folder / name, seed)
    return store


@pytest.fixture(scope="module")
def client(store, tiny_base):
    with served(made_service(tiny_base, store)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def stage(store, tiny_base):
    """The pipeline stage of a task's adapter, on an engine of its own."""
    engine = LocalEngine(tiny_base, store, precision="fp32")

    def stage(name):
        stored = store.get(name.replace("_", "-"))
        manifest = stored.manifest
        task = load_task(name).bound(manifest.settings, manifest.tuned)
        return AdapterStage(task, engine, stored.reference, int(manifest.recipe["max_new_tokens"]))

    return stage


def posted(client, path, status=200, **body):
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


INPUTS = {
    "rewriting": [{"query": "telly red"}, {"query": "and blue?", "history": [{"role": "user", "text": "a red sofa"}]}],
    "judgment": [{"query": "couch", "passage": each["text"], "title": each["title"]} for each in PASSAGES],
    "rag_answer": [{"question": "For how many?", "passages": PASSAGES[:2]}],
    "intent": [{"query": "i want a couch"}, {"query": "send it back"}],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_outputs_are_those_of_the_pipeline_stage(client, stage, name):
    ours = stage(name)
    records = [{"id": str(n), "group": str(n), **row} for n, row in enumerate(INPUTS[name])]
    expected = [
        output_json(ours.task, record, output) for record, output in zip(records, ours.ask(records), strict=True)
    ]
    model = name.replace("_", "-")
    answer = posted(client, f"/v1/tasks/{name}", model=model, inputs=INPUTS[name])
    assert (answer["model"], answer["task"]) == (f"{model}@1", name)
    assert [output["valid"] for output in answer["outputs"]] == [output["valid"] for output in expected]
    for got, wanted in zip(answer["outputs"], expected, strict=True):
        assert got["value"] == wanted["value"]
        assert got.get("probabilities", {}) == pytest.approx(wanted.get("probabilities", {}), abs=1e-3)
    one = posted(client, f"/v1/tasks/{name}", model=f"{model}@1", input=INPUTS[name][0])
    assert one["output"]["value"] == answer["outputs"][0]["value"]


def test_rerank_orders_documents_by_expected_grade(client, stage):
    judge = stage("judgment")
    body = {"model": "judgment", "query": "couch", "documents": [PASSAGES[0], PASSAGES[1]["text"], PASSAGES[2]]}
    answer = posted(client, "/v1/rerank", **body, return_documents=True)
    records = [{"id": "1", "group": "1", "query": "couch", "passage": p["text"], "title": p["title"]} for p in PASSAGES]
    spec = judge.task.output(records[0])
    assert isinstance(spec, Graded)
    grades = list(spec.scale.values())
    expected = [
        sum(g * p for g, p in zip(grades, output.probabilities, strict=True)) / max(grades)
        for output in judge.ask(records)
    ]
    scores = {each["index"]: each["relevance_score"] for each in answer["results"]}
    assert [scores[n] for n in range(3)] == pytest.approx(expected, abs=1e-3)
    ordered = [each["relevance_score"] for each in answer["results"]]
    assert ordered == sorted(ordered, reverse=True)
    assert all(0 <= score <= 1 for score in ordered)
    first = answer["results"][0]
    assert first["document"]["text"] == PASSAGES[first["index"]]["text"]
    top = posted(client, "/v1/rerank", **body, top_n=1)["results"]
    assert [each["index"] for each in top] == [first["index"]]
    assert "document" not in top[0]


def test_classify_gives_labels_with_probabilities(client):
    answer = posted(client, "/v1/classify", model="intent", input=["i want a couch", "send it back"])
    assert [text["index"] for text in answer["data"]] == [0, 1]
    for text in answer["data"]:
        assert text["labels"] == ["buy", "other", "return"] and text["num_classes"] == 3
        assert text["label"] == text["labels"][text["probs"].index(max(text["probs"]))]
        assert sum(text["probs"]) == pytest.approx(1)
    assert posted(client, "/v1/classify", model="intent", input="i want a couch")["data"] == answer["data"][:1]


@pytest.mark.slow
def test_rewrite_gives_the_query_to_search_with(client, stage, monkeypatch):
    asked, ask = [], tasks._ask
    monkeypatch.setattr(tasks, "_ask", lambda stage, records: asked.extend(records) or ask(stage, records))
    search = {"id": "1", "query": "and blue?", "history": [{"role": "user", "text": "a red sofa"}]}
    titled, chat = {**search, "titles": ["Ektorp sofa"]}, [{"role": "user", "content": "a red sofa"}]
    ours = stage("rewriting")
    (expected,) = ours([search])
    for fields, record in (
        ({"history": search["history"]}, search),
        ({"history": chat}, search),
        ({"history": chat, "titles": titled["titles"]}, titled),
    ):
        answer = posted(client, "/v1/rewrite", model="rewriting", query="and blue?", **fields)
        assert answer["query"] == expected["query"]  # random weights write nothing valid: the query itself
        assert messages(ours.task, asked.pop()) == messages(ours.task, record)


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/tasks/judgment", {"model": "rewriting", "input": {"query": "x"}}, 400, "POST to /v1/tasks/rewriting"),
        ("/v1/tasks/rewriting", {"model": "rewriting", "input": {}}, 400, "'query' is a required property"),
        ("/v1/tasks/rewriting", {"model": "rewriting", "input": {"q": "x"}}, 400, "Fields: query, history"),
        ("/v1/tasks/rewriting", {"model": "rewriting", "input": {"query": 3}}, 400, "Input 1, query: 3 is not of type"),
        ("/v1/tasks/judgment", {"model": "judgment", "inputs": [{"query": "x"}] * 2}, 400, "'passage' is a required"),
        ("/v1/tasks/rewriting", {"model": "rewriting"}, 400, "either 'input' or 'inputs'"),
        ("/v1/tasks/rewriting", {"model": "nobody", "input": {"query": "x"}}, 404, "no adapter 'nobody'"),
        ("/v1/tasks/rewriting", {"model": "rewriting", "input": {"query": "a\ud800"}}, 400, "surrogate"),
        ("/v1/rerank", {"model": "intent", "query": "x", "documents": ["a"]}, 400, "grades no passages"),
        ("/v1/rerank", {"model": "judgment", "query": "x", "documents": []}, 400, "documents"),
        ("/v1/classify", {"model": "rewriting", "input": "x"}, 400, "no single label"),
        ("/v1/rewrite", {"model": "intent", "query": "x"}, 400, "writes 'intent', not 'query'"),
    ],
)
def test_what_does_not_fit_is_named(client, path, body, status, says):
    response = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text
    assert says in response.json()["error"]["message"]


def test_a_late_task_request_ends_with_504(store, tiny_base):
    with served(made_service(tiny_base, store, timeout=0.001)) as url:
        response = httpx.post(f"{url}/v1/rewrite", json={"model": "rewriting", "query": "x"}, timeout=30)
    assert response.status_code == 504


@pytest.mark.parametrize("name", ["rewriting", "judgment", "rag-answer", "intent"])
def test_the_page_of_an_adapter_has_an_example_that_works(client, name):
    page = client.get(f"/v1/models/{name}").json()
    assert page["task"] == name.replace("-", "_")
    assert page["input"]["required"]
    example = page["example"]
    answer = client.request(example["method"], example["path"], json=example["body"])
    assert answer.status_code == 200, answer.text
    assert client.get(f"/v1/models/{name}@1").json()["example"] == example


def chat(client, model, *messages, **more):
    body = {"model": model, "messages": [{"role": role, "content": text} for role, text in messages], **more}
    return posted(client, "/v1/chat/completions", **body)


@pytest.mark.slow
def test_one_user_message_to_an_adapter_is_the_query_of_its_task(client, stage):
    ours = stage("rewriting")
    (completion,) = ours.engine.generate(
        [Request(messages(ours.task, {"id": "0", "query": "telly"}), ours.adapter, max_new_tokens=64)]
    )
    answer = chat(client, "rewriting", ("user", "telly"))
    assert answer["choices"][0]["message"]["content"] == completion.text
    assert answer["usage"]["prompt_tokens"] == completion.prompt_tokens
    raw = chat(client, "rewriting", ("user", "telly"), prompt="raw", max_tokens=4)
    assert raw["usage"]["prompt_tokens"] < completion.prompt_tokens
    for conversation in (
        [("system", "be short"), ("user", "telly")],
        [("user", "telly"), ("assistant", "ok"), ("user", "more")],
    ):
        tokens = chat(client, "rewriting", *conversation, max_tokens=4)["usage"]["prompt_tokens"]
        assert tokens == chat(client, "rewriting", *conversation, max_tokens=4, prompt="raw")["usage"]["prompt_tokens"]


def test_a_chat_with_a_closed_set_of_answers_gives_one_of_them(client):
    assert chat(client, "intent", ("user", "send it back"))["choices"][0]["message"]["content"] in LABELS["labels"]


def test_task_input_is_rendered_by_the_task(client, stage):
    judge = stage("judgment")
    record = {"id": "0", "query": "couch", "passage": PASSAGES[0]["text"], "title": "Red couch"}
    fields = {name: value for name, value in record.items() if name != "id"}
    answer = posted(client, "/v1/chat/completions", model="judgment", task_input=fields)
    (completion,) = judge.engine.generate([Request(messages(judge.task, record), judge.adapter, 4)])
    assert answer["usage"]["prompt_tokens"] == completion.prompt_tokens
    assert answer["choices"][0]["message"]["content"] in judge.task.output(record).choices
    ignored = chat(client, "judgment", ("user", "x"), task_input=fields)
    assert ignored["choices"][0]["message"] == answer["choices"][0]["message"]


@pytest.mark.parametrize(("model", "needs"), [("judgment", "query, passage"), ("rag-answer", "question, passages")])
def test_a_query_alone_is_refused_by_a_task_that_needs_more(client, model, needs):
    message = {"role": "user", "content": "couch"}
    says = f"needs more than a query ({needs}). Give them as 'task_input'"
    for path, body in (
        ("/v1/chat/completions", {"messages": [message]}),
        ("/v1/completions", {"prompt": "couch"}),
    ):
        assert says in posted(client, path, 400, model=model, **body)["error"]["message"]
        raw = {"prompt" if "chat" in path else "prompt_format": "raw", "max_tokens": 2}
        posted(client, path, model=model, **body, **raw)


def test_a_text_to_an_adapter_whose_task_is_not_installed_is_refused_unless_it_is_the_prompt(tmp_path, tiny_base):
    """The adapter was trained on another prompt, so that its answer would look like any other and be wrong."""
    own = Store(tmp_path / "store")
    random_adapter(own, "shouter", first_word(tmp_path / "task"), tiny_base, tmp_path / "made", 1)
    message = {"role": "user", "content": "telly"}
    with served(made_service(tiny_base, own)) as url, httpx.Client(base_url=url, timeout=60) as client:
        for path, body, raw in (
            ("/v1/chat/completions", {"messages": [message]}, {"prompt": "raw"}),
            ("/v1/chat/completions", {"task_input": {"query": "telly"}}, None),
            ("/v1/completions", {"prompt": "telly"}, {"prompt_format": "raw"}),
        ):
            refused = posted(client, path, 400, model="shouter", max_tokens=2, **body)["error"]
            assert (refused["code"], refused["param"]) == ("invalid_value", "model")
            if raw is not None:
                assert posted(client, path, model="shouter", max_tokens=2, **body, **raw)["model"] == "shouter@1"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"model": "rewriting", "task_input": {"q": 1}}, "Fields: query, history"),
        ({"model": "rewriting", "task_input": {"query": "x"}, "prompt": "raw"}, "leave out 'prompt'"),
        ({"model": "rewriting"}, "'messages' is required, or 'task_input'"),
        ({"model": "rewriting", "messages": []}, "messages"),
    ],
)
def test_a_chat_whose_task_input_does_not_fit_is_refused(client, body, says):
    assert says in posted(client, "/v1/chat/completions", 400, **body)["error"]["message"]


@pytest.mark.slow
def test_a_chat_loads_the_plugin_of_a_version_once(client, monkeypatch):
    loaded = []
    monkeypatch.setattr(adapter_tasks, "load_task", lambda *given: loaded.append(given) or load_task(*given))
    for _ in range(3):
        chat(client, "judgment", ("user", "couch"), max_tokens=1, prompt="raw")
        chat(client, "intent", ("user", "couch"), max_tokens=1)
        posted(client, "/v1/completions", model="rewriting", prompt="telly", max_tokens=1)
        posted(client, "/v1/rewrite", model="rewriting", query="telly")
        client.get("/v1/models/rewriting")
    assert len(loaded) <= 2  # those that no earlier request has loaded


@pytest.mark.slow
def test_an_alias_that_moves_during_a_chat_does_not_mix_versions(tmp_path, tiny_base, monkeypatch):
    own = Store(tmp_path / "store")
    for seed in (1, 2):
        random_adapter(own, "rewriting", load_task("rewriting"), tiny_base, tmp_path / str(seed), seed)
    own.alias("rewriting", "production", 1)
    service = made_service(tiny_base, own)
    with served(service) as url, httpx.Client(base_url=url, timeout=60) as here:
        for path, body in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "telly"}]}),
            ("/v1/completions", {"prompt": ["telly", "couch"]}),
        ):
            own.alias("rewriting", "production", 1)
            pin, pinned = service.engine.pin, []

            def moves(adapter, pin=pin, pinned=pinned):
                pinned.append(pin(adapter))
                own.alias("rewriting", "production", 2)
                return pinned[-1]

            monkeypatch.setattr(service.engine, "pin", moves)
            answer = posted(here, path, model="rewriting@production", **body)
            monkeypatch.setattr(service.engine, "pin", pin)
            assert (answer["model"], set(pinned)) == ("rewriting@1", {"rewriting@1"}), path


def test_a_search_says_and_counts_that_an_adapter_may_not_decide_alone(store, tiny_base, tmp_path):
    (tmp_path / "p.yaml").write_text("name: p\nstages:\n  - adapter: {name: intent@1, decides: {above: 1}}\n")
    service = made_service(tiny_base, store, pipelines=(tmp_path / "p.yaml",))
    with served(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        (classified,) = posted(client, "/v1/classify", model="intent", input="a couch")["data"]
        found = posted(client, "/v1/search", pipeline="p", query="a couch")
        assert found["output"] == {"undecided": {"intent": pytest.approx(max(classified["probs"]), abs=1e-6)}}
        assert 'searchlora_undecided_total{model="intent@1"} 1.0' in client.get("/metrics").text


def test_an_alias_that_moves_does_not_lose_the_threshold_of_its_stage(tmp_path, tiny_base):
    own = Store(tmp_path / "store")
    for seed in (1, 2):
        random_adapter(own, "intent", load_task("intent").bound(LABELS), tiny_base, tmp_path / str(seed), seed)
    own.alias("intent", "production", 1)
    rules = {"fitted": "{above: 1, origin: {adapter: intent@1}}", "by_hand": "{above: 1}"}
    files = []
    for name, rule in rules.items():
        files.append(tmp_path / f"{name}.yaml")
        stage = f"adapter: {{name: intent@production, decides: {rule}}}"
        files[-1].write_text(f"name: {name}\nstages:\n  - {stage}\n", encoding="utf-8")
    with served(made_service(tiny_base, own, pipelines=tuple(files))) as url, httpx.Client(base_url=url) as client:
        own.alias("intent", "production", 2)
        for name, version in (("fitted", "intent@1"), ("by_hand", "intent@2")):
            (stage,) = posted(client, "/v1/search", pipeline=name, query="a couch")["stages"]
            assert (stage["adapter"], [flag.partition(":")[0] for flag in stage["flags"]]) == (version, ["undecided"])


def test_rerank_takes_more_documents_than_the_queue_of_a_client(store, tiny_base):
    body = {"model": "judgment", "query": "couch", "documents": [f"couch {n}" for n in range(300)]}
    with (
        served(made_service(tiny_base, store, per_client=400)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        assert len(posted(client, "/v1/rerank", **body)["results"]) == 300
        refused = posted(client, "/v1/rerank", 400, **body | {"documents": ["couch"] * 401})
        assert "At most 400 texts are answered in one request" in refused["error"]["message"]
