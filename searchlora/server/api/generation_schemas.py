"""Pydantic schemas of requests that generate text: chats and completions.

OpenAI's parameters that would change the answer in a way that is not supported are refused unless they have their
neutral value. Those that never change an answer are accepted and ignored. Unknown parameters are refused, as OpenAI
does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from searchlora.inference.sampling import Sampling
from searchlora.server.api.schemas import Body, Fields, Messages, TextsOrTokens, neutral

#: Answers to one request. OpenAI's limit of `n` is the same.
MAX_ANSWERS = 128

#: Stop strings of a request, and characters of one: each token of an answer is compared with all of them.
_MAX_STOPS, _MAX_STOP_CHARACTERS = 8, 64

_MAX_TOP_LOGPROBS = 20

#: Functions that a request may describe; they are never called.
_MAX_TOOLS = 128

#: Top-p of a request that asks for 0: the most likely token alone.
_LEAST_TOP_P = 1e-9


def _stops(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


def _not_called(choice: Any) -> Any:
    if choice not in (None, "none", "auto"):
        raise PydanticCustomError("not_offered", "no tool can be called: give 'none' or 'auto', or leave it out")
    return choice


_Stop = Annotated[str, Field(min_length=1, max_length=_MAX_STOP_CHARACTERS)]


class StreamOptions(Body):
    """OpenAI's `stream_options`."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(Body):
    """OpenAI's wrapper of a JSON Schema. The answer always matches the schema, whether `strict` is set or not."""

    schema_: dict[str, Any] = Field(alias="schema")
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's `response_format`: any text, any JSON object, or JSON that matches a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Body):
    """vLLM's `structured_outputs`: exactly one of a schema (object or text), a regex, a Lark grammar or choices."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    grammar: str | None = None
    choice: Annotated[list[str], Field(min_length=1, fail_fast=True)] | None = None


class GenerationRequest(Body):
    """What chats and completions have in common. `top_k`, `min_p` and `structured_outputs` are vLLM's.

    Attributes:
        temperature: Without it, a single answer is greedy (0), and several answers are drawn at 1.
        top_k: 0 and -1 keep all tokens.
        user: Who asks: chooses the version where an alias has weights.
    """

    model: str
    n: int | None = Field(None, ge=1, le=MAX_ANSWERS)
    user: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    structured_outputs: StructuredOutputs | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1, le=1 << 31)
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    presence_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stop: Annotated[list[_Stop] | None, Field(max_length=_MAX_STOPS, fail_fast=True), BeforeValidator(_stops)] = None

    @property
    def key(self) -> str | None:
        """What chooses the version where an alias has weights."""
        return self.user if isinstance(self.user, str) and self.user else None

    @property
    def answers(self) -> int:
        """Number of answers to each prompt."""
        return self.n or 1

    @property
    def top(self) -> int | None:
        """Number of most likely tokens to report; None: no log-probabilities."""
        raise NotImplementedError

    @property
    def sampling(self) -> Sampling:
        """How the tokens are chosen."""
        default = 1.0 if self.answers > 1 else 0.0
        return Sampling(
            temperature=default if self.temperature is None else float(self.temperature),
            top_k=max(self.top_k or 0, 0),
            top_p=1.0 if self.top_p is None else max(float(self.top_p), _LEAST_TOP_P),
            min_p=float(self.min_p or 0),
            presence_penalty=float(self.presence_penalty or 0),
            frequency_penalty=float(self.frequency_penalty or 0),
            seed=self.seed,
            logprobs=self.top,
        )


class ChatRequest(GenerationRequest):
    """Body of `/v1/chat/completions`. `prompt`, `task_input`, `answer_prefix`, `structured_outputs` are not OpenAI's.

    Attributes:
        prompt: `task`: a single user message to an adapter is the query of its task, which renders its own prompt.
            `raw`: the messages are the prompt.
        task_input: Input fields of the adapter's task; they replace the messages.
        tools: Functions; accepted, and never called or shown to the model.
    """

    messages: Messages = Field(default_factory=list)
    prompt: Literal["task", "raw"] = "task"
    task_input: Fields | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=_MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    answer_prefix: str = ""
    tools: Annotated[list[dict[str, Any]] | None, Field(max_length=_MAX_TOOLS, fail_fast=True)] = None
    tool_choice: Annotated[Any, AfterValidator(_not_called)] = None

    # Unsupported: refused unless neutral.
    logit_bias: Annotated[Any, neutral({}, fix="logit biases are not supported: leave it out")] = None
    modalities: Annotated[Any, neutral(["text"], fix="only text is generated")] = None

    # Ignored: without effect on an answer.
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None

    @model_validator(mode="after")
    def _messages_or_input(self) -> Self:
        if not self.messages and self.task_input is None:
            raise PydanticCustomError("one_of_both", "'messages' is required, or 'task_input'")
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("one_of_both", "'top_logprobs' needs 'logprobs': true")
        return self

    @property
    def top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(GenerationRequest):
    """Body of `/v1/completions`. `prompt_format` and `structured_outputs` are not OpenAI's.

    Attributes:
        prompt: Texts, or arrays of ids of the base model's tokens.
        prompt_format: `task`: a text to an adapter is the query of its task, which renders its own prompt. `raw`: the
            model continues the text. Token arrays are always continued.
        max_tokens: The default for a continued text is 16, as OpenAI's.
    """

    prompt: TextsOrTokens
    prompt_format: Literal["task", "raw"] = "task"
    max_tokens: int | None = Field(None, ge=1)
    logprobs: int | None = Field(None, ge=0, le=_MAX_TOP_LOGPROBS)

    @property
    def top(self) -> int | None:
        return self.logprobs

    # Unsupported: refused unless neutral.
    best_of: Annotated[Any, neutral(1, fix="answers are not ranked: leave it out, or give 1")] = None
    echo: Annotated[Any, neutral(False, fix="the prompt is not repeated; /v1/score gives probabilities of texts")] = (
        None
    )
    suffix: Annotated[Any, neutral("", fix="text is only continued: leave it out")] = None
    logit_bias: Annotated[Any, neutral({}, fix="logit biases are not supported: leave it out")] = None
