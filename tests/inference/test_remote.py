"""The remote engine on chat servers, and its concurrency limit."""

from __future__ import annotations

import json
import threading
import time

import pytest

from searchlora.errors import EngineError, RequestRefused, UnusableAnswer, UsageError
from searchlora.inference.engine import Completion, Request, TokenLogprob
from searchlora.inference.engines import make_engine
from searchlora.inference.remote.engine import RemoteEngine
from searchlora.inference.sampling import Sampling
from searchlora.inference.settings import ServerSettings
from searchlora.outputs import Grammar
from searchlora.recipe import PromptOptions
from searchlora.systems.models import EngineSystem
from tests.factories import first_word, word_records
from tests.inference.http_server import Reply, answering

CHAT = ({"role": "user", "content": "tent"},)
SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["red"]}}}


LOGPROB = {
    "token": "\N{REPLACEMENT CHARACTER}",
    "bytes": [195],
    "logprob": -1.5,
    "top_logprobs": [{"token": "gr", "bytes": [103, 114], "logprob": -0.25}],
}


def chats(text="red", finish="stop", logprobs=None, tokens=9):
    """A server of chats only."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish, "logprobs": logprobs}
    answer = Reply({"choices": [choice], "usage": {"prompt_tokens": tokens, "completion_tokens": 2}})
    return lambda asked: (
        Reply({"data": [{"id": "the-base", "owned_by": "someone"}]}) if asked.path == "/v1/models" else answer
    )


def test_other_servers_receive_chat_messages(tiny_base):
    schema = Grammar("json_schema", json.dumps(SCHEMA))
    with answering(chats()) as server:
        engine = RemoteEngine(server.url, tiny_base, names={"rewriter": "tuned"})
        assert engine.generate([Request(CHAT, "rewriter", 7, schema)]) == [Completion("red", "stop", 9, 2)]
        assert server.asked[-1].path == "/v1/chat/completions"
        assert server.asked[-1].body == {
            "model": "tuned",
            "messages": [dict(CHAT[0])],
            "max_tokens": 7,
            "temperature": 0,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
            },
        }


def test_other_servers_receive_sampling_and_stop_strings(tiny_base):
    sampling = Sampling(0.7, top_p=0.9, presence_penalty=0.5, frequency_penalty=-0.25, seed=3, logprobs=1)
    with answering(chats(logprobs={"content": [LOGPROB, {**LOGPROB, "bytes": None}]})) as server:
        engine = RemoteEngine(server.url, tiny_base)
        (completion,) = engine.generate([Request(CHAT, None, 7, sampling=sampling, stop=(".", "END"))])
        assert server.asked[-1].body == {
            "model": "the-base",
            "messages": [dict(CHAT[0])],
            "max_tokens": 7,
            "temperature": 0.7,
            "top_p": 0.9,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.25,
            "seed": 3,
            "stop": [".", "END"],
            "logprobs": True,
            "top_logprobs": 1,
        }
        engine.generate([Request(CHAT, sampling=Sampling(top_k=3, min_p=0.1, top_p=0.5))])
        assert set(server.asked[-1].body) == {"model", "messages", "max_tokens", "temperature"}  # greedy
    best = TokenLogprob("gr", b"gr", -0.25)
    broken = "\N{REPLACEMENT CHARACTER}"
    assert completion.logprobs == (
        TokenLogprob(broken, b"\xc3", -1.5, (best,)),
        TokenLogprob(broken, broken.encode(), -1.5, (best,)),
    )


def test_a_server_without_logprobs_is_an_error(tiny_base):
    says = r"request 1: the server reports no log-probabilities\. Leave out 'logprobs'"
    with answering(chats()) as server, pytest.raises(EngineError, match=says):
        RemoteEngine(server.url, tiny_base).generate([Request(CHAT, sampling=Sampling(logprobs=0))])


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request(CHAT, grammar=Grammar("regex", "red")), "cannot hold an answer to a regular expression.*vLLM"),
        (Request(CHAT, grammar=Grammar("lark", 'start: "red"')), "cannot hold an answer to a Lark grammar"),
        (Request(CHAT, answer_prefix="gre"), "cannot go on behind the beginning of an answer.*'searchlora serve'"),
        (Request(CHAT, sampling=Sampling(0.5, top_k=3)), "cannot sample with top_k. For this, use vLLM"),
        (Request(CHAT, sampling=Sampling(0.5, top_k=3, min_p=0.1)), "cannot sample with top_k and min_p"),
    ],
)
def test_unsupported_requests_to_other_servers_are_refused(tiny_base, request_, says):
    with answering(chats()) as server:
        with pytest.raises(EngineError, match=f"{server.url}, request 1: the server {says}"):
            RemoteEngine(server.url, tiny_base).generate([request_])
        with pytest.raises(EngineError, match=r"cannot score choices.*constrained: false.*vLLM"):
            RemoteEngine(server.url, tiny_base).score([Request(CHAT)], [["red"]])
        assert {asked.path for asked in server.asked} == {"/v1/models"}


def test_an_unknown_finish_reason_is_an_error(tiny_base):
    for finish, says in (("content_filter", "ended an answer with 'content_filter'"), (None, "'None'")):
        with answering(chats(finish=finish)) as server, pytest.raises(UnusableAnswer, match=says):
            RemoteEngine(server.url, tiny_base).generate([Request(CHAT)])


ODD_CHATS = [
    *({}, [], {"choices": []}, {"choices": [{}]}, {"choices": [{"message": {}}]}),
    *(chats(text) for text in ({"a": 1}, ["a"], 5, True)),
    *(chats(tokens=odd) for odd in (float("inf"), float("nan"), "many", None, [1])),
]
ODD_LOGPROBS = [
    {},
    {"content": None},
    {"content": [{}]},
    {"content": [[1]]},
    {"content": [LOGPROB | {"logprob": "-1"}]},
]


@pytest.mark.parametrize(
    ("answer", "logprobs"),
    [*((answer, None) for answer in ODD_CHATS), *((chats(logprobs=odd), 0) for odd in ODD_LOGPROBS)],
)
def test_a_malformed_answer_is_an_error(tiny_base, answer, logprobs):
    with answering(answer if callable(answer) else lambda _: Reply(answer)) as server:
        engine = RemoteEngine(server.url, tiny_base, dialect="openai", model="any", retries=0)
        with pytest.raises(EngineError, match=r"request 1: the server's answer is not understood"):
            engine.generate([Request(CHAT, sampling=Sampling(logprobs=logprobs))])


def test_a_malformed_list_of_models_is_an_error(tiny_base):
    says = r"/v1/models: the list of models is not understood"
    with answering(lambda _: Reply({})) as server, pytest.raises(EngineError, match=says):
        RemoteEngine(server.url, tiny_base).generate([Request(CHAT)])


def test_concurrency_is_limited(tiny_base):
    lock, under_way, most = threading.Lock(), 0, 0

    def slow(asked):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.03)
        with lock:
            under_way -= 1
        return chats(asked.body["messages"][0]["content"])(asked)

    with answering(slow) as server:
        engine = RemoteEngine(server.url, tiny_base, dialect="openai", model="any", concurrency=3)
        texts = [f"text {n}" for n in range(12)]
        requests = [Request(({"role": "user", "content": text},)) for text in texts]
        other = threading.Thread(target=engine.generate, args=(requests,))
        other.start()
        found = engine.generate(requests)
        other.join()
        engine.close()
    assert [completion.text for completion in found] == texts
    assert most == 3


class Slow:
    """A server of chats that holds its answers: for a time, or until as many requests as wanted are in flight."""

    def __init__(self, seconds, wanted=None):
        self.seconds, self.wanted = seconds, wanted
        self.lock, self.reached = threading.Lock(), threading.Event()
        self.under_way = self.most = 0

    def __call__(self, asked):
        if asked.path == "/v1/models":
            return chats()(asked)
        with self.lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            if self.under_way == self.wanted:
                self.reached.set()
        self.reached.wait(self.seconds)
        with self.lock:
            self.under_way -= 1
        return chats("red")(asked)


@pytest.fixture
def known_to_be_fast(monkeypatch):
    """The window need not grow first; `tests/test_http_client.py` has its tests."""
    monkeypatch.setattr("searchlora.http_client._FIRST_IN_FLIGHT", 10_000)


def texts(count):
    return [Request(({"role": "user", "content": str(n)},)) for n in range(count)]


@pytest.mark.slow
@pytest.mark.usefixtures("known_to_be_fast")
def test_256_requests_are_in_flight_unless_told_otherwise(tiny_base):
    slow = Slow(30, wanted=256)
    with answering(slow) as server:
        engine = make_engine(ServerSettings(url=server.url), tiny_base, None)
        found = engine.generate(texts(300))
        engine.close()
    assert {completion.text for completion in found} == {"red"}
    assert slow.most == 256


@pytest.mark.slow
@pytest.mark.usefixtures("known_to_be_fast")
def test_an_evaluation_keeps_a_server_busy(tiny_base, tmp_path):
    """Its calls of the engine hold more records than those of a local engine, 128."""
    slow = Slow(30, wanted=140)
    with answering(slow) as server:
        engine = make_engine(ServerSettings(url=server.url, concurrency=140), tiny_base, None)
        result = EngineSystem("base", first_word(tmp_path / "task"), engine).run(word_records(140))
        engine.close()
    assert set(result.outputs) == {"red"}
    assert slow.most == 140


def test_one_failure_cancels_the_other_requests(tiny_base):
    def answer(asked):
        if asked.body["messages"][0]["content"] == "bad":
            return Reply({"error": {"message": "no"}}, 400)
        return Reply(status=503)

    with answering(answer) as server:
        engine = RemoteEngine(server.url, tiny_base, dialect="openai", model="any", concurrency=2, retries=20)
        requests = [Request(({"role": "user", "content": text},)) for text in ("bad", *["good"] * 30)]
        started = time.monotonic()
        with pytest.raises(EngineError, match=r"refuses with 400 \(no\)"):
            engine.generate(requests)
        engine.close()
        assert time.monotonic() - started < 5
        assert len(server.asked) < 6


def test_closing_ends_running_calls(tiny_base):
    def slow(asked):
        time.sleep(0.2)
        return chats()(asked)

    with answering(slow) as server:
        engine = RemoteEngine(server.url, tiny_base, dialect="openai", model="any", concurrency=1)
        raised = []

        def call():
            with pytest.raises(EngineError) as found:
                engine.generate([Request(CHAT)] * 3)
            raised.append(str(found.value))

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        while not server.asked:
            time.sleep(0.01)
        engine.close()
        thread.join(5)
        assert raised == [f"{server.url}: the engine is closed."]
        assert len(server.asked) == 1
        for after in (lambda: engine.generate([Request(CHAT)]), lambda: engine.score([Request(CHAT)], [["a"]])):
            with pytest.raises(EngineError, match="the engine is closed"):
                after()


def test_errors_name_their_request(tiny_base):
    def answer(asked):
        long = asked.body["messages"][0]["content"] == "long"
        return Reply({"error": {"message": "too long"}}, 400) if long else chats()(asked)

    with answering(answer) as server:
        engine = RemoteEngine(server.url, tiny_base, dialect="openai", model="any")
        requests = [Request(({"role": "user", "content": text},)) for text in ("a", "b", "long")]
        with pytest.raises(RequestRefused, match=r"completions, request 3: the server refuses with 400 \(too long\)"):
            engine.generate(requests)


def test_a_searchlora_server_with_another_base_is_refused(tiny_base):
    cards = [{"id": "other-7b", "owned_by": "searchlora"}]
    with answering(lambda _: Reply({"data": cards})) as server:
        with pytest.raises(EngineError, match=r"has no base 'tiny' \(it has other-7b\).*--base tiny.*'model'"):
            RemoteEngine(server.url, tiny_base).generate([Request(CHAT)])
        with pytest.raises(EngineError, match="has no base 'mine'"):
            RemoteEngine(server.url, tiny_base, model="mine").generate([Request(CHAT)])
        assert {asked.path for asked in server.asked} == {"/v1/models"}


@pytest.mark.parametrize("values", [{"1": 2, "3": 4}, ["-1", "-2"], [float("nan"), 1.0]], ids=repr)
def test_scores_are_a_list_of_numbers(tiny_base, values):
    def answer(asked):
        if asked.path == "/v1/models":
            return Reply({"data": [{"id": "tiny", "owned_by": "searchlora"}]})
        return Reply({"log_probabilities": values, "usage": {"prompt_tokens": 1, "scored_tokens": 1}})

    with answering(answer) as server, pytest.raises(EngineError, match=r"not understood|not all finite"):
        RemoteEngine(server.url, tiny_base).score([Request(CHAT)], [["a", "b"]])


def test_a_server_without_adapters_loads_no_folder(tiny_base, tmp_path):
    with answering(chats()) as server:
        engine = RemoteEngine(server.url, tiny_base)
        with pytest.raises(EngineError, match=r"the server loads no adapters.*'searchlora serve' on the same store"):
            engine.load_folder("mine", tmp_path)
        with pytest.raises(UsageError, match="is the name of a stored version"):
            engine.load_folder("mine@1", tmp_path)


def test_what_distinguishes_outputs_is_asked_of_the_server(tiny_base):
    cards = [{"id": "tiny", "owned_by": "searchlora", "precision": "nf4+bf16", "batch_invariant": False}]
    with answering(lambda _: Reply({"data": cards})) as server:
        assert RemoteEngine(server.url, tiny_base).engine_id == (
            f"{server.url}, searchlora, tiny, nf4+bf16, not batch invariant"
        )
    with answering(chats()) as server:
        assert RemoteEngine(server.url, tiny_base).engine_id == f"{server.url}, openai, the-base"
        named = RemoteEngine(server.url, tiny_base, dialect="openai", model="any")
        asked = len(server.asked)
        assert named.engine_id == f"{server.url}, openai, any"
        assert len(server.asked) == asked  # it need not list its models


def test_prompts_of_a_base_with_options_of_their_own_are_not_left_to_the_server(tiny_base):
    """`searchlora serve` renders them with the default options, so the base would read another prompt."""
    cards = [{"id": "tiny", "owned_by": "searchlora"}]
    options = PromptOptions(template_kwargs={"enable_thinking": False})
    with answering(lambda _: Reply({"data": cards})) as server:
        engine = RemoteEngine(server.url, tiny_base, prompt_options=options)
        with pytest.raises(EngineError, match="renders prompts of the bare base with the default options"):
            engine.generate([Request(CHAT)])
