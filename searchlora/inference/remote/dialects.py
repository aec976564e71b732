"""Dialects: the HTTP requests and responses of each kind of server, for completions and choice scores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from searchlora.errors import EngineError
from searchlora.inference.engine import Completion, Request, Scored
from searchlora.outputs import Grammar
from searchlora.prompts import Renderer

DialectName = Literal["vllm", "searchlora", "openai"]

#: Maximum number of prompts, and of tokens with log-probabilities (vLLM refuses more), in one call.
_MAX_PROMPTS, _MAX_TOKENS = 16, 128


class Post(Protocol):
    """Sends a JSON body to a path and returns the JSON of the response."""

    def __call__(self, path: str, body: Mapping[str, Any]) -> Any: ...


class Dialect(Protocol):
    """One kind of server. An unexpected response raises KeyError, TypeError, ValueError or AttributeError."""

    def generate(self, post: Post, model: str, request: Request) -> Completion:
        """The greedy completion of one request by the model with this name on the server."""

    def score(
        self, post: Post, model: str, request: Request, choices: Sequence[str], prune_margin: float | None
    ) -> Scored:
        """The log-probabilities of the choices, see `Engine.score`."""


class Vllm:
    """vLLM's completions of token ids: the prompt is rendered here, so the model reads what training has seen."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def generate(self, post: Post, model: str, request: Request) -> Completion:
        prompt = self._renderer.prompt_ids(request.messages, request.answer_prefix, request.adapter)
        body = {
            **self._greedy(model, [prompt], request.max_new_tokens),
            # An answer ends with the template's end-of-turn token. Other stop tokens of the base model's configuration
            # are ordinary tokens, except under a grammar, whose end the server marks with them.
            "stop_token_ids": [self._renderer.stop_id],
            "ignore_eos": request.grammar is None,
            "return_token_ids": True,
            **({"structured_outputs": _spaced(_structured(request.grammar))} if request.grammar else {}),
        }
        answer = post("/v1/completions", body)
        (choice,) = answer["choices"]
        return _completion(self._renderer.decode(choice["token_ids"]), choice["finish_reason"], answer["usage"])

    def score(
        self, post: Post, model: str, request: Request, choices: Sequence[str], prune_margin: float | None
    ) -> Scored:
        """The choices form one tree of tokens; the server returns the log-probabilities of the tokens at each node.

        Every score is exact; `prune_margin` is ignored. The cost counts each choice prefix with its prompt, as sent: of
        several prompts in a call, vLLM reports cached tokens for the last one only.

        (vLLM's `prompt_logprobs` would return a choice's score at once. With LoRA they crash its CPU engine, and
        elsewhere they ignore an adapter's output layer: vLLM's issues 29955 and 51594.)
        """
        del prune_margin
        prompt = self._renderer.prompt_ids(request.messages, request.answer_prefix, request.adapter)
        choice_ids = [tuple(self._renderer.completion_ids(choice, request.choice_suffix)) for choice in choices]
        log_probabilities: dict[tuple[int, ...], float] = {}
        prompt_tokens = 0
        for part in _calls(choice_ids):
            token_ids = sorted({token for _, tokens in part for token in tokens})
            body = {
                **self._greedy(model, [[*prompt, *prefix] for prefix, _ in part], 1),
                "logprobs": len(token_ids),
                "logprob_token_ids": token_ids,
                "return_tokens_as_token_ids": True,
            }
            answer = post("/v1/completions", body)
            results = sorted(answer["choices"], key=lambda choice: choice["index"])
            for (prefix, tokens), choice in zip(part, results, strict=True):
                (likely,) = choice["logprobs"]["top_logprobs"]
                if missing := [token for token in tokens if f"token_id:{token}" not in likely]:
                    raise EngineError(
                        f"this vLLM reports no log-probability of requested tokens (token {missing[0]})",
                        fix="Use a newer one; 0.32 knows 'logprob_token_ids'.",
                    )
                log_probabilities |= {(*prefix, token): likely[f"token_id:{token}"] for token in tokens}
            prompt_tokens += answer["usage"]["prompt_tokens"]
        sums = (math.fsum(log_probabilities[ids[: end + 1]] for end in range(len(ids))) for ids in choice_ids)
        return Scored(_finite(sums), prompt_tokens, len(log_probabilities))

    def _greedy(self, model: str, prompts: Sequence[Sequence[int]], tokens: int) -> dict[str, Any]:
        """Fields of a greedy request, whatever the generation_config of the base model sets."""
        fixed = {"temperature": 0, "repetition_penalty": 1.0}
        return {"model": model, "prompt": prompts, "max_tokens": tokens, **fixed}


