"""Answers under a grammar: truncated ones, and grammars that cannot be followed or compiled."""

from __future__ import annotations

import pytest

from tests.server.api.serving import asked

CHAT = "/v1/chat/completions"

#: llguidance gives up the first at once, and the second after some tokens.
GIVEN_UP = ({"regex": "(a?){999}a{999}"}, {"grammar": "start: /[bc]{3}/ /[de]{3}/ A\nA: /(a?){999}a{999}/"})
TOO_COMPLEX = {"grammar": "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(4500)) + 'r4500: "x"\n'}


def requests(outputs):
    """A request with this constraint to each path that takes one."""
    yield CHAT, asked(structured_outputs=outputs, max_tokens=20)
    yield CHAT, asked(structured_outputs=outputs, max_tokens=20, n=2, temperature=0.5)
    yield "/v1/completions", {"model": "one", "prompt": ["a", "b"], "max_tokens": 20, "structured_outputs": outputs}


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [*GIVEN_UP, TOO_COMPLEX], ids=["at once", "after some tokens", "too complex"])
def test_a_grammar_that_cannot_be_followed_is_an_error_of_its_request(client, outputs):
    for path, body in requests(outputs):
        answer = client.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_served"), answer.text
        streamed = client.post(path, json=body | {"stream": True})
        assert "not_served" in streamed.text
        assert '"finish_reason": "stop"' not in streamed.text and "[DONE]" not in streamed.text
    good = client.post(CHAT, json=asked(structured_outputs={"regex": "b{3}"}))
    assert good.json()["choices"][0]["message"]["content"] == "bbb"


@pytest.mark.slow
def test_a_schema_that_takes_minutes_to_compile_is_refused(client):
    schema = {"type": "integer", "multipleOf": 9_999_991}
    response_format = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    answer = client.post(CHAT, json=asked(response_format=response_format))
    assert answer.status_code == 400
    assert "too complex" in answer.json()["error"]["message"]
