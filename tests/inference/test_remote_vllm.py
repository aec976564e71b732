"""The remote engine on vLLM: token ids, tree scoring, and loading of adapters."""

from __future__ import annotations

import json
import math

import pytest
from llguidance import LLMatcher, LLTokenizer

from searchlora.adapters.store import Store
from searchlora.errors import EngineError, LoadCheckFailed, NotInStore, PromptTooLong
from searchlora.inference.engine import ChoiceScores, Completion, Request
from searchlora.inference.remote.engine import RemoteEngine
from searchlora.inference.sampling import Sampling
from searchlora.models.load import load_tokenizer
from searchlora.outputs import Grammar
from searchlora.prompts import Renderer
from tests.inference.fake_vllm import FakeVllm
from tests.inference.http_server import Reply, answering
from tests.inference.small_models import random_store

CHAT = ({"role": "user", "content": "tent"},)
SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["red"]}}}


@pytest.fixture(scope="module")
def store(tiny_base, tmp_path_factory) -> Store:
    store = random_store(tiny_base, tmp_path_factory.mktemp("remote"), "one", "one")
    store.alias("one", "production", 1)
    return store


@pytest.fixture(scope="module")
def renderer(tiny_base):
    return Renderer(load_tokenizer(tiny_base))


class LikeVllm(FakeVllm):
    """Generates "red", and scores each token by its id and position."""

    def __init__(self, renderer, **options):
        super().__init__(**options)
        self.renderer = renderer

    def complete(self, body):
        assert body["repetition_penalty"] == 1
        if "logprob_token_ids" in body:
            assert body["temperature"] == 0
            assert len(body["logprob_token_ids"]) == body["logprobs"] <= 128
            assert len(body["prompt"]) <= 16
            choices = [
                {"index": index, "logprobs": self.scored(prompt, body)} for index, prompt in enumerate(body["prompt"])
            ]
            usage = {"prompt_tokens": sum(map(len, body["prompt"]))}
            return Reply({"choices": choices[::-1], "usage": usage})
        ids = self.renderer.completion_ids("red")
        choice = {"index": 0, "finish_reason": "stop", "token_ids": ids, "text": "not this"}
        if "logprobs" in body:
            likely = [{f"token_id:{token}": -0.5 - token, "token_id:5": -0.25, "token_id:6": -0.75} for token in ids]
            choice["logprobs"] = {
                "tokens": [f"token_id:{token}" for token in ids],
                "token_logprobs": [-0.5 - token for token in ids],
                "top_logprobs": likely,
            }
        return Reply({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": len(ids)}})

    def scored(self, prompt, body):
        """Greedy tokens among the allowed ones up to the end of the answer, with log-probabilities at each."""
        tokens, likely = [], []
        while len(tokens) < body["max_tokens"] and self.renderer.stop_id not in tokens:
            before = [*prompt, *tokens]
            likely.append({f"token_id:{token}": self.score(before, token) for token in body["logprob_token_ids"]})
            tokens.append(max(body.get("allowed_token_ids", [1]), key=lambda token: self.score(before, token)))
        return {"tokens": [f"token_id:{token}" for token in tokens], "top_logprobs": likely}

    @staticmethod
    def score(prompt, token):
        return -((token * 7 + sum(prompt) * 3 + len(prompt)) % 101) / 100


def test_vllm_receives_and_returns_token_ids(tiny_base, renderer):
    with answering(LikeVllm(renderer)) as server:
        engine = RemoteEngine(server.url, tiny_base)
        assert engine.generate([Request(CHAT, answer_prefix="gre", max_new_tokens=7)]) == [
            Completion("red", "stop", 9, 4)
        ]
    body = server.asked[-1].body
    assert body["prompt"] == [renderer.prompt_ids(CHAT, "gre")]
    assert (body["model"], body["max_tokens"], body["stop_token_ids"]) == ("the-base", 7, [renderer.stop_id])


def test_vllm_receives_sampling_and_stop_strings(tiny_base, renderer):
    sampling = Sampling(0.7, top_k=5, top_p=0.9, min_p=0.1, presence_penalty=0.5, frequency_penalty=-0.25, seed=3)
    with answering(LikeVllm(renderer)) as server:
        engine = RemoteEngine(server.url, tiny_base)
        plain = Request(CHAT, sampling=Sampling(0.5))
        stopped = Request(CHAT, sampling=sampling, stop=("ed", "END"))
        assert [each.text for each in engine.generate([plain, stopped])] == ["red", "r"]
        engine.generate([Request(CHAT, sampling=Sampling(top_k=5, top_p=0.5))])
    sent = [asked.body for asked in server.asked if asked.path == "/v1/completions"]
    of_plain, of_stopped = sorted(sent[:2], key=lambda body: body["temperature"])
    assert of_stopped["stop"] == ["ed", "END"]
    fields = ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty", "seed")
    assert {name: of_stopped[name] for name in fields} == {name: getattr(sampling, name) for name in fields}
    # The generation_config of the base model may set filters, so they are always sent.
    assert {name: of_plain.get(name) for name in fields} == dict.fromkeys(fields) | {
        "temperature": 0.5,
        "top_k": -1,
        "top_p": 1.0,
        "min_p": 0.0,
    }
    assert {name: sent[2].get(name) for name in fields} == dict.fromkeys(fields) | {"temperature": 0}


@pytest.mark.parametrize(("stop", "text"), [((), "red"), (("e",), "r")])
def test_vllm_reports_logprobs_of_the_tokens_of_the_text(tiny_base, renderer, stop, text):
    with answering(LikeVllm(renderer)) as server:
        request = Request(CHAT, sampling=Sampling(logprobs=1), stop=stop)
        (completion,) = RemoteEngine(server.url, tiny_base).generate([request])
    assert completion.text == text
    ids = renderer.completion_ids("red")[: len(text)]
    assert [each.text for each in completion.logprobs] == list(text)
    assert [each.bytes for each in completion.logprobs] == [each.encode() for each in text]
    assert [each.logprob for each in completion.logprobs] == [-0.5 - token for token in ids]
    assert [[top.logprob for top in each.top] for each in completion.logprobs] == [[-0.25]] * len(text)


@pytest.mark.parametrize(
    ("grammar", "structured"),
    [
        (Grammar("regex", "red|green"), {"regex": "red|green"}),
        (Grammar("lark", 'start: "red"'), {"grammar": 'start: "red"'}),
    ],
)
def test_vllm_receives_grammars(tiny_base, renderer, grammar, structured):
    with answering(LikeVllm(renderer)) as server:
        RemoteEngine(server.url, tiny_base).generate([Request(CHAT, grammar=grammar)])
    assert server.asked[-1].body["structured_outputs"] == structured
    assert server.asked[-1].body["ignore_eos"] is False


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"colour":"red"}', True),
        ('{"colour" : "red"}', True),
        ('{"colour":  "red"}', False),
        ('{ "colour":"red"}', False),
    ],
)
def test_vllm_receives_schemas_without_runs_of_white_space(tiny_base, renderer, text, fits):
    with answering(LikeVllm(renderer)) as server:
        RemoteEngine(server.url, tiny_base).generate(
            [Request(CHAT, grammar=Grammar("json_schema", json.dumps(SCHEMA)))]
        )
    sent = server.asked[-1].body["structured_outputs"]["json"]
    # As vLLM's backend `guidance` reads a schema.
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(sent), defaults={"whitespace_flexible": True})
    tokens = LLTokenizer("byte").tokenize_str(text)
    assert (LLMatcher(LLTokenizer("byte"), grammar).validate_tokens(tokens) == len(tokens)) is fits