class Searchlora:
    """`searchlora serve`: it uses this project's renderer and scores as the local engine does."""

    def generate(self, post: Post, model: str, request: Request) -> Completion:
        body = {
            **_chat(model, request),
            "prompt": "raw",  # the messages are the task's prompt already
            **({"answer_prefix": request.answer_prefix} if request.answer_prefix else {}),
            **({"structured_outputs": _structured(request.grammar)} if request.grammar else {}),
        }
        return _message(post("/v1/chat/completions", body))

    def score(
        self, post: Post, model: str, request: Request, choices: Sequence[str], prune_margin: float | None
    ) -> Scored:
        if not choices:
            return Scored((), 0, 0)
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
        return Scored(scores, int(usage["prompt_tokens"]), int(usage["scored_tokens"]))


class OpenAI:
    """Any other server: it renders the chat with its own template. Requests that need token ids are refused.

    Such a server reads control tokens in contents as its own, so they are broken before they are sent.
    """

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def generate(self, post: Post, model: str, request: Request) -> Completion:
        if request.answer_prefix:
            raise EngineError("the server cannot go on behind the beginning of an answer", fix=f"For this, {_OTHER}")
        disarmed = [{**message, "content": self._renderer.disarm(message["content"])} for message in request.messages]
        body = {**_chat(model, request), "messages": disarmed}
        if request.grammar is not None:
            if request.grammar.kind != "json_schema":
                kind = "regular expression" if request.grammar.kind == "regex" else "Lark grammar"
                raise EngineError(f"the server cannot hold an answer to a {kind}", fix=f"{_FREE} {_OTHER}")
            schema = {"name": "answer", "schema": json.loads(request.grammar.text), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return _message(post("/v1/chat/completions", body))

    def score(
        self, post: Post, model: str, request: Request, choices: Sequence[str], prune_margin: float | None
    ) -> Scored:
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


def _chat(model: str, request: Request) -> dict[str, Any]:
    messages = [dict(message) for message in request.messages]
    return {"model": model, "messages": messages, "max_tokens": request.max_new_tokens, "temperature": 0}


def _message(answer: Mapping[str, Any]) -> Completion:
    (choice,) = answer["choices"]
    return _completion(choice["message"]["content"] or "", choice["finish_reason"], answer["usage"])


def _completion(text: str, finish: str, usage: Mapping[str, Any]) -> Completion:
    if not isinstance(text, str):
        raise TypeError(f"a text that is a {type(text).__name__}")
    text.encode()  # a lone surrogate could be stored nowhere
    if finish not in ("stop", "length"):
        raise EngineError(f"the server ended an answer with '{finish}', neither at its end nor at its length")
    ended: Literal["stop", "length"] = "stop" if finish == "stop" else "length"
    return Completion(text, ended, int(usage["prompt_tokens"]), int(usage["completion_tokens"]))


def _finite(scores: Iterable[float]) -> tuple[float, ...]:
    """The scores. Raises `EngineError` if one is NaN or infinite: there is no best choice then."""
    values = tuple(scores)
    if not all(map(math.isfinite, values)):
        raise EngineError("the server's log-probabilities are not all finite", fix="Check the adapter on the server.")
    return values


def _calls(answers: Iterable[tuple[int, ...]]) -> Iterator[list[tuple[tuple[int, ...], list[int]]]]:
    """Prefixes of choices with the tokens that may follow each, grouped by what one call may ask for."""
    following: dict[tuple[int, ...], set[int]] = {}
    for ids in answers:
        for end, token in enumerate(ids):
            following.setdefault(ids[:end], set()).add(token)
    part: list[tuple[tuple[int, ...], list[int]]] = []
    wanted: set[int] = set()
    for beginning, tokens in following.items():
        ordered = sorted(tokens)
        for start in range(0, len(ordered), _MAX_TOKENS):
            some = ordered[start : start + _MAX_TOKENS]
            if part and (len(part) == _MAX_PROMPTS or len(wanted.union(some)) > _MAX_TOKENS):
                yield part
                part, wanted = [], set()
            part.append((beginning, some))
            wanted.update(some)
    if part:
        yield part
