"""Pydantic schemas of the requests that search and grade hits."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from searchlora.errors import RowError
from searchlora.eval.trec import GREATEST_GRADE
from searchlora.events.log import Action
from searchlora.files.json_text import text_fault
from searchlora.pipelines.execution import WRITTEN
from searchlora.server.api.schemas import Body, Fields
from searchlora.systems.pipeline import with_history

#: Fields that stages write, and a query cannot bring.
_RESERVED = frozenset({"id", "query", *WRITTEN})

Weight: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _own_fields(fields: dict[str, Any]) -> dict[str, Any]:
    if reserved := sorted(_RESERVED & fields.keys()):
        raise PydanticCustomError("reserved", "'{name}' is not a field of your own", {"name": reserved[0]})
    try:
        with_history(fields, "fields")
    except RowError as error:
        raise PydanticCustomError("history", "{what}", {"what": f"{error.what}. {error.fix}"}) from None
    return fields


def _storable_text(text: str) -> str:
    if fault := text_fault(text):
        raise PydanticCustomError("not_storable", "{fault}", {"fault": fault})
    return text


def _example(body: dict[str, Any]) -> ConfigDict:
    """An example of a request, for the OpenAPI document."""
    return ConfigDict(json_schema_extra={"examples": [body]})


class SystemRequest(Body):
    """A pipeline of the server as it is to be executed.

    Attributes:
        slots: Slot -> `off`, `base`, or a version of its adapter.
        weights: Of the parts of the pipeline's first fusion; empty: its own.
    """

    pipeline: str
    slots: dict[str, str] = Field({}, max_length=64)
    weights: list[Weight] = Field([], max_length=16)


class SearchRequest(SystemRequest):
    """Body of `/v1/search`.

    Attributes:
        fields: Further fields that stages read, such as `history`.
        top: Number of hits in the answer.
        explain: A document: the answer says why it is where it is, or why it is missing.
        trace: Whether stages tell their prompts and answers.
        session, user: Names for the log of events, which keeps pseudonyms of them.
        record: Whether the server may record the search as an event.
    """

    model_config = _example(
        {"pipeline": "hybrid", "query": "red couch", "top": 3, "weights": [0.3, 0.7], "trace": True}
    )

    query: str = Field(min_length=1)
    fields: Annotated[Fields, AfterValidator(_own_fields)] = Field({})
    top: int = Field(10, ge=1, le=1000)
    explain: str | None = None
    trace: bool = False
    stream: bool = False
    session: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    user: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    record: bool = True


class JudgmentRequest(Body):
    """Body of `/v1/judgments`.

    Attributes:
        query, fields: The query and its fields as they were sent to `/v1/search`.
        document: Id of the document.
        grade: From 0; null: "cannot tell", which is no judgment.
        rater: Who grades.
        seconds: Time that the document was on the screen.
        rankings: Rankings of documents, best first, to measure with the new grade.
    """

    model_config = _example({"query": "red couch", "document": "P017", "grade": 2, "rater": "anna"})

    query: str = Field(min_length=1)
    document: str = Field(min_length=1)
    grade: int | None
    rater: str
    seconds: float = Field(0.0, ge=0, allow_inf_nan=False)
    rankings: list[Annotated[list[str], Field(max_length=1000)]] = Field([], max_length=8)
    fields: Annotated[Fields, AfterValidator(_own_fields)] = Field({})


class FeedbackRow(Body):
    """What a user did with a hit.

    Attributes:
        search: The `id` of the search.
        document: Id of the hit.
        grade, rater: Of the action `grade`.
    """

    search: str = Field(max_length=64)
    action: Action
    document: Annotated[str, AfterValidator(_storable_text), Field(min_length=1, max_length=512)]
    grade: Annotated[int, Field(ge=0, le=GREATEST_GRADE)] | None = None
    rater: Annotated[str, AfterValidator(_storable_text), Field(max_length=256)] = ""

    @model_validator(mode="after")
    def _check_grade(self) -> FeedbackRow:
        if (self.grade is None) == (self.action == "grade"):
            raise PydanticCustomError("grade", "'grade' belongs to the action 'grade'")
        return self


class EventsRequest(Body):
    """Body of `/v1/events`."""

    model_config = _example(
        {"events": [{"search": "019ae3b6c1f2a4b5c6d7e8f9a1b2c3d4e5f60718", "action": "click", "document": "P017"}]}
    )

    events: list[FeedbackRow] = Field(min_length=1, max_length=1000)


class RollbackRequest(Body):
    """Body of `/v1/production/rollback`.

    Attributes:
        adapter: Name and alias, as `/v1/production` lists them.
        moved: As `/v1/production` gave it: what has been moved since is not taken back.
        reason: Why; the history of the alias keeps it.
    """

    model_config = _example({"adapter": "shop-rewriter@production", "moved": 3, "reason": "Complaints about sofas."})

    adapter: str = Field(max_length=128)
    moved: int = Field(ge=0)
    reason: Annotated[str, AfterValidator(_storable_text), Field(min_length=1, max_length=1000)]
