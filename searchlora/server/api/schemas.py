"""Pydantic schemas of request bodies, and their parser. Those that generate text are in `generation_schemas`.

Unknown parameters are refused, as OpenAI does.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, Self, TypeVar

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
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from searchlora.files.json_text import text_fault, value_fault
from searchlora.prompts import Message
from searchlora.server.api.errors import ApiError

#: Limits of one score request; all tokens of all choices are computed in one forward pass.
_MAX_CHOICES, _MAX_CHOICE_CHARACTERS = 1000, 16_000
_MAX_BATCH = 256
_MAX_TEXTS = 2048

#: Token ids are below it, whatever the vocabulary.
_TOKEN_IDS = 1 << 31
_MAX_DOCUMENTS = 1000

#: Limits that bound the time and memory of validation itself: pydantic reports every error of a body.
_MAX_FIELDS, _MAX_MESSAGES = 100, 4096

_JSON = re.compile(r"\s*application/([\w.+-]+\+)?json\s*(;|$)", re.IGNORECASE)

#: The escape of half a character, in UTF-8 or, with NUL bytes between, in UTF-16 or UTF-32.
_SURROGATE_ESCAPE = re.compile(rb"\\\0*u\0*[dD]\0*[89a-fA-F]")

T = TypeVar("T")

#: Earlier names of request fields, still accepted.
_EARLIER_NAMES = {"begins": "answer_prefix", "ends": "choice_suffix", "within": "prune_margin"}


def neutral(*values: Any, fix: str) -> BeforeValidator:
    """Validator of an unsupported parameter: absent, null or one of its neutral values."""

    def check(value: Any) -> Any:
        if value is not None and not any(
            value == neutral and isinstance(value, type(neutral) | float) for neutral in values
        ):
            raise PydanticCustomError("not_offered", "{fix}", {"fix": fix})
        return value

    return BeforeValidator(check)


def join_parts(*types: str) -> BeforeValidator:
    """Validator of a message's content: a list of parts of these types becomes their concatenated texts."""

    def join(content: Any) -> Any:
        if not isinstance(content, list):
            return content
        parts = [part for part in content if isinstance(part, dict) and part.get("type") in types]
        texts = [text for part in parts if isinstance(text := part.get("text"), str)]
        if not texts or len(texts) < len(content):
            raise PydanticCustomError("not_offered", "only text is read")
        return "".join(texts)

    return BeforeValidator(join)


def _texts_or_tokens(value: Any) -> list[str | tuple[int, ...]]:
    """One or several texts or token arrays, as a list."""
    is_array = isinstance(value, list) and bool(value) and isinstance(value[0], int)
    items = [value] if isinstance(value, str) or is_array else value
    if not isinstance(items, list) or not items:
        raise PydanticCustomError("texts_or_tokens", "is a text, an array of token ids, or a list of either")
    if len(items) > _MAX_TEXTS:
        raise PydanticCustomError("too_long", "has more than {limit} items", {"limit": _MAX_TEXTS})
    return [_text_or_tokens(item, number, len(items)) for number, item in enumerate(items, 1)]


def _text_or_tokens(item: Any, number: int, count: int) -> str | tuple[int, ...]:
    place = {"item": f"item {number} " if count > 1 else ""}
    if isinstance(item, str):
        return item
    if not isinstance(item, list) or not item:
        raise PydanticCustomError("texts_or_tokens", "{item}is neither a text nor an array of token ids", place)
    if not all(type(token) is int and 0 <= token < _TOKEN_IDS for token in item):
        raise PydanticCustomError("texts_or_tokens", "{item}holds a token id that is no whole number from 0", place)
    return tuple(item)


_STRINGS_OR_ARRAYS = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer", "minimum": 0}}, "minItems": 1},
    ]
}

#: One or several texts or arrays of token ids, always as a list.
TextsOrTokens = Annotated[
    list[str | tuple[int, ...]], PlainValidator(_texts_or_tokens), WithJsonSchema(_STRINGS_OR_ARRAYS)
]


