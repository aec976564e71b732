"""Models of request bodies. Those that generate text are in `generation_schemas`, of search in `search_schemas`.

Unknown parameters are refused, as OpenAI does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from searchlora.files.json_text import value_fault
from searchlora.prompts import Message
from searchlora.server.api.bodies import BATCH, SINGLE

#: Limits of one score request; all tokens of all choices are computed in one forward pass.
_MAX_CHOICES, _MAX_CHOICE_CHARACTERS = 1000, 16_000
_MAX_BATCH = 256
_MAX_TEXTS = 2048

#: Token ids are below it, whatever the vocabulary.
_TOKEN_IDS = 1 << 31
_MAX_DOCUMENTS = 1000

#: Limits that bound the time and memory of validation itself: pydantic reports every error of a body.
_MAX_FIELDS, _MAX_MESSAGES = 100, 4096


def neutral(*values: Any, fix: str) -> BeforeValidator:
    """Validator of an unsupported parameter: absent, null or one of its neutral values."""

    def check(value: Any) -> Any:
        if value is not None and not any(
            value == neutral and isinstance(value, type(neutral) | float) for neutral in values
        ):
            raise PydanticCustomError("not_offered", "{fix}", {"fix": fix})
        return value

    return BeforeValidator(check)


def _joined_parts(content: Any) -> Any:
    """The content of a message: a list of text parts becomes their concatenated texts."""
    if not isinstance(content, list):
        return content
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    texts = [text for part in parts if isinstance(text := part.get("text"), str)]
    if not texts or len(texts) < len(content):
        raise PydanticCustomError("not_offered", "only text is read")
    return "".join(texts)


def _texts_or_tokens(value: Any) -> list[str | tuple[int, ...]]:
    """One or several texts or token arrays, as a list."""
    is_one = isinstance(value, str) or (isinstance(value, list) and bool(value) and isinstance(value[0], int))
    items = [value] if is_one else value
    if not isinstance(items, list) or not items or len(items) > _MAX_TEXTS:
        message = "is a text, an array of token ids, or a list of either, of at most {limit}"
        raise PydanticCustomError("texts_or_tokens", message, {"limit": _MAX_TEXTS})
    for number, item in enumerate(items, 1):
        if isinstance(item, str) or (isinstance(item, list) and item and all(map(_is_token, item))):
            continue
        message = "item {number} is neither a text nor an array of token ids, which are whole numbers from 0"
        raise PydanticCustomError("texts_or_tokens", message, {"number": number})
    return [item if isinstance(item, str) else tuple(item) for item in items]


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value < _TOKEN_IDS


_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_ITEMS = [{"type": "string"}, _TOKENS]

#: One or several texts or arrays of token ids, always as a list.
TextsOrTokens = Annotated[
    list[str | tuple[int, ...]],
    PlainValidator(_texts_or_tokens),
    WithJsonSchema({"anyOf": [*_ITEMS, *({"type": "array", "items": item, "minItems": 1} for item in _ITEMS)]}),
]


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    if fault := value_fault(value):
        raise PydanticCustomError("not_storable", "{fault}", {"fault": fault})
    return value


Fields = Annotated[dict[str, Any], AfterValidator(_storable)]


class Body(BaseModel):
    """A strict object without unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _check_number_of_fields(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > _MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", "has more than {limit} fields", {"limit": _MAX_FIELDS})
        return data


class ChatMessage(BaseModel):
    """One message. Other fields of this server's answers (`refusal`, `annotations`) are ignored when sent back."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined_parts)]

    @property
    def plain(self) -> Message:
        """The message as chat templates read it."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=_MAX_MESSAGES, fail_fast=True)]


def _not_too_long(choices: list[str]) -> list[str]:
    if sum(map(len, choices)) > _MAX_CHOICE_CHARACTERS:
        raise PydanticCustomError(
            "too_long", "all choices together have at most {limit} characters", {"limit": _MAX_CHOICE_CHARACTERS}
        )
    return choices


class ScoreRequest(Body):
    """One request to `/v1/score`."""

    model: str
    messages: Messages
    choices: Annotated[
        list[str], Field(min_length=1, max_length=_MAX_CHOICES, fail_fast=True), AfterValidator(_not_too_long)
    ]
    answer_prefix: str = ""
    choice_suffix: str | None = None
    prune_margin: float | None = Field(None, gt=0, allow_inf_nan=False)

    @field_validator("choice_suffix")
    @classmethod
    def _suffixes_not_too_long(cls, suffix: str | None, info: ValidationInfo) -> str | None:
        """Each choice is tokenised with the suffix behind it."""
        if suffix and len(suffix) * len(info.data.get("choices", ("",))) > _MAX_CHOICE_CHARACTERS:
            raise PydanticCustomError(
                "too_long",
                "all choices together have at most {limit} characters of it",
                {"limit": _MAX_CHOICE_CHARACTERS},
            )
        return suffix


class ScoreRequests(Body):
    """A batch of requests to `/v1/score`."""

    requests: list[ScoreRequest] = Field(min_length=1, max_length=_MAX_BATCH, fail_fast=True)


ScoreBody = Annotated[
    Annotated[ScoreRequest, Tag(SINGLE)] | Annotated[ScoreRequests, Tag(BATCH)],
    Discriminator(lambda body: BATCH if isinstance(body, dict) and "requests" in body else SINGLE),
]


class AdapterRequest(Body):
    """Body of `/v1/adapters/load` and `/v1/adapters/unload`.

    Attributes:
        folder: Of `load`: a folder of an adapter that is no version, such as one in training, relative to the store.
            The adapter then gets the name `adapter`, which no adapter of the store has.
    """

    adapter: str
    folder: str | None = None


class EmbeddingRequest(Body):
    """Body of `/v1/embeddings`. `truncate` and `input_type` are not OpenAI's.

    Attributes:
        input_type: Whether the texts are queries or documents; it matters for an adapter of the query side only, of
            which documents are encoded by the base.
        truncate: Whether texts that are too long are cut.
    """

    model: str
    input: TextsOrTokens
    dimensions: int | None = Field(None, ge=1)
    encoding_format: Literal["float", "base64"] | None = None
    truncate: bool = False
    input_type: Literal["query", "document"] = "query"
    user: Any = None


class TaskRequest(Body):
    """Body of `/v1/tasks/TASK`: the input fields of one record, or of several."""

    model: str
    input: Fields | None = None
    inputs: Annotated[list[Fields], Field(min_length=1, max_length=_MAX_BATCH, fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.input is None) == (self.inputs is None):
            raise PydanticCustomError("one_of_both", "give either 'input' or 'inputs'")
        return self


class Turn(Body):
    """One turn of a conversation before the query; its text may also be called `content`, as in a chat."""

    role: Literal["user", "assistant"]
    text: Annotated[str, Field(validation_alias=AliasChoices("text", "content"))]


class TextDocument(Body):
    """A passage with its text, and optionally an id of the client's and a title."""

    text: str
    title: str = ""
    id: str | None = None


class RerankRequest(Body):
    """Body of `/v1/rerank`, in the shape of Cohere, Jina and vLLM."""

    model: str
    query: str
    documents: Annotated[list[str | TextDocument], Field(min_length=1, max_length=_MAX_DOCUMENTS, fail_fast=True)]
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False

    # Ignored: a task truncates its passages itself.
    max_tokens_per_doc: Any = None
    max_chunks_per_doc: Any = None
    truncate_prompt_tokens: Any = None
    user: Any = None

    @property
    def fields(self) -> list[dict[str, str]]:
        """Title and text of each document."""
        return [
            {"title": "", "text": each} if isinstance(each, str) else {"title": each.title, "text": each.text}
            for each in self.documents
        ]


class ClassifyRequest(Body):
    """Body of `/v1/classify`, in the shape of vLLM."""

    model: str
    input: Annotated[
        list[str],
        Field(min_length=1, max_length=_MAX_BATCH, fail_fast=True),
        BeforeValidator(lambda texts: [texts] if isinstance(texts, str) else texts),
    ]
    user: Any = None


class RewriteRequest(Body):
    """Body of `/v1/rewrite`: a query, the conversation before it, and titles of passages that this finds."""

    model: str
    query: str
    history: Annotated[list[Turn], Field(max_length=_MAX_MESSAGES, fail_fast=True)] = []
    titles: Annotated[list[str], Field(max_length=_MAX_BATCH, fail_fast=True)] = []

    @property
    def turns(self) -> list[dict[str, str]]:
        """The turns as records hold them."""
        return [turn.model_dump() for turn in self.history]
