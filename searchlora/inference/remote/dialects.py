"""Dialects: the HTTP requests and responses of each kind of server, for completions and choice scores."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from searchlora.errors import EngineError, UnusableAnswer
from searchlora.inference.answer_text import AnswerText
from searchlora.inference.engine import ChoiceScores, Completion, Request, TokenLogprob, token_logprob
from searchlora.inference.remote.vllm_scoring import Steps, TreeCall, score_tree
from searchlora.inference.sampling import GREEDY, Sampling
from searchlora.outputs import Grammar
from searchlora.prompts import Renderer

#: Choices whose token ids are kept: those of a closed set recur with every request.
_CHOICES = 4096


#: Sends a JSON body to a path and returns the JSON of the response.
Post: TypeAlias = Callable[[str, Mapping[str, Any]], Any]


class Dialect(ABC):
    """One kind of server. An unexpected response raises KeyError, TypeError, ValueError or AttributeError."""

    def rendered(self, request: Request) -> Request:
        """The request with the token ids of its prompt, if this kind of server takes them; else unchanged."""
        return request

    def longest(self, choices: Sequence[str], choice_suffix: str | None) -> int:
        """Tokens of the longest choice; 0 for a server that counts what it renders itself."""
        del choices, choice_suffix
        return 0

    @abstractmethod
    def generate(self, post: Post, model: str, request: Request) -> Completion:
        """The completion of one request by the model with this name on the server.

        Raises `EngineError` for what this kind of server cannot do.
        """

    @abstractmethod
    def score(
        self, post: Post, model: str, request: Request, choices: Sequence[str], prune_margin: float | None
    ) -> ChoiceScores:
        """The log-probabilities of the choices, see `Engine.score`."""


class Vllm(Dialect):
    """vLLM's completions of token ids: the prompt is rendered here, so the model reads what training has seen."""

    def __init__(self, renderer: Renderer, token_bytes: Callable[[int], bytes]) -> None:
        self._renderer = renderer
        self._token_bytes = token_bytes
        self._choice_ids = lru_cache(_CHOICES)(self._tokenised)

    def rendered(self, request: Request) -> Request:
        ids = self._renderer.prompt_ids(request.messages, request.answer_prefix, request.adapter)
        return replace(request, prompt_ids=tuple(ids))

    def longest(self, choices: Sequence[str], choice_suffix: str | None) -> int:
        return max((len(self._choice_ids(choice, choice_suffix)) for choice in choices), default=0)

    def _tokenised(self, choice: str, choice_suffix: str | None) -> tuple[int, ...]:
        return tuple(self._renderer.completion_ids(choice, choice_suffix))

    def generate(self, post: Post, model: str, request: Request) -> Completion:
        body = {
            **self._body(model, [request.prompt_ids], request.max_new_tokens, request.sampling),
            # An answer ends with the template's end-of-turn token. Other stop tokens of the base model's configuration
            # are ordinary tokens, except under a grammar, whose end the server marks with them.
            "stop_token_ids": [self._renderer.stop_id],
            "ignore_eos": request.grammar is None,
            "return_token_ids": True,
            **({"stop": list(request.stop)} if request.stop else {}),
            **({"structured_outputs": _spaced(_structured(request.grammar))} if request.grammar else {}),
        }
        if request.sampling.logprobs is not None:
            body |= {"logprobs": request.sampling.logprobs, "return_tokens_as_token_ids": True}
        answer = post("/v1/completions", body)
        (choice,) = answer["choices"]
        ids = choice["token_ids"]
        count = len(ids) - (ids[-1:] == [self._renderer.stop_id])
        text = self._renderer.decode(ids)
        if request.stop:  # the token ids include those of the stop string
            growing = AnswerText(self._renderer.decode, request.stop)
            if any(growing.add(token) for token in ids[:count]):
                text, count = growing.whole, growing.tokens_of(growing.whole)
        logprobs = None
        if request.sampling.logprobs is not None:
            logprobs = self._logprobs(ids[:count], _reported(choice), request.sampling.logprobs)
        return _completion(text, choice["finish_reason"], answer.get("usage"), logprobs)

    def _logprobs(self, ids: Sequence[int], reported: Mapping[str, Any], count: int) -> tuple[TokenLogprob, ...]:
        """The log-probabilities of tokens. vLLM reports the chosen token among the most likely ones, wherever it is."""
        reported_tokens = []
        for token, logprob, likely in zip(ids, reported["token_logprobs"], reported["top_logprobs"], strict=False):
            best = sorted(likely.items(), key=lambda token: -token[1])[:count]
            top = [
                token_logprob(self._token_bytes(int(name.removeprefix("token_id:"))), _number(value))
                for name, value in best
            ]
            reported_tokens.append(token_logprob(self._token_bytes(token), _number(logprob), top))
        if len(reported_tokens) < len(ids):
            raise ValueError(f"{len(reported_tokens)} log-probabilities for {len(ids)} tokens")
        return tuple(reported_tokens)

    def score(
        self, post: Post, model: str, request: Request, choices: Sequence[str], prune_margin: float | None
    ) -> ChoiceScores:
        """Scores as `score_tree` says, in few prompts. The cost counts each choice prefix with its prompt, as sent: of
        several prompts in a call, vLLM reports cached tokens for the last one only.
        """
        choice_ids = [self._choice_ids(choice, request.choice_suffix) for choice in choices]
        prompt_tokens = 0

        def ask(call: TreeCall) -> list[Steps]:
            nonlocal prompt_tokens
            body = {
                **self._body(model, [[*request.prompt_ids, *prefix] for prefix in call.prefixes], call.steps),
                "logprobs": len(call.tokens),
                "logprob_token_ids": call.tokens,
                "return_tokens_as_token_ids": True,
                **({"allowed_token_ids": call.tokens} if call.steps > 1 else {}),
            }
            answer = post("/v1/completions", body)
            prompt_tokens += int(answer["usage"]["prompt_tokens"])
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            return [_steps(choice["logprobs"], call.tokens) for choice in choices]

        scores, scored = score_tree(ask, choice_ids, prune_margin)
        return ChoiceScores(scores, prompt_tokens, scored)

    def _body(
        self, model: str, prompts: Sequence[Sequence[int]], tokens: int, sampling: Sampling = GREEDY
    ) -> dict[str, Any]:
        """Fields of a request; no filter or penalty of the base model's generation_config remains."""
        fields = {"model": model, "prompt": prompts, "max_tokens": tokens, **_sampling(sampling)}
        if not sampling.is_greedy:
            fields |= {"top_p": sampling.top_p, "top_k": sampling.top_k or -1, "min_p": sampling.min_p}
        return {**fields, "repetition_penalty": 1.0}


