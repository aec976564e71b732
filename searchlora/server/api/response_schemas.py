"""Types of the server's answers: FastAPI documents them, and mypy checks the functions that build them.

They are dictionaries, not models: an answer is encoded as it was built, without a second validation.
"""

from __future__ import annotations

from typing import (
    Any,
    Generic,
    Literal,
    NotRequired,  # pydantic reads typing's own only from Python 3.12
    TypeVar,
)

from typing_extensions import TypedDict

T = TypeVar("T")

#: Counts by kind, such as `prompt_tokens`.
Usage = dict[str, int]


class ErrorDetail(TypedDict):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(TypedDict):
    error: ErrorDetail


class Status(TypedDict):
    status: str


class ListOf(TypedDict, Generic[T]):
    object: Literal["list"]
    data: list[T]


class ModelEntry(TypedDict):
    """Only the base has the last four, how it is computed; `batching` is the check behind `shares_batches`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    precision: NotRequired[str]
    batch_invariant: NotRequired[bool]
    shares_batches: NotRequired[bool]
    batching: NotRequired[str]


class Loaded(TypedDict):
    adapter: str
    loaded: bool
    was_loaded: NotRequired[bool]


# Generated text


class PromptDetails(TypedDict):
    """`cached_tokens`: those that came from the prefix cache."""

    cached_tokens: int


class GenerationUsage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class Logprob(TopLogprob):
    top_logprobs: list[TopLogprob]


Finish = Literal["stop", "length"]


class AssistantMessage(TypedDict):
    role: Literal["assistant"]
    content: str


class ChatLogprobs(TypedDict):
    content: list[Logprob]


class ChatChoice(TypedDict):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: GenerationUsage


class LogprobLists(TypedDict):
    """OpenAI's parallel lists; `text_offset` counts the characters of the answer before each token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: LogprobLists | None
    finish_reason: Finish | None


class TextCompletion(TypedDict):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: NotRequired[GenerationUsage]


# Scores, vectors, tasks


class Scores(TypedDict):
    """Log-probabilities of the choices of a request, and their probabilities among each other."""

    object: Literal["score"]
    model: str
    log_probabilities: list[float]
    probabilities: list[float]
    usage: Usage


class ScoresOfBatch(TypedDict):
    results: list[Scores]


class Embedding(TypedDict):
    """A vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(ListOf[Embedding]):
    model: str
    usage: Usage


class TaskOutput(TypedDict):
    valid: bool
    value: Any


class TaskOutputs(TypedDict):
    """`output` for one input, `outputs` for several."""

    object: Literal["task_output"]
    model: str
    task: str
    output: NotRequired[TaskOutput]
    outputs: NotRequired[list[TaskOutput]]


class RerankResult(TypedDict):
    index: int
    relevance_score: float
    invalid: NotRequired[str]
    document: NotRequired[dict[str, str]]


class Reranked(TypedDict):
    id: str
    model: str
    results: list[RerankResult]


class Classified(TypedDict):
    index: int
    label: str | None
    probs: list[float]
    num_classes: int
    labels: list[str]
    invalid: NotRequired[str]


class Classifications(ListOf[Classified]):
    id: str
    created: int
    model: str


class Rewritten(TypedDict):
    object: Literal["rewrite"]
    model: str
    query: str
    invalid: NotRequired[str]


# Search and topics


class SlotEntry(TypedDict):
    name: str
    adapter: str | None
    choices: list[str]


class FusionEntry(TypedDict):
    stage: int
    method: str
    parts: list[str]
    weights: list[float]


class PipelineEntry(TypedDict):
    id: str
    object: Literal["pipeline"]
    stages: list[str]
    slots: list[SlotEntry]
    fusion: FusionEntry | None
    fields: list[str]
    documents: int


class StageRow(TypedDict):
    """A row of a trace, see `pipelines.execution.trace_row`."""

    id: str
    stage: int
    kind: str
    label: str
    output: dict[str, Any]
    flags: list[str]
    milliseconds: float
    adapter: NotRequired[str | None]
    input: NotRequired[dict[str, Any]]
    requests: NotRequired[list[dict[str, Any]]]
    requests_left_out: NotRequired[int]
    tokens: NotRequired[Usage]


class HitEntry(TypedDict):
    rank: int
    document: str
    score: float
    title: str | None
    text: str | None
    grade: NotRequired[int | None]


class SentenceEntry(TypedDict):
    """A sentence of an answer; `spans` are characters of cited passages, and `support` is by citation."""

    sentence: str
    citations: list[int]
    supported: bool | None
    spans: list[dict[str, int]]
    support: list[bool | None]


class PassageEntry(TypedDict):
    number: int
    document: str
    title: str
    text: str


class Evidence(TypedDict):
    sentences: list[SentenceEntry]
    passages: list[PassageEntry]


class Measured(TypedDict):
    measure: str
    value: float | None
    judged: int
    of: int


class SearchResult(TypedDict):
    """`id` only if the search is recorded as an event."""

    object: Literal["search"]
    id: NotRequired[str]
    pipeline: str
    query: str
    hits: list[HitEntry]
    total: int
    output: dict[str, Any]
    evidence: Evidence | None
    stages: list[StageRow]
    milliseconds: float
    topic: NotRequired[str]
    measured: NotRequired[Measured]


class ExplanationResult(TypedDict):
    object: Literal["explanation"]
    pipeline: str
    document: str
    query: str
    stages: list[dict[str, Any]]
    missing_at: int | None
    verdict: str


class JudgmentResult(TypedDict):
    object: Literal["judgment"]
    topic: str
    document: str
    grade: int | None
    measured: list[Measured]


class FeedbackOutcome(TypedDict):
    outcome: Literal["new", "repeated", "forged", "late"]
    message: NotRequired[str]


class EventsResult(TypedDict):
    """`data` has an entry for each event, in their order. All that are not refused are on disk."""

    object: Literal["events"]
    recorded: int
    data: list[FeedbackOutcome]


class ExampleQuery(TypedDict):
    """A query that the page offers, with the fields that the first pipeline reads."""

    query: str
    fields: dict[str, Any]


class TopicsEntry(TypedDict):
    """`scale`: the grades that people give to hits, in ascending order."""

    object: Literal["topics"]
    collects_grades: bool
    scale: list[int]
    examples: list[ExampleQuery]


# Adapters


class VersionEntry(TypedDict):
    """A version of an adapter; `problem` says why it cannot be read."""

    version: int
    reference: str
    problem: str | None
    created: str | None
    method: str | None
    lineage: list[str]
    data: str | None
    metrics: dict[str, float]
    evaluations: list[dict[str, Any]]


class AdapterEntry(TypedDict):
    id: str
    object: Literal["adapter"]
    task: str | None
    base: str | None
    problem: str | None
    aliases: dict[str, dict[str, Any]]
    versions: list[VersionEntry]
    history: list[dict[str, Any]]
    pipelines: list[str]
