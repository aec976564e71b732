"""Grammar masks: what llguidance admits is what the strict parser accepts."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.errors import RequestRefused
from searchlora.inference.constrained import Constraints, mask_logits
from searchlora.inference.decoding import AnswerState, append_tokens
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.sampling import Sampling, TokenSampler
from searchlora.inference.scheduling.requests import GenerateRequest
from searchlora.models.load import load_tokenizer
from searchlora.outputs import CitedText, Grammar, InvalidOutput, JsonObject
from tests.inference.small_models import local_engine


def object_of(properties):
    required = list(properties)[:1]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


VALUES = st.recursive(
    st.fixed_dictionaries({"type": st.sampled_from(["boolean", "null"])})
    | st.integers(0, 99).map(lambda n: {"type": "integer", "minimum": 0, "maximum": n})
    | st.lists(st.text('ab"\\é{', max_size=3), min_size=1, max_size=3, unique=True).map(lambda names: {"enum": names})
    | st.integers(0, 3).map(lambda n: {"type": "string", "maxLength": n}),
    lambda inner: (
        st.tuples(inner, st.integers(0, 2)).map(
            lambda pair: {"type": "array", "items": pair[0], "minItems": 0, "maxItems": pair[1]}
        )
        | st.dictionaries(st.text("xyz ", min_size=1, max_size=2), inner, max_size=2).map(object_of)
    ),
    max_leaves=3,
)


OBJECTS = st.dictionaries(st.text("xyz ", min_size=1, max_size=2), VALUES, max_size=3).map(object_of)


@pytest.fixture(scope="module")
def engine(tiny_base) -> LocalEngine:
    return LocalEngine(tiny_base, precision="fp32")


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return load_tokenizer(tiny_base)


@pytest.fixture(scope="module")
def constraints(tokenizer) -> Constraints:
    return Constraints(tokenizer, len(tokenizer), 2)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.lists(OBJECTS, min_size=1, max_size=3))
def test_a_finished_answer_matches_its_schema(engine, schemas):
    """A model of random weights writes nonsense; only the grammar makes JSON of it."""
    specs = [JsonObject(schema) for schema in schemas]
    requests = [Request(({"role": "user", "content": "?"},), None, 400, spec.grammar) for spec in specs]
    for spec, completion in zip(specs, engine.generate(requests), strict=True):
        assert completion.finish == "stop"
        assert spec.parse(completion.text) == json.loads(completion.text)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 11), st.text(st.sampled_from("[]01 a.\n\x1c٣"), max_size=8) | st.just("No (none)."))
def test_llguidance_and_re_agree_on_the_citation_regex(constraints, tokenizer, passages, text):
    spec = CitedText(passages, "No (none).")
    (matcher,) = constraints.matchers([spec.grammar])
    ids = tokenizer(text)["input_ids"]
    admitted = matcher.validate_tokens([*ids, 2]) == len(ids) + 1
    assert not admitted or not isinstance(spec.parse(text), InvalidOutput)
    if text in ("No (none).", "a.", "a [1]."):
        assert admitted == (passages > 0 or text != "a [1].")


@pytest.mark.parametrize(
    ("text", "admitted"),
    [("a [1].", True), ("a [2][1]", True), ("a [3].", False), ("[0] a", False), ("a [b] c", True), ("a [1", False),
     ("a [1, 2]", False), ("None.", True), (" ", False), ("a\nb", True)],
)  # fmt: skip
def test_only_supplied_passages_are_cited(constraints, tokenizer, text, admitted):
    (matcher,) = constraints.matchers([CitedText(2, "None.").grammar])
    ids = tokenizer(text)["input_ids"]
    assert (matcher.validate_tokens([*ids, 2]) == len(ids) + 1) == admitted


def test_a_run_of_spaces_in_json_is_not_admitted(constraints, tokenizer):
    (matcher,) = constraints.matchers([JsonObject({"type": "object"}).grammar])
    for text, admitted in (('{"a": [1, 2], "b" : 1}', True), ('{"a":1}', True), ('{"a":  1}', False), ("{\n", False)):
        ids = tokenizer(text)["input_ids"]
        assert (matcher.validate_tokens(ids) == len(ids)) == admitted


def test_logits_beyond_the_tokenizers_vocabulary_are_ruled_out(tokenizer):
    import torch

    (matcher,) = Constraints(tokenizer, 300, 2).matchers([Grammar("regex", ".*")])
    scores = torch.zeros(2, 300)
    assert mask_logits({1: matcher}, scores) == {}
    assert scores[0].isfinite().all()
    assert not scores[1, len(tokenizer) :].isfinite().any()
    assert scores[1, 2] == 0  # the answer may end here
    assert not scores[1, :2].isfinite().any()  # no other special token
    assert scores[1].isfinite().sum() > 100


def test_an_answer_without_valid_continuation_ends(tokenizer, constraints):
    import torch

    (matcher,) = constraints.matchers([Grammar("regex", "a")])
    answer = AnswerState(GenerateRequest(ids=(5,), max_new_tokens=9, matcher=matcher))
    while not answer.ended:
        append_tokens([answer], torch.zeros((1, len(tokenizer))), 2)
    assert answer.ids == [tokenizer("a")["input_ids"][0], 2]


#: llguidance compiles it, and reaches a limit of its lexer after some tokens.
TOO_COMPLEX = "start: /[bc]{3}/ /[de]{3}/ A\nA: /(a?){999}a{999}/"


def asked(grammar, tokens=12):
    return Request(({"role": "user", "content": "?"},), None, tokens, grammar)


@pytest.fixture(scope="module", params=["batched", "one adapter"])
def each_runner(request, tiny_base):
    engine = local_engine(request.param, tiny_base)
    yield engine
    engine.close(5)


def test_a_grammar_that_llguidance_gives_up_is_an_error_of_its_request_alone(each_runner):
    given_up, finished = asked(Grammar("lark", TOO_COMPLEX)), asked(Grammar("regex", "b{3}"))
    futures = each_runner.submit_answers(given_up, 2) + each_runner.submit_answers(finished, 2)
    for future in futures[:2]:
        with pytest.raises(RequestRefused, match="cannot be followed further"):
            future.result(20)
    assert [future.result(20).text for future in futures[2:]] == ["bbb", "bbb"]
    with pytest.raises(RequestRefused, match=r"request 2: .*further"):
        each_runner.generate([finished, given_up])


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=1, logprobs=1, presence_penalty=1.0)])
def test_a_mask_after_an_error_is_never_followed(tokenizer, constraints, sampling):
    """The mask of a failed matcher allows the stop token alone."""
    import torch

    matchers = constraints.matchers([Grammar("regex", "ab"), None])
    matchers[0].consume_token(2)
    requests = [
        GenerateRequest(ids=(5,), max_new_tokens=9, matcher=matcher, sampler=TokenSampler(sampling, 0))
        for matcher in matchers
    ]
    answers = [AnswerState(request) for request in requests]
    append_tokens(answers, torch.zeros((2, len(tokenizer))), 2)
    assert isinstance(answers[0].error, RequestRefused)
    assert answers[0].ids == []
    assert answers[1].error is None
    assert len(answers[1].ids) == 1


CHAIN = "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(4500)) + 'r4500: "x"\n'
NESTED = {f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(1500)}
MULTIPLES = [{"type": "integer", "multipleOf": 9_001 + number} for number in range(90)]


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        (Grammar("regex", "(a?){999}a{999}"), "too many expressions"),
        (Grammar("regex", "((a{100}){100}){100}b"), "too many expressions"),
        (Grammar("regex", "a?" * 30_000), "too big"),
        (Grammar("regex", "(" * 20_000 + "x" + ")" * 20_000), "invalid regex"),
        (Grammar("lark", "start: " + "(" * 20_000 + '"x"' + ")" * 20_000), "too deeply nested"),
        (Grammar("lark", CHAIN), "more than 500 rules"),  # overflows the stack of llguidance
        (Grammar("json_schema", json.dumps({"$ref": "#/$defs/d0", "$defs": NESTED})), "more than 500 rules"),
        (Grammar("json_schema", '{"type": "integer", "multipleOf": 9999991}'), "above 10,000"),  # takes minutes
        (Grammar("lark", 'start: %json {"type": "integer", "multipleOf": 1e7}'), "above 10,000"),
        (Grammar("json_schema", json.dumps({"prefixItems": MULTIPLES})), "above 10,000"),
    ],
)
def test_a_hostile_grammar_is_refused_within_seconds(constraints, grammar, says):
    started = time.monotonic()
    with pytest.raises(RequestRefused, match=says) as refused:
        constraints.matchers([grammar])
    assert "<state>" not in str(refused.value) and len(str(refused.value)) < 600
    assert time.monotonic() - started < 10


def test_a_stop_token_inside_a_grammar_does_not_finish_the_answer(engine):
    with pytest.raises(RequestRefused, match="does not allow the answer to end here"):
        engine.generate([asked(Grammar("lark", 'start: "a" <|im_end|> "b"'))])
    (completion,) = engine.generate([asked(Grammar("lark", 'start: "a" <|im_end|>'))])
    assert (completion.text, completion.finish) == ("a", "stop")