class Searchlora(Dialect):
    """`searchlora serve`: it uses this project's renderer and scores as the local engine does."""

    def generate(self, post: Post, model: str, request: Request) -> Completion:
        body = {
            **chat_body(model, request),
            "prompt": "raw",  # the messages are the task's prompt already
            **({"answer_prefix": request.answer_prefix} if request.answer_prefix else {}),
            **({"structured_outputs": _structured(request.grammar)} if request.grammar else {}),
            **_filters(request.sampling),
        }
        return completion_of(post("/v1/chat/completions", body), request.sampling)

    def score(
        self, post: Post, model: str, request: Request, choices: Sequence[str], prune_margin: float | None
    ) -> ChoiceScores:
        if not choices:
            return ChoiceScores((), 0, 0)
        body = {"model": model, "messages": [dict(message) for message in request.messages], "choices": list(choices)}
        prune_margin = None if prune_margin == math.inf else prune_margin  # the same, and JSON has no infinity
        more = {
            "answer_prefix": request.answer_prefix or None,
            "choice_suffix": request.choice_suffix,
            "prune_margin": prune_margin,
        }
        answer = post("/v1/score", {**body, **{key: value for key, value in more.items() if value is not None}})
        values, usage = answer["log_probabilities"], answer["usage"]
        if not isinstance(values, list) or any(type(value) not in (int, float) for value in values):
            raise TypeError("log-probabilities that are not a list of numbers")
        scores = _finite(map(float, values))
        if len(scores) != len(choices):
            raise ValueError(f"{len(scores)} scores for {len(choices)} choices")
        return ChoiceScores(scores, int(usage["prompt_tokens"]), int(usage["scored_tokens"]))


