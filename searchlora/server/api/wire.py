"""Requests as they come over the wire.

Fields of OpenAI's that cannot change a greedy answer are taken and not looked at; those that would change it are
refused unless they ask for nothing; a field that nobody knows is refused, as OpenAI does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from searchlora.prompts import Message
from searchlora.server.api.grammars import ResponseFormat, StructuredOutputs
from searchlora.server.api.text import Text

#: Of one request; all tokens of all choices are computed in one pass.
_CHOICES, _CHOICE_CHARACTERS = 1000, 16_000
_BATCH = 256
_TEXTS = 2048


def _only(*values: Any, fix: str) -> BeforeValidator:
    """For a field that may be left out, be null, or have one of these values."""

    def check(value: Any) -> Any:
        if value is not None and not any(value == each and isinstance(value, type(each) | float) for each in values):
            raise PydanticCustomError("not_offered", "{fix}", {"fix": fix})
        return value

    return BeforeValidator(check)


def _joined(content: Any) -> Any:
    """The texts of a message's parts, one behind the other."""
    if not isinstance(content, list):
        return content
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    texts = [text for part in parts if isinstance(text := part.get("text"), str)]
    if not texts or len(texts) < len(content):
        raise PydanticCustomError("not_offered", "only text is read")
    return "".join(texts)


def _listed(texts: Any) -> Any:
    return [texts] if isinstance(texts, str) else texts


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ChatMessage(BaseModel):
    """One turn; what else an answer of this server carries may come back with it."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_joined)]

    @property
    def plain(self) -> Message:
        """As chat templates read it."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


Messages = Annotated[list[ChatMessage], Field(min_length=1)]


class StreamOptions(_Wire):
    """OpenAI's."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(_Wire):
    """`/v1/chat/completions`. `begins` and `structured_outputs` are not OpenAI's."""

    model: str
    messages: Messages
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    begins: Text = ""

    # Refused unless they ask for nothing.
    temperature: Annotated[Any, _only(0, fix="answers are greedy: leave it out, or give 0")] = None
    n: Annotated[Any, _only(1, fix="a greedy answer is one: leave it out, or give 1")] = None
    stop: Annotated[Any, _only([], fix="there are no stop sequences: hold the answer to a regex instead")] = None
    logprobs: Annotated[Any, _only(False, fix="/v1/score gives probabilities")] = None
    top_logprobs: Annotated[Any, _only(0, fix="/v1/score gives probabilities")] = None
    frequency_penalty: Annotated[Any, _only(0, fix="nothing is penalised: leave it out, or give 0")] = None
    presence_penalty: Annotated[Any, _only(0, fix="nothing is penalised: leave it out, or give 0")] = None
    logit_bias: Annotated[Any, _only({}, fix="no token is favoured: leave it out")] = None
    tools: Annotated[Any, _only([], fix="there are no tools: give a schema as response_format")] = None
    tool_choice: Annotated[Any, _only("none", "auto", fix="there are no tools: give a schema as response_format")] = (
        None
    )
    modalities: Annotated[Any, _only(["text"], fix="only text is written")] = None

    # Taken and not looked at: a greedy answer is the same with and without them.
    top_p: Any = None
    seed: Any = None
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None


def _not_too_long(choices: list[str]) -> list[str]:
    if sum(map(len, choices)) > _CHOICE_CHARACTERS:
        raise PydanticCustomError(
            "too_long", "all choices together have at most {most} characters", {"most": _CHOICE_CHARACTERS}
        )
    return choices


class ScoreRequest(_Wire):
    """One request to `/v1/score`."""

    model: str
    messages: Messages
    choices: Annotated[list[Text], Field(min_length=1, max_length=_CHOICES), AfterValidator(_not_too_long)]
    begins: Text = ""
    ends: Text | None = None
    within: float | None = Field(None, gt=0, allow_inf_nan=False)


class ScoreRequests(_Wire):
    """Several at once."""

    requests: list[ScoreRequest] = Field(min_length=1, max_length=_BATCH)


#: What stands in the place of an error for the form of the body.
ONE, SEVERAL = "<one>", "<several>"

ScoreBody = Annotated[
    Annotated[ScoreRequest, Tag(ONE)] | Annotated[ScoreRequests, Tag(SEVERAL)],
    Discriminator(lambda body: SEVERAL if isinstance(body, dict) and "requests" in body else ONE),
]


class AdapterRequest(_Wire):
    """`/v1/adapters/load` and `/v1/adapters/unload`."""

    adapter: str


class EmbeddingRequest(_Wire):
    """`/v1/embeddings`. `truncate` is not OpenAI's: too long texts are cut where it is true."""

    model: str
    input: Annotated[list[Text], Field(min_length=1, max_length=_TEXTS), BeforeValidator(_listed)]
    dimensions: int | None = Field(None, ge=1)
    encoding_format: Literal["float", "base64"] | None = None
    truncate: bool = False
    user: Any = None