def exact_score(renderer, prompt, choice, suffix=None, score=LikeVllm.score):
    ids = renderer.completion_ids(choice, suffix)
    return sum(score([*prompt, *ids[:end]], token) for end, token in enumerate(ids))


def test_vllm_scores_choices_as_a_tree_of_tokens(tiny_base, renderer):
    request = Request(CHAT, answer_prefix="a ", choice_suffix="\n")
    choices = ["red", "reed", "green", "red", *(f"{number:02}x" for number in range(60))]
    prompt = renderer.prompt_ids(CHAT, "a ")
    with answering(LikeVllm(renderer)) as server:
        (found,) = RemoteEngine(server.url, tiny_base).score([request], [choices])
        prompts = [each for asked in server.asked[1:] for each in asked.body["prompt"]]
    for choice, score in zip(choices, found.log_probabilities, strict=True):
        assert score == pytest.approx(exact_score(renderer, prompt, choice, "\n"))
    beginnings = {
        tuple(ids[:end])
        for choice in choices
        if (ids := renderer.completion_ids(choice, "\n"))
        for end in range(len(ids))
    }
    assert len(prompts) == len({*map(tuple, prompts)}) < len(beginnings)  # none is sent twice, and chains are followed
    assert {tuple(each[len(prompt) :]) for each in prompts} <= beginnings
    assert found.prompt_tokens == sum(map(len, prompts))
    # Each beginning but the empty one is itself scored, and so are all ends.
    assert found.scored_tokens == len(beginnings - {()}) + 63