class OpenAI(Dialect):
    """Any other server: it renders the chat with its own template. Requests that need token ids are refused.

    Such a server reads control tokens in contents as its own, so they are broken before they are sent.
    """

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def generate(self, post: Post, model: str, request: Request) -> Completion:
        if request.answer_prefix:
            raise EngineError("the server cannot go on behind the beginning of an answer", fix=f"For this, {_OTHER}")
        if unknown := _filters(request.sampling):
            raise EngineError(f"the server cannot sample with {' and '.join(unknown)}", fix=f"For this, {_OTHER}")
        disarmed = [{**message, "content": self._renderer.disarm(message["content"])} for message in request.messages]
        body = {**chat_body(model, request), "messages": disarmed}
        if request.grammar is not None:
            if request.grammar.kind != "json_schema":
                kind = "regular expression" if request.grammar.kind == "regex" else "Lark grammar"
                raise EngineError(f"the server cannot hold an answer to a {kind}", fix=f"{_FREE} {_OTHER}")
            schema = {"name": "answer", "schema": json.loads(request.grammar.text), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return completion_of(post("/v1/chat/completions", body), request.sampling)

    def score(
        self, post: Post, model: str, request: Request, choices: Sequence[str], prune_margin: float | None
    ) -> ChoiceScores:
        del post, model, request, choices, prune_margin
        raise EngineError(
            "the server cannot score choices: OpenAI's API gives no log-probability of a text that is not its own",
            fix=f"{_FREE} {_OTHER}",
        )


_FREE = "Set 'constrained: false' for the stage, so that the model writes freely and the parse decides, or"
_OTHER = "use vLLM or 'searchlora serve' (name it with 'dialect' where it was not recognised)."


def _structured(grammar: Grammar) -> dict[str, Any]:
    """A grammar as vLLM's `structured_outputs`."""
    if grammar.kind == "json_schema":
        return {"json": json.loads(grammar.text)}
    return {"regex" if grammar.kind == "regex" else "grammar": grammar.text}


#: At most one space on each side of a JSON separator and none elsewhere, so that no answer is filled with spaces. Given
#: as separators because llguidance 1.7, part of vLLM 0.32, matches a `whitespace_pattern` repeatedly. vLLM's other
#: backends ignore it.
_SPACING = {"whitespace_flexible": False, "item_separator": "[ ]?,[ ]?", "key_separator": "[ ]?:[ ]?"}


def _spaced(structured: dict[str, Any]) -> dict[str, Any]:
    """The same grammar without runs of spaces in JSON, if the server uses llguidance."""
    if "json" not in structured:
        return structured
    return {"json": {**structured["json"], "x-guidance": _SPACING}}


def chat_body(model: str, request: Request) -> dict[str, Any]:
    fields = {
        "model": model,
        "messages": [dict(message) for message in request.messages],
        "max_tokens": request.max_new_tokens,
        **_sampling(request.sampling),
        **({"stop": list(request.stop)} if request.stop else {}),
    }
    if request.sampling.logprobs is not None:
        fields |= {"logprobs": True, "top_logprobs": request.sampling.logprobs}
    return fields


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """The fields of OpenAI's API, without those that have no effect."""
    fields: dict[str, Any] = {"temperature": 0 if sampling.is_greedy else sampling.temperature}
    if sampling.top_p < 1 and not sampling.is_greedy:
        fields["top_p"] = sampling.top_p
    for name in ("presence_penalty", "frequency_penalty"):
        if value := getattr(sampling, name):
            fields[name] = value
    return fields if sampling.seed is None else {**fields, "seed": sampling.seed}


def _filters(sampling: Sampling) -> dict[str, Any]:
    """The fields that OpenAI's API does not have, without those that have no effect."""
    names = () if sampling.is_greedy else ("top_k", "min_p")
    return {name: value for name in names if (value := getattr(sampling, name))}


def completion_of(answer: Mapping[str, Any], sampling: Sampling) -> Completion:
    (choice,) = answer["choices"]
    logprobs = None
    if sampling.logprobs is not None:
        logprobs = tuple(_token_logprob(token) for token in _reported(choice)["content"])
    return _completion(choice["message"]["content"] or "", choice["finish_reason"], answer.get("usage"), logprobs)


def _reported(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """The log-probabilities that were asked for."""
    reported: Mapping[str, Any] | None = choice.get("logprobs")
    if reported is None:
        raise EngineError("the server reports no log-probabilities", fix=f"Leave out 'logprobs', or {_OTHER}")
    return reported


def _token_logprob(reported: Mapping[str, Any], *, has_top: bool = True) -> TokenLogprob:
    text = reported["token"]
    content = text.encode() if reported.get("bytes") is None else bytes(reported["bytes"])
    likely = reported.get("top_logprobs") or () if has_top else ()
    top = tuple(_token_logprob(token, has_top=False) for token in likely)
    return TokenLogprob(text, content, _number(reported["logprob"]), top)


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"a log-probability that is a {type(value).__name__}")
    return float(value)


def _completion(
    text: str, finish: str, usage: Mapping[str, Any] | None, logprobs: tuple[TokenLogprob, ...] | None
) -> Completion:
    if not isinstance(text, str):
        raise TypeError(f"a text that is a {type(text).__name__}")
    if finish not in ("stop", "length"):
        raise UnusableAnswer(f"the server ended an answer with '{finish}', neither at its end nor at its length")
    ended: Literal["stop", "length"] = "stop" if finish == "stop" else "length"
    if usage is None:  # many gateways send none
        return Completion(text, ended, 0, 0, logprobs, counted=False)
    return Completion(text, ended, int(usage["prompt_tokens"]), int(usage["completion_tokens"]), logprobs)


def _steps(logprobs: Mapping[str, Any], tokens: Sequence[int]) -> Steps:
    """The chosen token and the log-probabilities of these tokens, at each place of an answer."""
    steps = []
    for chosen, likely in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True):
        if missing := [token for token in tokens if f"token_id:{token}" not in likely]:
            raise EngineError(
                f"this vLLM reports no log-probability of requested tokens (token {missing[0]})",
                fix="Use a newer one; 0.32 knows 'logprob_token_ids'.",
            )
        values = {token: _number(likely[f"token_id:{token}"]) for token in tokens}
        steps.append((int(chosen.removeprefix("token_id:")), values))
    return steps


def _finite(scores: Iterable[float]) -> tuple[float, ...]:
    """The scores. Raises `UnusableAnswer` if one is NaN or infinite: there is no best choice then."""
    values = tuple(scores)
    if not all(map(math.isfinite, values)):
        raise UnusableAnswer(
            "the server's log-probabilities are not all finite", fix="Check the adapter on the server."
        )
    return values
