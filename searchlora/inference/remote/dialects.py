"""How each kind of server is asked for a completion and for scores, and how its answers are read."""

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

#: That one call asks vLLM for: prompts, and tokens whose log-probabilities it tells (it refuses more).
_PROMPTS_AT_ONCE, _TOKENS_AT_ONCE = 16, 128


class Post(Protocol):
    """Sends a body to a path and gives the JSON that is answered."""

    def __call__(self, path: str, body: Mapping[str, Any]) -> Any: ...


class Dialect(Protocol):
    """One kind of server. An answer of another form than expected raises KeyError, TypeError, ValueError and such."""

    def generate(self, post: Post, model: str, request: Request) -> Completion:
        """The greedy completion of one request by the model that the server calls so."""

    def score(
        self, post: Post, model: str, request: Request, choices: Sequence[str], prune_margin: float | None
    ) -> Scored:
        """How likely the choices are."""


class Vllm:
    """vLLM's completions of token ids: the server renders nothing, so that what it reads is what training saw."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def generate(self, post: Post, model: str, request: Request) -> Completion:
        prompt = self._renderer.prompt_ids(request.messages, request.answer_prefix)
        body = {
            **self._asked(model, [prompt], request.max_new_tokens),
            # An answer ends where the template ends a turn. What else a base's configuration stops at is a token like
            # any other, but to a grammar, whose end the server marks with it.
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
        """The choices are one tree of tokens: the server is asked at each beginning how likely its next tokens are.

        Every score is exact; `prune_margin` is ignored. The cost counts each choice prefix with its prompt, as sent: of
        several prompts in a call, vLLM reports cached tokens for the last one only.

        (vLLM's `prompt_logprobs` would give a choice's score at once. With LoRA they bring its CPU engine down and
        elsewhere leave out an adapter's output layer: vLLM's issues 29955 and 51594.)
        """
        del prune_margin
        prompt = self._renderer.prompt_ids(request.messages, request.answer_prefix)
        answers = [tuple(self._renderer.completion_ids(choice, request.choice_suffix)) for choice in choices]
        found: dict[tuple[int, ...], float] = {}
        sent = 0
        for part in _parts(answers):
            wanted = sorted({token for _, tokens in part for token in tokens})
            body = {
                **self._asked(model, [[*prompt, *beginning] for beginning, _ in part], 1),
                "logprobs": len(wanted),
                "logprob_token_ids": wanted,
                "return_tokens_as_token_ids": True,
            }
            answer = post("/v1/completions", body)
            told = sorted(answer["choices"], key=lambda choice: choice["index"])
            for (beginning, tokens), choice in zip(part, told, strict=True):
                (likely,) = choice["logprobs"]["top_logprobs"]
                if missing := [token for token in tokens if f"token_id:{token}" not in likely]:
                    raise EngineError(
                        f"this vLLM does not tell how likely a given token is (asked for {missing[0]})",
                        fix="Use a newer one; 0.32 knows 'logprob_token_ids'.",
                    )
                found |= {(*beginning, token): likely[f"token_id:{token}"] for token in tokens}
            sent += answer["usage"]["prompt_tokens"]
        sums = (math.fsum(found[ids[: end + 1]] for end in range(len(ids))) for ids in answers)
        return Scored(tuple(sums), sent, len(found))

    def _asked(self, model: str, prompts: Sequence[Sequence[int]], tokens: int) -> dict[str, Any]:
        """Greedy, whatever the base's generation_config sets."""
        fixed = {"temperature": 0, "repetition_penalty": 1.0}
        return {"model": model, "prompt": prompts, "max_tokens": tokens, **fixed}


class Searchlora:
    """`searchlora serve`: it renders with this project's renderer and scores as the local engine does."""

    def generate(self, post: Post, model: str, request: Request) -> Completion:
        body = {
            **_chat(model, request),
            **({"begins": request.answer_prefix} if request.answer_prefix else {}),
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
        more = {"begins": request.answer_prefix or None, "ends": request.choice_suffix, "within": prune_margin}
        answer = post("/v1/score", {**body, **{key: value for key, value in more.items() if value is not None}})
        found, usage = tuple(map(float, answer["log_probabilities"])), answer["usage"]
        if len(found) != len(choices):
            raise ValueError(f"{len(found)} scores for {len(choices)} choices")
        return Scored(found, int(usage["prompt_tokens"]), int(usage["scored_tokens"]))


class OpenAI:
    """Any other server: its own template renders the chat, and what only token ids can say is refused."""

    def generate(self, post: Post, model: str, request: Request) -> Completion:
        if request.answer_prefix:
            raise EngineError("the server cannot go on behind the beginning of an answer", fix=f"For this, {_OTHER}")
        body = _chat(model, request)
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
    """A grammar as `structured_outputs`, which vLLM brought in."""
    if grammar.kind == "json_schema":
        return {"json": json.loads(grammar.text)}
    return {"regex" if grammar.kind == "regex" else "grammar": grammar.text}


#: At most one space on each side of a separator of JSON and none elsewhere, so that no answer is filled with spaces.
#: It is told by separators because llguidance 1.7, which vLLM 0.32 brings, lets a `whitespace_pattern` match again and
#: again. vLLM's other backends pass over it.
_SPACING = {"whitespace_flexible": False, "item_separator": "[ ]?,[ ]?", "key_separator": "[ ]?:[ ]?"}


def _spaced(structured: dict[str, Any]) -> dict[str, Any]:
    """Without room for runs of spaces in JSON, where the server uses llguidance."""
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
    if finish not in ("stop", "length"):
        raise EngineError(f"the server ended an answer with '{finish}', neither at its end nor at its length")
    ended: Literal["stop", "length"] = "stop" if finish == "stop" else "length"
    return Completion(text, ended, int(usage["prompt_tokens"]), int(usage["completion_tokens"]))


def _parts(answers: Iterable[tuple[int, ...]]) -> Iterator[list[tuple[tuple[int, ...], list[int]]]]:
    """Beginnings of answers, each with the tokens that may follow; together as many as one call may ask for."""
    following: dict[tuple[int, ...], set[int]] = {}
    for ids in answers:
        for end, token in enumerate(ids):
            following.setdefault(ids[:end], set()).add(token)
    part: list[tuple[tuple[int, ...], list[int]]] = []
    wanted: set[int] = set()
    for beginning, tokens in following.items():
        ordered = sorted(tokens)
        for start in range(0, len(ordered), _TOKENS_AT_ONCE):
            some = ordered[start : start + _TOKENS_AT_ONCE]
            if part and (len(part) == _PROMPTS_AT_ONCE or len(wanted.union(some)) > _TOKENS_AT_ONCE):
                yield part
                part, wanted = [], set()
            part.append((beginning, some))
            wanted.update(some)
    if part:
        yield part