class Judge(LikeVllm):
    """Prefers the second of four grades, and is as sure of it as `odds` says; every grade is the whole answer."""

    odds = (-4.0, -0.05, -9.0, -12.0)

    def score(self, prompt, token):
        grades = [self.renderer.completion_ids(grade)[0] for grade in "0123"]
        if prompt[-1] in grades:
            return -0.01 if token == self.renderer.stop_id else -20.0
        return self.odds[grades.index(token)] if token in grades else -15.0


@pytest.mark.parametrize(("margin", "prompts"), [(8, 2), (None, 4), (2, 1)])
def test_a_grade_takes_one_prompt_and_one_for_each_other_grade_that_matters(tiny_base, renderer, margin, prompts):
    """Five prompts before: one for the first tokens, and one for the end of each grade."""
    judge = Judge(renderer)
    with answering(judge) as server:
        (found,) = RemoteEngine(server.url, tiny_base).score(
            [Request(CHAT)], [["0", "1", "2", "3"]], prune_margin=margin
        )
        sent = [each for asked in server.asked[1:] for each in asked.body["prompt"]]
    assert len(sent) == prompts
    exact = [exact_score(renderer, renderer.prompt_ids(CHAT), grade, score=judge.score) for grade in "0123"]
    odds = [[math.exp(value) for value in values] for values in (found.log_probabilities, exact)]
    one, other = ([value / sum(values) for value in values] for values in odds)
    assert one.index(max(one)) == other.index(max(other)) == 1
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) <= math.exp(-(margin or 30))


def test_more_choices_than_vllm_reports_at_once_are_asked_for_in_parts(tiny_base, renderer):
    # 138 first bytes in UTF-8
    codes = [*range(33, 127), *(lead << 6 for lead in range(2, 32)), *(lead << 12 for lead in (*range(1, 13), 14, 15))]
    choices = [chr(code) for code in codes]
    with answering(LikeVllm(renderer)) as server:
        (found,) = RemoteEngine(server.url, tiny_base).score([Request(CHAT)], [choices])
    prompt = renderer.prompt_ids(CHAT)
    exact = [exact_score(renderer, prompt, choice) for choice in choices]
    assert found.log_probabilities == pytest.approx(exact)


def test_no_choices_give_no_scores(tiny_base, renderer):
    with answering(LikeVllm(renderer)) as server:
        engine = RemoteEngine(server.url, tiny_base)
        assert engine.score([Request(CHAT)], [[]]) == [ChoiceScores((), 0, 0)]
        assert engine.score([Request(CHAT, choice_suffix="")], [[""]]) == [ChoiceScores((0.0,), 0, 0)]


