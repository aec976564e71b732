"""A model of a service: answers, and the probabilities of closed sets from the log-probabilities of the first token."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from searchlora.errors import EngineError, NotInStore
from searchlora.inference.engine import Request
from searchlora.inference.metered import MeteredEngine
from searchlora.inference.remote.service import ServiceEngine
from searchlora.inference.settings import ServerSettings
from tests.inference.http_server import Reply, answering

ASK = Request(({"role": "user", "content": "tent?"},), max_new_tokens=5)


def message(text, likely=None):
    """A chat completion whose first token has these likely alternatives."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if likely is not None:
        top = [{"token": token, "logprob": math.log(share)} for token, share in likely.items()]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return Reply({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 1}})


def engine_of(server):
    return ServiceEngine(ServerSettings(url=server.url, retries=0), "big-model")


def test_an_answer_is_the_text_of_the_service_and_nothing_of_this_machine_is_needed():
    with answering(lambda _: message("red tent")) as server:
        engine = engine_of(server)
        (completion,) = engine.generate([ASK])
        assert (completion.text, completion.prompt_tokens) == ("red tent", 7)
        assert server.asked[0].body["model"] == "big-model" and server.asked[0].body["temperature"] == 0
        assert engine.engine_id == f"{server.url}, big-model"
        with pytest.raises(NotInStore, match="has no adapter 'judge'"):
            engine.pin("judge")


def test_choices_have_the_probabilities_of_their_first_tokens():
    likely = {"2": 0.5, " 2": 0.1, "0": 0.25, "The": 0.1, "3": 0.05}
    with answering(lambda _: message("2", likely)) as server:
        (scores,) = engine_of(server).score([ASK], [["0", "1", "2", "3"]])
        assert [math.exp(value) for value in scores.log_probabilities] == pytest.approx([0.25, 0.05, 0.6, 0.05])
        assert server.asked[0].body["top_logprobs"] == 20 and server.asked[0].body["max_tokens"] == 1


def test_a_model_that_names_no_choice_first_gives_no_choice_a_score():
    with answering(lambda _: message("<think>", {"<think>": 0.9, "Grade": 0.1})) as server:
        (scores,) = engine_of(server).score([ASK], [["0", "1"]])
        assert all(map(math.isnan, scores.log_probabilities))
        with pytest.raises(EngineError, match="cannot go on behind the beginning"):
            engine_of(server).generate([replace(ASK, answer_prefix="2\n")])


@pytest.mark.parametrize(
    ("reply", "choices", "fault"),
    [
        (message("2"), ["0", "2"], "reports no log-probabilities"),
        (message("card", {"card": 0.9}), ["card_lost", "card_new"], "begin with the same token 'card'"),
        (Reply({"choices": []}), ["0", "2"], "is not understood"),
    ],
)
def test_a_service_that_cannot_score_is_an_error(reply, choices, fault):
    with answering(lambda _: reply) as server, pytest.raises(EngineError, match=fault):
        engine_of(server).score([ASK], [choices])


def test_a_request_that_is_refused_alone_has_no_answer_and_a_warning_tells_why():
    refusal = Reply({"error": {"message": "no such content"}}, 400)
    with (
        answering(lambda _: refusal) as server,
        pytest.warns(UserWarning, match="a request: .*no such content"),
    ):
        (completion,) = engine_of(server).generate([ASK])
        (scores,) = engine_of(server).score([ASK], [["0", "1"]])
    assert completion.text == "" and all(map(math.isnan, scores.log_probabilities)) and len(server.asked) == 2


def test_a_service_that_refuses_all_is_an_error():
    refusal = Reply({"error": {"message": "wrong key"}}, 401)
    with answering(lambda _: refusal) as server, pytest.raises(EngineError, match="wrong key"):
        engine_of(server).generate([ASK])


@pytest.mark.parametrize("usage", [{"usage": None}, {}])
def test_an_answer_without_token_counts_is_an_answer(usage):
    content = {key: value for key, value in message("2", {"2": 0.9, "0": 0.1}).content.items() if key != "usage"}
    with answering(lambda _: Reply({**content, **usage})) as server:
        meter = MeteredEngine(engine_of(server))
        (completion,) = meter.generate([ASK])
        (scores,) = meter.score([ASK], [["0", "2"]])
    assert completion.text == "2" and scores.log_probabilities[1] == pytest.approx(math.log(0.9))
    assert (meter.prompt_tokens, meter.uncounted) == (0, 2)


@pytest.mark.parametrize("error", [{"message": "no credit left", "code": 402}, "no credit left"])
def test_an_error_in_an_answer_200_is_shown(error):
    with (
        answering(lambda _: Reply({"error": error})) as server,
        pytest.raises(EngineError, match="no credit left") as shown,
    ):
        engine_of(server).generate([ASK])
    assert "KeyError" not in str(shown.value)


def test_a_service_that_answers_by_another_model_names_it():
    content = message("red").content
    with answering(lambda _: Reply({**content, "model": "big-model-2026-08"})) as server:
        engine = engine_of(server)
        engine.generate([ASK])
        assert engine.served == {"big-model-2026-08"}
    with answering(lambda _: Reply({**content, "model": "big-model"})) as server:
        engine = engine_of(server)
        engine.generate([ASK])
        assert not engine.served
