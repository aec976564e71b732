"""`doctor` reports what works, what is missing and how to add it, and fails only for what is required."""

from __future__ import annotations

import importlib.metadata
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from searchlora.cli import doctor as checks
from searchlora.errors import BaseModelError
from searchlora.extras import EXTRAS


@pytest.fixture
def server():
    """A server that answers `/v1/models` with the JSON in `answer`."""

    class Handler(BaseHTTPRequestHandler):
        answer: object = {"data": [{"id": "shop-rewriter@3"}]}

        def do_GET(self):
            content = json.dumps(self.answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}", Handler
    listening.shutdown()
    listening.server_close()


def diagnosed(**options):
    return {check.name: check for check in checks.diagnose(**options)}


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch):
    """Compiling takes seconds; the test of kernels asks for it."""
    monkeypatch.setenv("SEARCHLORA_NATIVE", "0")


def test_everything_required_works_on_this_machine(cli):
    called = cli("doctor")
    assert called.code == 0, called.out
    assert "Everything required works." in called.out
    shown = json.loads(cli("doctor", "--json").out)
    assert shown["ok"] is True
    found = {check["name"]: check for check in shown["checks"]}
    assert {f"extra {extra}" for extra in EXTRAS} <= found.keys()
    assert {
        "Python",
        "core packages",
        "CPU",
        "kernel cache",
        "CPU kernels",
        "GPU",
        "vLLM",
        "base model",
    } <= found.keys()
    assert all(check["fix"] for check in shown["checks"] if check["status"] == "missing")


def test_an_extra_that_is_missing_names_the_command_that_adds_it(monkeypatch, cli):
    monkeypatch.setitem(EXTRAS, "report", ("no_such_module",))
    called = cli("doctor")
    assert called.code == 0
    assert "missing   extra report      without no_such_module" in called.out
    assert "-> pip install 'searchlora[report]'" in called.out


def test_a_core_package_that_is_missing_or_too_old_fails(monkeypatch, cli):
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda _: ["numpy>=999", "no-such-package", "ruff; extra == 'dev'"]
    )
    called = cli("doctor")
    assert called.code == 1
    assert "broken    core packages     numpy>=999 is required" in called.out
    assert "no-such-package is not installed" in called.out and "ruff" not in called.out


def test_the_kernels_are_compiled_and_their_absence_is_explained(monkeypatch):
    assert "off by SEARCHLORA_NATIVE=0" in diagnosed()["CPU kernels"].detail
    monkeypatch.delenv("SEARCHLORA_NATIVE")
    monkeypatch.setenv("CC", "no-such-compiler")
    found = diagnosed()["CPU kernels"]
    assert found.status == "missing" and "no-such-compiler" in found.detail
    monkeypatch.delenv("CC")
    found = diagnosed()["CPU kernels"]
    assert found.status == "ok" and "for native instructions: bfloat16 (" in found.detail
    monkeypatch.setenv("SEARCHLORA_NATIVE", "baseline")
    found = {name: check.detail for name, check in diagnosed().items()}
    assert "for baseline instructions: bfloat16 (vectors of 128 bits), float32 (" in found["CPU kernels"]
    assert found["bf16"].startswith("not by this processor, so fp32 is computed")


@pytest.mark.parametrize(("value", "problem"), [("avx99", "has no instruction set 'avx99'"), ("avx512", "lacks")])
def test_an_instruction_set_that_cannot_be_used_is_explained(monkeypatch, value, problem):
    monkeypatch.setattr("searchlora.models.processor.cpu_flags", lambda: frozenset({"avx2", "fma"}))
    monkeypatch.setenv("SEARCHLORA_NATIVE", value)
    found = diagnosed()["CPU kernels"]
    assert found.status == "broken" and problem in found.detail and "baseline" in found.fix


@pytest.mark.slow
def test_a_store_and_a_base_are_required_only_where_they_are_given(cli, tmp_path, monkeypatch, tiny_base):
    monkeypatch.chdir(tmp_path)
    assert cli("doctor").code == 0
    absent = cli("doctor", "--store", tmp_path / "none")
    assert absent.code == 1 and "does not exist" in absent.out
    damaged = tmp_path / "damaged" / "shop" / "1"
    damaged.mkdir(parents=True)
    (damaged / "searchlora.json").write_text("{", encoding="utf-8")
    found = diagnosed(store=tmp_path / "damaged")["adapter store"]
    assert found.status == "broken" and "shop@1" in found.detail
    (tmp_path / "store").mkdir()
    present = cli("doctor", "--store", tmp_path / "store", "--base", tiny_base.path)
    assert present.code == 0, present.out
    assert "adapters share batches; logits differ by" in present.out and "local, bf16; this is" in present.out
    unknown = cli("doctor", "--base", "no-such-base")
    assert unknown.code == 1 and "no-such-base" in unknown.out


def test_a_server_is_reached_and_its_models_listed(cli, server):
    url, handler = server
    called = cli("doctor", "--server", url)
    assert called.code == 0, called.out
    assert f"{url}: shop-rewriter@3" in called.out
    handler.answer = ["nothing"]
    assert "does not list models" in cli("doctor", "--server", url).out


@pytest.mark.parametrize("url", ["ftp://example.org", "http://user:secret@127.0.0.1:9"])
def test_an_unreachable_server_is_reported_as_a_failure(cli, url):
    called = cli("doctor", "--server", url)
    assert called.code == 1 and "broken    server" in called.out
    assert "secret" not in called.out and "Traceback" not in called.err


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_base_is_loaded_only_if_memory_allows_where_it_is_computed(monkeypatch, tiny_base, on_gpu):
    free = {"cuda": 10 if on_gpu else 1 << 40, "cpu": 1 << 40 if on_gpu else 10}
    monkeypatch.setattr("searchlora.models.processor.uses_gpu", lambda: on_gpu)
    monkeypatch.setattr("searchlora.models.memory.free_memory", free.get)
    monkeypatch.setattr("searchlora.models.load.load_model", lambda _: pytest.fail("loaded"))
    found = diagnosed(base=str(tiny_base.path))["batching"]
    assert found.status == "missing" and "and 0.00 GB are free" in found.detail


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "memory ran out while the base was loaded"),
        (BaseModelError("is an encoder", fix="Give a base that generates."), "is an encoder"),
    ],
)
def test_a_base_that_cannot_be_loaded_is_one_line_of_the_list(monkeypatch, tiny_base, error, says):
    def load(_):
        raise error

    monkeypatch.setattr("searchlora.models.load.load_model", load)
    found = diagnosed(base=str(tiny_base.path))
    assert found["batching"].status == "missing" and says in found["batching"].detail
    assert found["batching"].fix and found["adapter store"]