def test_a_vllm_without_log_probabilities_of_given_tokens_is_an_error(tiny_base, renderer):
    def older(asked):
        reply = LikeVllm(renderer)(asked)
        for choice in reply.content.get("choices", ()):
            choice["logprobs"]["top_logprobs"] = [{"token_id:1": -0.5}]
        return reply

    with (
        answering(older) as server,
        pytest.raises(EngineError, match=r"request 1: this vLLM reports no log-probability .*newer"),
    ):
        RemoteEngine(server.url, tiny_base).score([Request(CHAT)], [["red"]])


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_scores_of_a_server_that_are_not_finite_are_an_error(tiny_base, renderer, value):
    def broken(asked):
        answer = LikeVllm(renderer)(asked)
        for choice in answer.content.get("choices", ()):
            first = choice["logprobs"]["top_logprobs"][0]
            first[next(iter(first))] = value
        return answer

    with answering(broken) as server, pytest.raises(EngineError, match=r"request 1: .*not all finite"):
        RemoteEngine(server.url, tiny_base).score([Request(CHAT)], [["red", "green"]])


@pytest.mark.slow
def test_vllm_loads_an_adapter_once_after_the_checks_of_every_load(tiny_base, renderer, store):
    with answering(LikeVllm(renderer)) as server:
        engine = RemoteEngine(server.url, tiny_base, store, load=True)
        engine.generate([Request(CHAT, "one@production"), Request(CHAT, "one@2"), Request(CHAT, "one"), Request(CHAT)])
        engine.generate([Request(CHAT, "one@1")])
        loads = [asked.body for asked in server.asked if "load" in asked.path]
        models = [asked.body["model"] for asked in server.asked if asked.path == "/v1/completions"]
        assert engine.load("one@2") == "one@2"
        assert [engine.unload("one@2"), engine.unload("one@2")] == [True, False]
        engine.generate([Request(CHAT, "one@2")])
    assert sorted(loads, key=str) == [
        {"lora_name": f"one@{version}", "lora_path": str((store.root / "one" / str(version)).resolve())}
        for version in (1, 2)
    ]
    assert sorted(models) == ["one@1", "one@1", "one@2", "one@2", "the-base"]
    assert server.asked[-1].body["model"] == "one@2"


def test_each_prompt_is_rendered_once(tiny_base, renderer, monkeypatch):
    """Its length is checked and it is sent; the choices of a closed set are tokenised once for all requests."""
    rendered, tokenised = [], []
    prompt_ids, completion_ids = Renderer.prompt_ids, Renderer.completion_ids
    monkeypatch.setattr(
        Renderer, "prompt_ids", lambda self, chat, *more: rendered.append(chat) or prompt_ids(self, chat, *more)
    )
    monkeypatch.setattr(
        Renderer, "completion_ids", lambda self, *text: tokenised.append(text) or completion_ids(self, *text)
    )
    requests = [Request(({"role": "user", "content": text},)) for text in ("tent", "boot", "lamp")]
    with answering(lambda asked: LikeVllm(renderer)(asked)) as server:
        engine = RemoteEngine(server.url, tiny_base)
        engine.generate(requests)
        assert rendered == [request.messages for request in requests]
        tokenised.clear()  # of the server's answers
        engine.score(requests, [["red", "green"]] * 3)
        engine.score(requests, [["red", "green"]] * 3)
    assert rendered == [request.messages for request in requests] * 3
    assert sorted(tokenised) == [("green", None), ("red", None)]


@pytest.mark.slow
def test_an_adapter_that_is_no_version_is_loaded_from_its_folder_and_replaced(tiny_base, renderer, store, tmp_path):
    with answering(LikeVllm(renderer)) as server:
        engine = RemoteEngine(server.url, tiny_base, store, load=True)
        for place in ("first", "second"):
            engine.load_folder("candidate", tmp_path / place)
            engine.generate([Request(CHAT, "candidate")])
            assert server.asked[-1].body["model"] == "candidate"
        assert engine.unload("candidate")
        asked = [(each.path, each.body) for each in server.asked if "load" in each.path]
        with pytest.raises(EngineError, match="the server loads no adapters"):
            RemoteEngine(server.url, tiny_base, store).load_folder("candidate", tmp_path)
    load, unload, name = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", {"lora_name": "candidate"}
    assert asked == [
        (load, {**name, "lora_path": str(tmp_path / "first")}),
        (unload, name),
        (load, {**name, "lora_path": str(tmp_path / "second")}),
        (unload, name),
    ]