def _as_list(texts: Any) -> Any:
    return [texts] if isinstance(texts, str) else texts


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
    def _rename_earlier_fields(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > _MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", "has more than {limit} fields", {"limit": _MAX_FIELDS})
        if not isinstance(data, dict) or not _EARLIER_NAMES.keys() & data.keys():
            return data
        renamed = {name: value for name, value in data.items() if name not in _EARLIER_NAMES}
        for name, new in _EARLIER_NAMES.items():
            if name in data:
                known = new in cls.model_fields and new not in renamed
                renamed[new if known else name] = data[name]
        return renamed


class ChatMessage(BaseModel):
    """One message. Other fields of this server's answers (`refusal`, `annotations`) are ignored when sent back."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, join_parts("text")]

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


#: Tags in the location of a validation error; they do not name fields.
SINGLE, BATCH = "<single>", "<batch>"

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
    """Body of `/v1/embeddings`. `truncate`, `token_ids` and `input_type` are not OpenAI's.

    Attributes:
        input_type: Whether the texts are queries or documents; it matters for an adapter of the query side only, of
            which documents are encoded by the base.
        truncate: Whether texts that are too long are cut.
        token_ids: The vocabulary of token arrays: that of OpenAI's embedding models, or the encoder's own.
    """

    model: str
    input: TextsOrTokens
    token_ids: Literal["cl100k_base", "model"] = "cl100k_base"
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


class _WithHistory(Body):
    history: Annotated[list[Turn], Field(max_length=_MAX_MESSAGES, fail_fast=True)] = []

    @property
    def turns(self) -> list[dict[str, str]]:
        """The turns as records hold them."""
        return [turn.model_dump() for turn in self.history]


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
    input: Annotated[list[str], Field(min_length=1, max_length=_MAX_BATCH, fail_fast=True), BeforeValidator(_as_list)]
    user: Any = None


class RewriteRequest(_WithHistory):
    """Body of `/v1/rewrite`: a query and the conversation before it."""

    model: str
    query: str


class AnswerRequest(_WithHistory):
    """Body of `/v1/answers`: a question and the passages to answer from, best first."""

    model: str
    query: str
    passages: Annotated[list[TextDocument], Field(max_length=_MAX_DOCUMENTS, fail_fast=True)]

    @property
    def passage_fields(self) -> list[dict[str, str]]:
        """The passages with ids; one without an id gets its number."""
        return [
            {"id": each.id or str(number), "title": each.title, "text": each.text}
            for number, each in enumerate(self.passages, 1)
        ]


def parse_body(body: bytes, content_type: str, adapter: TypeAdapter[T]) -> T:
    """Parse and validate a request body. It may take a while: call it in a worker thread.

    The body is not repeated in an error: it may not be encodable.

    Args:
        body: The raw body.
        content_type: The header `Content-Type`.
        adapter: The expected type.

    Raises:
        ApiError: 400, for a body that is not JSON or does not match; it names the first field that does not.

    Examples:
        >>> parse_body(b'{"adapter": "a@1"}', "application/json", TypeAdapter(AdapterRequest)).adapter
        'a@1'
    """
    if not _JSON.match(content_type):
        message = "The body is not sent as JSON: set the header 'Content-Type: application/json'."
        raise ApiError(400, "invalid_json", message)
    try:
        data = json.loads(body.decode(json.detect_encoding(body)))
    except json.JSONDecodeError as error:
        raise ApiError(400, "invalid_json", f"The body is not JSON: {error.msg}.") from None
    except (ValueError, RecursionError):  # not UTF-8, a number of thousands of digits, thousands of brackets
        raise ApiError(400, "invalid_json", "The body is not JSON that can be read.") from None
    # Only an escape can write a lone surrogate, which no tokenizer reads and no answer can repeat.
    if (place := _lone_surrogate(data) if _SURROGATE_ESCAPE.search(body) else None) is not None:
        field = ".".join(map(str, place)).encode("utf-8", "replace").decode("utf-8")
        message = f"{field or 'The body'}: holds half a character (a lone surrogate)."
        raise ApiError(400, "invalid_value", message, param=field or None)
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise _invalid_field(error) from None
    except RecursionError:
        raise ApiError(400, "invalid_value", "The body is nested too deeply.") from None


def _lone_surrogate(data: Any) -> tuple[str | int, ...] | None:
    """The place of a text, or of a key, that cannot be encoded as UTF-8; None without one."""
    pending: list[tuple[tuple[str | int, ...], Any]] = [((), data)]
    while pending:
        place, value = pending.pop()
        if isinstance(value, str):
            if text_fault(value, allow_nul=True):
                return place
        elif isinstance(value, list):
            pending += (((*place, number), item) for number, item in enumerate(value))
        elif isinstance(value, dict):
            for key, item in value.items():
                pending += [((*place, key), key), ((*place, key), item)]
    return None


def _invalid_field(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    kind, message = first["type"], first["msg"]
    field = ".".join(str(part) for part in first["loc"] if part not in (SINGLE, BATCH))
    if kind == "extra_forbidden":
        return ApiError(400, "unknown_parameter", f"There is no parameter '{field}'.", param=field)
    code = {"missing": "missing_parameter", "not_offered": "not_offered"}.get(kind, "invalid_value")
    return ApiError(400, code, f"{field or 'The body'}: {message}.", param=field or None)
