"""The stage `http`: a query to another search engine, whose hits come with their texts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from searchlora.http_client import api_key
from searchlora.pipelines.stages.conditions import Conditions
from searchlora.pipelines.stages.retrieve import RemoteSettings, RetrieveStage
from searchlora.pipelines.stages.stage import BuildContext, Needs

_PATHS = ("hits", "id", "score", "title", "text")


class HttpSettings(RemoteSettings):
    """`- http: {url: http://localhost:9200/products/_search, engine: opensearch, k: 100}`: query an engine by HTTP.

    `engine` sets the other keys to the defaults of OpenSearch, Elasticsearch or Solr; each key can be overridden. In
    `body`, `{query}` stands for the query, and the value `{k}` for the number of hits. Paths such as `_source.title`
    address fields in the JSON response. The texts come with the hits, so no corpus is needed.
    """

    kind: ClassVar[str] = "http"
    literal: ClassVar[frozenset[str]] = frozenset({"body"})
    unlabelled: ClassVar[frozenset[str]] = frozenset(
        {"url", "engine", "body", *_PATHS, "api_key_env", "auth", "concurrency", "timeout_s", "retries"}
    )

    url: str = Field(description="search endpoint, without a query string")
    engine: Literal["opensearch", "elasticsearch", "solr"] | None = Field(
        None, description="sets the defaults of the keys below"
    )
    body: dict[str, Any] | None = Field(None, description="JSON body of the request")
    hits: str | None = Field(None, description="path of the list of hits in the response")
    id: str | None = Field(None, description="path of the id in a hit")
    score: str | None = Field(None, description="path of the score in a hit; without it, the order of the hits counts")
    title: str | None = Field(None, description="path of the title in a hit")
    text: tuple[str, ...] | None = Field(None, description="paths of the text in a hit, joined by a space")
    auth: Literal["bearer", "apikey", "basic"] = Field(
        "bearer", description="how the key is sent; for `basic` it is `user:password`"
    )
    retries: int = Field(4, ge=0, description="attempts after the first")
    filter_by: Conditions = Field(
        default_factory=dict, description="refused here, since the request is your own: use a stage [filter](#filter)"
    )

    @field_validator("text", mode="before")
    @classmethod
    def _one_or_more(cls, text: Any) -> Any:
        return (text,) if isinstance(text, str) else text

    @model_validator(mode="after")
    def _complete(self) -> HttpSettings:
        if self.filter_by:
            raise ValueError("a query by HTTP takes no 'filter_by'; use a stage 'filter'")
        missing = [key for key in ("body", "hits", "id") if self.engine is None and getattr(self, key) is None]
        if missing:
            raise ValueError(f"'{missing[0]}' is needed, or an 'engine' that sets it")
        return self

    def needs(self) -> Needs:
        return Needs(texts_with_hits=True, unversioned=True)

    def build(self, context: BuildContext) -> RetrieveStage:
        """Set up the requests; none is sent."""
        from searchlora.retrieval.http import HttpRetriever, ResponsePaths, engine_defaults

        del context
        body, paths = engine_defaults(self.engine)
        own = {key: value for key in _PATHS if (value := getattr(self, key))}
        retriever = HttpRetriever(
            self.url,
            self.body or body,
            ResponsePaths(**{**asdict(paths), **own}),
            api_key=api_key(self.api_key_env, self.url),
            auth=self.auth,
            concurrency=self.concurrency,
            timeout_s=self.timeout_s,
            retries=self.retries,
        )
        return RetrieveStage(retriever, self.k, self.label(urlsplit(self.url).path.strip("/")), kind=self.kind)