@pytest.mark.slow
def test_an_adapter_is_reloaded_after_a_restart_of_vllm(tiny_base, renderer, store):
    like = LikeVllm(renderer)
    with answering(like) as server:
        engine = RemoteEngine(server.url, tiny_base, store, load=True)
        requests = [Request(CHAT, "one@1"), Request(CHAT, "one@2")] * 4
        engine.generate(requests)
        like.adapters.clear()
        assert [found.text for found in engine.generate(requests)] == ["red"] * 8
        like.adapters.clear()
        assert len(engine.score([Request(CHAT, "one@1")], [["red"]])) == 1
        loads = [asked.body["lora_name"] for asked in server.asked if "load" in asked.path]
        assert sorted(loads) == ["one@1", "one@1", "one@1", "one@2", "one@2"]
        may_not = RemoteEngine(server.url, tiny_base, store)
        may_not.generate([Request(CHAT, "one@1")])
        like.adapters.clear()
        with pytest.raises(EngineError, match="no model 'one@1'"):
            may_not.generate([Request(CHAT, "one@1")])
        with pytest.raises(EngineError, match="refuses with 404"):
            RemoteEngine(server.url, tiny_base, model="gone").generate([Request(CHAT)])


def test_a_tampered_adapter_is_not_loaded(tiny_base, renderer, store, monkeypatch):
    monkeypatch.setattr("searchlora.adapters.stored.file_hashes", lambda *_, **__: {})
    with answering(LikeVllm(renderer)) as server:
        with pytest.raises(LoadCheckFailed):
            RemoteEngine(server.url, tiny_base, store, load=True).load("one@1")
        assert {asked.path for asked in server.asked} == {"/v1/models"}


def test_a_missing_adapter_without_permission_to_load_is_an_error(tiny_base, renderer, store):
    with answering(LikeVllm(renderer)) as server:
        engine = RemoteEngine(server.url, tiny_base, store)
        with pytest.raises(EngineError, match=r"no model 'one@2' \(it has the-base\).*--lora-modules one@2=FOLDER"):
            engine.generate([Request(CHAT, "one")])
        with pytest.raises(EngineError, match="no adapter is unloaded here"):
            engine.unload("one")
    says = r"load_lora_adapter: the server refuses with 404 \(Not Found\)"
    with answering(LikeVllm(renderer, loads=False)) as server, pytest.raises(EngineError, match=says):
        RemoteEngine(server.url, tiny_base, store, load=True).load("one")


def test_adapters_can_be_mapped_to_server_names(tiny_base, renderer, store):
    with answering(LikeVllm(renderer, adapters=["mine"])) as server:
        engine = RemoteEngine(server.url, tiny_base, store, names={"one@production": "mine"}, model="the-base")
        engine.generate([Request(CHAT, "one@1")])
        engine.generate([Request(CHAT)])
        assert [asked.body["model"] for asked in server.asked[1:]] == ["mine", "the-base"]
        without = RemoteEngine(server.url, tiny_base, names={"anything": "mine"})
        without.generate([Request(CHAT, "anything")])
        assert without.pin("one@3") == "one@3"
        with pytest.raises(NotInStore, match="the version of 'one@production' is unknown without a store"):
            without.pin("one@production")
    with pytest.raises(NotInStore):
        RemoteEngine("http://localhost", tiny_base, store, names={"three": "mine"})


def test_a_prompt_longer_than_the_context_is_refused_before_sending(tiny_base, renderer):
    long = Request(({"role": "user", "content": "x" * 150},), max_new_tokens=40)
    with answering(LikeVllm(renderer)) as server:
        engine = RemoteEngine(server.url, tiny_base)
        with pytest.raises(PromptTooLong) as found:
            engine.generate([Request(CHAT), long])
        with pytest.raises(PromptTooLong):
            engine.score([long], [["x" * 60]])
        assert found.value.request == 1
        assert [asked.path for asked in server.asked] == ["/v1/models"]
