"""LangChain, LlamaIndex and LiteLLM, unpatched and as a user configures them, against a running server.

They cannot share an environment with this project's other dependencies, as they need older versions of some. `make
test` makes one for them and names its Python in SEARCHLORA_CLIENTS_PYTHON.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from searchlora.adapters.store import Store
from searchlora.inference.engine import Request
from searchlora.inference.sampling import Sampling
from searchlora.prompts import messages
from searchlora.retrieval.encoder import Encoder
from searchlora.task import load_task
from tests.factories import random_adapter
from tests.server.api.serving import made_service, served

HERE = Path(__file__).parent
KEY = "a-key"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory, tiny_base, encoder_base):
    folder = tmp_path_factory.mktemp("clients")
    store = Store(folder / "store")
    random_adapter(store, "rewriting", load_task("rewriting"), tiny_base, folder / "rewriting", 1)
    return made_service(tiny_base, store, encoder_base, api_keys=(KEY,))


@pytest.fixture(scope="module")
def call(service):
    python = os.environ.get("SEARCHLORA_CLIENTS_PYTHON")
    if not python or not Path(python).is_file():
        pytest.skip("SEARCHLORA_CLIENTS_PYTHON names no Python; `make test` makes one")
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "LANGCHAIN"))}
    environment |= {
        # tiktoken's vocabulary, which is downloaded once on a user's machine; LlamaIndex brings a copy.
        "TIKTOKEN_CACHE_DIR": f"{site}/llama_index/core/_static/tiktoken_cache",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else LiteLLM looks prices up when it is imported
        "PYTHONPATH": "",
    }
    with served(service) as url:

        def run(script):
            done = subprocess.run(
                [python, str(HERE / script), url, KEY], capture_output=True, text=True, timeout=180, env=environment
            )
            assert done.returncode == 0, done.stderr[-3000:]
            return json.loads(done.stdout.splitlines()[-1])

        yield run


@pytest.fixture(scope="module")
def wanted(service, encoder_base):
    """What the engine itself answers."""

    def answers(request, count=1):
        return [future.result().text for future in service.engine.submit_answers(request, count)]

    task = load_task("rewriting")
    tent, system = {"role": "user", "content": "tent"}, {"role": "system", "content": "Be short."}

    def rewritten(query):
        return answers(Request(messages(task, {"id": "0", "query": query}), "rewriting@1", 8))[0]

    return {
        "telly": rewritten("telly"),
        "couch": rewritten("couch"),
        "tent to the adapter": rewritten("tent"),
        "tent": answers(Request((tent,), None, 8))[0],
        "talk": answers(Request((system, tent), None, 8))[0],
        "continued": answers(Request((), None, 8, prompt_ids=tuple(service.engine.renderer.text_ids("tent"))))[0],
        "sampled": answers(Request((tent,), None, 8, sampling=Sampling(0.9, top_p=0.9, seed=3), stop=("zz",)), 3),
        "several": answers(Request((tent,), None, 8, sampling=Sampling(0.9, seed=3)), 3),
        "vectors": Encoder.load(str(encoder_base.path)).encode(["Hello world", "red tent"]),
    }


def close(found, vectors):
    return np.allclose(np.array(found), vectors, atol=1e-5)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_langchain(call, wanted):
    found = call("call_langchain.py")
    for name in ("invoke", "ainvoke", "stream", "completion"):
        assert found[name] == wanted["telly"], name
    assert found["batch"] == [wanted["telly"], wanted["couch"]]
    assert (found["model"], found["usage"] > 0) == ("rewriting@1", True)
    assert (found["talk"], found["tools"]) == (wanted["talk"], wanted["tent"])
    assert found["continued"] == wanted["continued"]
    assert isinstance(found["structured"]["yes"], bool)
    assert found["logprobs"] and max(found["logprobs"]) <= 0
    assert found["sampled"] == wanted["sampled"]
    # By default, texts are sent as arrays of tiktoken's ids.
    assert close(found["documents"][:2], wanted["vectors"])
    assert close([found["query"], found["texts"]], wanted["vectors"][[1, 1]])


def test_llama_index(call, wanted):
    found = call("call_llama_index.py")
    for name in ("complete", "acomplete", "stream complete", "chat"):
        assert found[name] == wanted["telly"], name
    assert found["stream chat"] == wanted["tent to the adapter"]
    assert found["talk"] == wanted["talk"]
    assert found["default"]
    assert close(found["documents"], wanted["vectors"])
    assert close(found["query"], wanted["vectors"][1])


def test_litellm(call, wanted):
    found = call("call_litellm.py")
    for name in ("completion", "acompletion", "stream", "tools", "text"):
        assert found[name] == wanted["telly"], name
    assert found["several"] == wanted["several"]
    assert close(found["documents"], wanted["vectors"])
    assert "no adapter 'nobody'" in found["error"]
    assert found["usage"] > 0
