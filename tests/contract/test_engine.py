"""Contract of every engine. A new engine is one more line in the fixture `engine`."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import EngineError, NotInStore, RequestRefused
from searchlora.inference.engine import Engine, Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.remote.engine import RemoteEngine
from searchlora.inference.sampling import Sampling
from searchlora.outputs import Grammar, InvalidOutput, JsonObject
from tests.factories import first_word, random_adapter
from tests.server.api.serving import made_service, served

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "sleeps": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["colour", "sleeps"],
    "additionalProperties": False,
}
COLOUR = Grammar("regex", "red|green|greenish")
PROMPTS = ["tent", "a boot for the rain", "stove", "rope rope rope rope rope rope", "lamp, and more lamp"]


@pytest.fixture(scope="module")
def store(tiny_base, tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("engine")
    store = Store(folder / "store")
    task = first_word(folder / "task")
    for seed, name in enumerate(("one", "two.dots", "one")):
        random_adapter(store, name, task, tiny_base, folder / f"made{seed}", seed)
    store.alias("one", "production", 1)
    return store


@pytest.fixture(scope="module", params=["local", "remote"])
def engine(request, tiny_base, store) -> Iterator[Engine]:
    """In process; and what `searchlora serve` serves, asked over a socket."""
    if request.param == "local":
        yield LocalEngine(tiny_base, store, precision="fp32", max_num_seqs=3)
        return
    with served(made_service(tiny_base, store, max_num_seqs=3)) as url:
        yield RemoteEngine(url, tiny_base, store)


def asked(
    text: str, adapter: str | None, tokens: int = 6, grammar: Grammar | None = None, begins: str = "", ends=None
) -> Request:
    return Request(({"role": "user", "content": text},), adapter, tokens, grammar, begins, ends)


def sampled(
    text: str, adapter: str | None, tokens: int = 12, *, grammar: Grammar | None = None, **sampling: Any
) -> Request:
    return Request(({"role": "user", "content": text},), adapter, tokens, grammar, sampling=Sampling(**sampling))


@pytest.mark.slow
def test_one_completion_per_request_in_order(engine):
    alone = [engine.generate([asked(text, "one@1")])[0] for text in PROMPTS]
    together = engine.generate([asked(text, "one@1") for text in PROMPTS])
    assert together == alone
    turned = engine.generate([asked(text, "one@1") for text in reversed(PROMPTS)])
    assert turned[::-1] == alone


@pytest.mark.slow
def test_mixed_adapters_answer_as_in_separate_calls(engine):
    adapters = [None, "one@1", "two.dots", "one@2", None]
    mixed = engine.generate([asked(text, adapter) for text, adapter in zip(PROMPTS, adapters, strict=True)])
    alone = [engine.generate([asked(text, adapter)])[0] for text, adapter in zip(PROMPTS, adapters, strict=True)]
    assert mixed == alone
    answers = {adapter: engine.generate([asked("tent", adapter)])[0].text for adapter in (None, "one@1", "one@2")}
    assert len(set(answers.values())) == 3


def test_no_completion_exceeds_max_new_tokens(engine):
    few, many = engine.generate([asked("tent", "one@1", 2), asked("tent", "one@1", 9)])
    assert few.completion_tokens <= 2
    assert many.text.startswith(few.text)
    assert few.finish == "length" or few.completion_tokens < 2


def test_no_requests_give_no_completions(engine):
    assert engine.generate([]) == []
    assert engine.score([], []) == []


def test_pin_resolves_a_reference_to_its_version(engine):
    assert engine.pin("one") == "one@2"
    assert engine.pin("one@production") == "one@1"
    production = engine.generate([asked("tent", "one@production")])
    assert production == engine.generate([asked("tent", "one@1")])


@pytest.mark.parametrize("reference", ["three", "one@7", "one@staging"])
def test_a_missing_adapter_is_an_error_that_names_it(engine, reference):
    with pytest.raises(NotInStore, match=reference.partition("@")[0]):
        engine.generate([asked("tent", reference)])


def test_scores_are_log_probabilities_of_whole_choices(engine):
    requests = [asked(text, "one@1") for text in PROMPTS[:3]]
    choices = [["red", "green"], ["a longer choice", "b"], ["x"]]
    scores = engine.score(requests, choices)
    assert [len(row.log_probabilities) for row in scores] == [2, 2, 1]
    assert all(score < 0 and math.isfinite(score) for row in scores for score in row.log_probabilities)
    alone = [engine.score([request], [row])[0] for request, row in zip(requests, choices, strict=True)]
    for together, single in zip(scores, alone, strict=True):
        assert together.log_probabilities == pytest.approx(single.log_probabilities, abs=1e-4)


@pytest.mark.slow
def test_prune_margin_keeps_the_best_choice_and_its_score(engine):
    requests = [asked(text, "one@1") for text in PROMPTS]
    choices = [[f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in PROMPTS]] * len(PROMPTS)
    exact = engine.score(requests, choices)
    for one, other in zip(exact, engine.score(requests, choices, prune_margin=2.0), strict=True):
        best = one.log_probabilities.index(max(one.log_probabilities))
        assert other.log_probabilities.index(max(other.log_probabilities)) == best
        assert other.log_probabilities[best] == pytest.approx(one.log_probabilities[best], abs=1e-4)
        for bound, score in zip(other.log_probabilities, one.log_probabilities, strict=True):
            assert bound >= score - 1e-4


def test_scoring_reports_its_token_cost(engine):
    (found,) = engine.score([asked("tent", "one@1")], [["red", "green"]])
    (completion,) = engine.generate([asked("tent", "one@1")])
    assert found.prompt_tokens == completion.prompt_tokens
    assert found.scored_tokens > 2


@pytest.mark.slow
def test_every_completion_matches_its_grammar(engine):
    schema = Grammar("json_schema", json.dumps(SCHEMA))
    lark = Grammar("lark", 'start: "[" NUMBER "]"\nNUMBER: /[0-9]{1,3}/')
    requests = [asked(text, adapter, 64, schema) for text in PROMPTS for adapter in (None, "one@1", "two.dots")]
    for completion in engine.generate(requests):
        assert completion.finish == "stop"
        value = json.loads(completion.text)
        assert JsonObject(SCHEMA).parse(completion.text) == value
    colours = engine.generate([asked(text, "one@1", 64, COLOUR) for text in PROMPTS])
    assert {completion.text for completion in colours} <= {"red", "green", "greenish"}
    assert {completion.finish for completion in colours} == {"stop"}
    (number,) = engine.generate([asked("tent", "one@2", 64, lark)])
    assert 0 <= int(number.text.removeprefix("[").removesuffix("]")) <= 999


@pytest.mark.slow
def test_requests_with_and_without_grammar_can_be_mixed(engine):
    grammars = [None, COLOUR, None, Grammar("json_schema", json.dumps(SCHEMA)), COLOUR]
    requests = [asked(text, "one@1", 40, grammar) for text, grammar in zip(PROMPTS, grammars, strict=True)]
    assert engine.generate(requests) == [engine.generate([request])[0] for request in requests]


def test_constrained_completions_respect_the_token_limit(engine):
    (cut,) = engine.generate([asked("tent", "one@1", 5, Grammar("json_schema", json.dumps(SCHEMA)))])
    assert (cut.finish, cut.completion_tokens) == ("length", 5)
    assert isinstance(JsonObject(SCHEMA).parse(cut.text), InvalidOutput)


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (Grammar("json_schema", '{"type": "list"}'), "this JSON Schema .Invalid type: list"),
        (Grammar("json_schema", '{"type": "array", "uniqueItems": true}'), "this JSON Schema .Unimplemented keys"),
        (Grammar("json_schema", "{"), "this JSON Schema"),
        (Grammar("regex", "(red"), "this regular expression .*unclosed group"),
        (Grammar("lark", "start: colour"), 'this Lark grammar .*unknown name: "colour"'),
    ],
)
def test_an_unusable_grammar_is_an_error_that_names_the_request(engine, grammar, reason):
    with pytest.raises(EngineError, match=rf"(?s)request 2: generation cannot be constrained to {reason}"):
        engine.generate([asked("tent", None, 4, COLOUR), asked("tent", None, 4, grammar)])


@pytest.mark.slow
def test_answer_prefix_is_not_repeated_in_the_completion(engine):
    held, behind = Grammar("regex", "gre(en|y|at|[a-z]{1,9})"), Grammar("regex", "en|y|at|[a-z]{1,9}")
    whole = engine.generate([asked(text, "one@1", 20, held) for text in PROMPTS])
    rest = engine.generate([asked(text, "one@1", 20, behind, "gre") for text in PROMPTS])
    assert [f"gre{completion.text}" for completion in rest] == [completion.text for completion in whole]
    assert {completion.finish for completion in rest} == {"stop"}
    assert all(one.prompt_tokens > other.prompt_tokens for one, other in zip(rest, whole, strict=True))
    (free,) = engine.generate([asked("tent", "one@1", 20)])
    assert engine.generate([asked("tent", "one@1", 20), asked("tent", "one@1", 20, behind, "gre")]) == [free, rest[0]]


@pytest.mark.parametrize("others", [[], ["blue", "greenish"]], ids=["alone", "among others"])
def test_scores_condition_on_the_answer_prefix_and_include_the_choice_suffix(engine, others):
    whole, first, second = (
        [found.log_probabilities[0] for found in engine.score(requests, [[choice, *others]] * len(PROMPTS))]
        for choice, requests in (
            ("red\ntent", [asked(text, "one@1") for text in PROMPTS]),
            ("red", [asked(text, "one@1", ends="\n") for text in PROMPTS]),
            ("tent", [asked(text, "one@1", begins="red\n") for text in PROMPTS]),
        )
    )
    assert [a + b for a, b in zip(first, second, strict=True)] == pytest.approx(whole, abs=1e-3)


def test_choices_with_and_without_stop_token_can_be_mixed(engine):
    requests = [
        asked(text, "one@1", ends=ends) for text, ends in zip(PROMPTS, (None, "\n", None, "", "\n"), strict=True)
    ]
    choices = [["red", "green"]] * len(PROMPTS)
    for request, together in zip(requests, engine.score(requests, choices), strict=True):
        (alone,) = engine.score([request], choices[:1])
        assert together.log_probabilities == pytest.approx(alone.log_probabilities, abs=1e-4)
    with_stop, with_line = (engine.score([asked("tent", None, ends=ends)], choices[:1])[0] for ends in (None, "\n"))
    assert with_stop.log_probabilities != with_line.log_probabilities


def test_scores_depend_on_the_adapter(engine):
    choices = [["red", "green"]]
    assert engine.score([asked("tent", "one@1")], choices) != engine.score([asked("tent", None)], choices)


SAMPLED = [
    sampled("tent", "one@1", temperature=1.0, seed=1),
    sampled("boot", None),
    sampled("stove", "two.dots", temperature=0.8, top_p=0.9, seed=1),
    sampled("rope", "one@2", temperature=1.4, top_k=30, min_p=0.01, seed=3),
    sampled("lamp", "one@1", presence_penalty=1.5, frequency_penalty=0.5),
    sampled("tent", None, temperature=0.7, frequency_penalty=1.0, seed=5),
]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_completion_in_any_batch_and_order(engine):
    alone = [engine.generate([request])[0] for request in SAMPLED]
    assert engine.generate(SAMPLED) == alone
    assert engine.generate(SAMPLED[::-1])[::-1] == alone
    seeds = [sampled("tent", "one@1", temperature=1.0, seed=seed) for seed in range(6)]
    texts = [completion.text for completion in engine.generate(seeds)]
    assert len(set(texts)) == 6
    assert texts[1] == alone[0].text


def test_without_a_seed_completions_differ(engine):
    requests = [sampled("tent", "one@1", temperature=1.0)] * 4
    assert len({completion.text for completion in engine.generate(requests)}) == 4


@pytest.mark.parametrize("sampling", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=str)
def test_filters_that_keep_one_token_are_greedy(engine, sampling):
    requests = [sampled(text, "one@1", temperature=2.0, seed=1, **sampling) for text in PROMPTS]
    greedy = [sampled(text, "one@1") for text in PROMPTS]
    assert engine.generate(requests) == engine.generate(greedy)


def test_a_stop_string_ends_a_completion_and_is_no_part_of_it(engine):
    (whole,) = engine.generate([sampled("tent", "one@1", 30)])
    text = next(part for part in whole.text.split("\ufffd") if len(part) > 2)
    stop = text[1:3]  # spans two tokens of one byte
    (cut,) = engine.generate([replace(sampled("tent", "one@1", 30), stop=("neither", stop))])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish == "stop"
    assert cut.completion_tokens < whole.completion_tokens
    (other,) = engine.generate([replace(sampled("tent", "one@1", 30), stop=("neither",))])
    assert other == whole


def test_logprobs_are_those_of_the_tokens_of_the_text(engine):
    requests = [sampled(text, "one@1", temperature=1.0, seed=2, logprobs=count) for count, text in enumerate(PROMPTS)]
    for count, completion in enumerate(engine.generate(requests)):
        assert completion.logprobs is not None
        assert len(completion.logprobs) == completion.completion_tokens - (completion.finish == "stop")
        assert b"".join(each.bytes for each in completion.logprobs).decode("utf-8", "replace") == completion.text
        for each in completion.logprobs:
            assert each.logprob < 0
            assert len(each.top) == count
            assert list(each.top) == sorted(each.top, key=lambda top: -top.logprob)
    (greedy,) = engine.generate([sampled("tent", "one@1", logprobs=1)])
    assert all(each == replace(each.top[0], top=each.top) for each in greedy.logprobs or ())
    (without,) = engine.generate([sampled("tent", "one@1")])
    assert without == replace(greedy, logprobs=None)


def test_logprobs_add_up_to_the_score_of_the_text(engine):
    request = sampled("tent", "one@1", 20, grammar=COLOUR, temperature=1.0, seed=4, logprobs=0)
    (completion,) = engine.generate([request])
    (scored,) = engine.score([replace(request, choice_suffix="")], [[completion.text]])
    assert sum(each.logprob for each in completion.logprobs or ()) == pytest.approx(
        scored.log_probabilities[0], abs=1e-3
    )


def test_sampled_completions_match_their_grammar(engine):
    requests = [sampled(text, "one@1", 40, grammar=COLOUR, temperature=2.0, seed=1) for text in PROMPTS * 3]
    texts = {completion.text for completion in engine.generate(requests)}
    assert texts <= {"red", "green", "greenish"}


def test_penalties_make_a_completion_repeat_less(engine):
    plain, penalised = engine.generate(
        [sampled("tent", None, 40), sampled("tent", None, 40, presence_penalty=2.0, frequency_penalty=2.0)]
    )
    assert len(set(penalised.text)) > len(set(plain.text))


@pytest.mark.slow
def test_concurrent_threads_use_their_own_adapters(engine):
    references = [None, "one@1", "one@2", "two.dots"]
    expected = {reference: engine.generate([asked("tent", reference)])[0].text for reference in references}
    wrong = []

    def hammer(reference):
        for _ in range(5):
            text = engine.generate([asked("tent", reference)])[0].text
            if text != expected[reference]:
                wrong.append((reference, text))

    threads = [threading.Thread(target=hammer, args=(reference,)) for reference in references * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_prompt_ids_are_the_whole_prompt(engine):
    """A local engine continues them; a remote one renders messages only, and says so."""
    asks = Request(({"role": "user", "content": "tent"},), None, 6)
    if not isinstance(engine, LocalEngine):
        with pytest.raises(RequestRefused, match="no 'prompt_ids'"):
            engine.generate([Request((), None, 6, prompt_ids=(5, 6))])
        return
    ids = tuple(engine.renderer.prompt_ids(asks.messages))
    assert engine.generate([Request((), None, 6, prompt_ids=ids)]) == engine.generate([asks])
    with pytest.raises(RequestRefused, match="request 2: the model has no token 1000000"):
        engine.generate([asks, Request((), None, 6, prompt_ids=(5, 1_000_000))])
