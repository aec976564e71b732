"""Stages of a pipeline: generation with an adapter, retrieval, matching, passages. Each maps a batch of searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from searchlora.errors import InvalidScores, PipelineError
from searchlora.eval.trec import Run, ranked
from searchlora.inference.engine import Completion, Engine, Request
from searchlora.outputs import ClosedSet, Continued, InvalidOutput, OutputSpec
from searchlora.pipelines.conditions import Condition, bound, described, paths_of
from searchlora.prompts import Message, messages
from searchlora.records import Document, Hit, Record, SearchContext
from searchlora.retrieval.field_filter import FieldFilter
from searchlora.retrieval.fusion import Failure, Fused, fuse
from searchlora.retrieval.retriever import Retriever, search_filtered
from searchlora.task import GenerationTask

if TYPE_CHECKING:
    from searchlora.retrieval.encoder import Encoder


class Stage(Protocol):
    """One step of a pipeline."""

    @property
    def label(self) -> str:
        """The stage with pinned versions, for run files and reports."""

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        """The searches in the same order, each a new mapping with the fields that this stage adds."""


#: Log-probability margin in nats: choices this far behind the best are not scored to the end, see `Engine.score`. No
#: probability changes by more than 0.0004. (Temperatures are fitted to probabilities that were scored in this way.)
PRUNE_MARGIN = 8.0

#: Smallest number of records that are scored before their continuations are generated: few enough for a local engine's
#: prefix cache to hold their prompts still. Half a call of the engine is scored where that is more.
SCORING_BATCH = 16


#: Field of a search with the queries whose hits retrievers fuse: those before a rewrite, and last `query`.
FUSED_QUERIES = "fused_queries"

#: Field of a search with the parts of a fusion that failed, label -> error, until the stage is executed.
FAILED_PARTS = "failed_parts"

#: Field of a search with the task and the reason of each output so far that is invalid.
INVALID = "invalid_outputs"


@dataclass(frozen=True)
class _Asked:
    """A record with its prompt, which is rendered once, and the form of its output."""

    record: Record
    chat: tuple[Message, ...]
    spec: OutputSpec


@dataclass(frozen=True)
class AdapterStage:
    """A stage for any prompted task: an adapter, or the base model, generates, and the task updates the search.

    Parsed outputs, including `InvalidOutput`, are stored under `outputs[task name]`, one list per search. The task's
    fallback replaces an invalid output; without a fallback the search is unchanged.

    Args:
        adapter: A pinned reference, `name@3`; None: the base model zero-shot.
        constrained: Constrain the output: choices are scored completely, with probabilities, and a grammar restricts
            generation. False: the model generates freely and the text is parsed.
        rest: Generate the text that follows a scored choice, such as the reason of a grade, or the answer where the
            model does not abstain. It follows the choice after tuning.
        fuse_rewrite: Where the task rewrites the query, let retrievers search with the one before, too.
    """

    task: GenerationTask
    engine: Engine
    adapter: str | None
    max_new_tokens: int = 64
    constrained: bool = True
    rest: bool = True
    fuse_rewrite: bool = False

    @property
    def label(self) -> str:
        name = self.adapter or f"base({self.task.name})"
        return f"{name}(rewrite=fuse)" if self.fuse_rewrite else name

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        records = [self.task.records_from(search) for search in searches]
        flat = [record for of_search in records for record in of_search]
        outputs = iter(self.ask(flat))
        done = [
            with_outputs(self.task, search, of_search, [next(outputs) for _ in of_search])
            for search, of_search in zip(searches, records, strict=True)
        ]
        return [self._with_queries(before, after) for before, after in zip(searches, done, strict=True)]

    def requests(self, searches: Sequence[SearchContext]) -> list[tuple[Request, tuple[str, ...]]]:
        """The first request for each record of the searches, with its choices; none where it generates."""
        asked = [self._asked(record) for search in searches for record in self.task.records_from(search)]
        return [
            (self._request(each), ())
            if (spec := self._scored(each)) is None
            else (self._scoring_request(each, spec), tuple(spec.choices or ()))
            for each in asked
        ]

    def _with_queries(self, before: SearchContext, after: SearchContext) -> SearchContext:
        """The search after the stage, with the queries before it that retrievers search with, too."""
        if after["query"] == before["query"] or not (self.fuse_rewrite or FUSED_QUERIES in before):
            return after
        others = searched_queries(before) if self.fuse_rewrite else searched_queries(before)[:-1]
        return {**after, FUSED_QUERIES: tuple(dict.fromkeys((*others, str(after["query"]))))}

    def ask(self, records: Sequence[Record]) -> list[Any]:
        """The output of each record; `InvalidOutput` if the text does not parse or was cut off."""
        size = max(SCORING_BATCH, self.engine.call_size // 2)
        if self.rest and len(records) > size and self._continues(records[0]):
            parts = [records[start : start + size] for start in range(0, len(records), size)]
            return [output for part in parts for output in self.ask(part)]
        asked = [self._asked(record) for record in records]
        scored = {index: spec for index, each in enumerate(asked) if (spec := self._scored(each)) is not None}
        generated = [index for index in range(len(asked)) if index not in scored]
        outputs = {**self._score(asked, scored), **self._generate(asked, generated)}
        tuned = [self._apply_tuning(outputs[index], record) for index, record in enumerate(records)]
        return self._with_continuations(asked, scored, tuned) if self.rest else tuned

    def _asked(self, record: Record) -> _Asked:
        return _Asked(record, messages(self.task, record), self.task.output(record))

    def _scored(self, asked: _Asked) -> ClosedSet | None:
        """The choices that are scored; None for an output that is generated."""
        return asked.spec if self.constrained and isinstance(asked.spec, ClosedSet) else None

    def _request(self, asked: _Asked) -> Request:
        return Request(asked.chat, self.adapter, self.max_new_tokens, asked.spec.grammar if self.constrained else None)

    def _scoring_request(self, asked: _Asked, spec: ClosedSet) -> Request:
        return Request(
            asked.chat,
            self.adapter,
            choice_suffix=spec.choice_suffix if isinstance(spec, Continued) else None,
            keep_prefix=self.rest and isinstance(spec, Continued) and spec.continues,
        )

    def _continues(self, record: Record) -> bool:
        spec = self.task.output(record)
        return self.constrained and isinstance(spec, Continued) and spec.continues

    def _score(self, asked: Sequence[_Asked], specs: Mapping[int, ClosedSet]) -> dict[int, Any]:
        requests = [self._scoring_request(asked[index], spec) for index, spec in specs.items()]
        choices = [spec.choices or () for spec in specs.values()]
        scores = self.engine.score(requests, choices, prune_margin=PRUNE_MARGIN) if requests else []
        return {
            index: _value(spec, result.log_probabilities)
            for (index, spec), result in zip(specs.items(), scores, strict=True)
        }

    def _generate(self, asked: Sequence[_Asked], indices: Sequence[int]) -> dict[int, Any]:
        requests = [self._request(asked[index]) for index in indices]
        completions = self.engine.generate(requests) if requests else []
        return {
            index: text
            if isinstance(text := _complete_text(completion), InvalidOutput)
            else self.task.parse(text, asked[index].record)
            for index, completion in zip(indices, completions, strict=True)
        }

    def _apply_tuning(self, output: Any, record: Record) -> Any:
        return output if isinstance(output, InvalidOutput) else self.task.apply_tuning(output, record)

    def _with_continuations(
        self, asked: Sequence[_Asked], specs: Mapping[int, ClosedSet], values: list[Any]
    ) -> list[Any]:
        continued = {
            index: (spec, prefix)
            for index, spec in specs.items()
            if isinstance(spec, Continued)
            and not isinstance(values[index], InvalidOutput)
            and (prefix := spec.answer_prefix(values[index])) is not None
        }
        requests = [
            Request(
                asked[index].chat,
                self.adapter,
                self.max_new_tokens,
                spec.continuation,
                answer_prefix=prefix,
            )
            for index, (spec, prefix) in continued.items()
        ]
        outputs = list(values)
        completions = self.engine.generate(requests) if requests else []
        for (index, (spec, _)), completion in zip(continued.items(), completions, strict=True):
            outputs[index] = spec.with_continuation(values[index], _complete_text(completion))
        return outputs


def _value(spec: ClosedSet, log_probabilities: Sequence[float]) -> Any:
    """The most probable choice; `InvalidOutput` for scores that are not numbers."""
    try:
        return spec.from_scores(log_probabilities)
    except InvalidScores as error:
        return InvalidOutput("", error.what)


def _complete_text(completion: Completion) -> str | InvalidOutput:
    """The text of a completion; `InvalidOutput` if it was cut off."""
    if completion.finish == "stop":
        return completion.text
    return InvalidOutput(completion.text, f"no end within {completion.completion_tokens} tokens")


def with_outputs(
    task: GenerationTask, search: SearchContext, records: Sequence[Record], outputs: Sequence[Any]
) -> SearchContext:
    """A search with a task's outputs in it: kept as they are, and acted on with the fallback where one is invalid."""
    usable = [
        task.fallback(record) if isinstance(output, InvalidOutput) else output
        for record, output in zip(records, outputs, strict=True)
    ]
    changes = task.updates(search, usable) if all(value is not None for value in usable) else {}
    kept = {**search.get("outputs", {}), task.name: list(outputs)}
    # Apart from `outputs`, in which a later stage of the same task replaces those of an earlier one.
    invalid = [(task.name, output.reason) for output in outputs if isinstance(output, InvalidOutput)]
    told = {INVALID: (*search.get(INVALID, ()), *invalid)} if invalid else {}
    return {**search, **changes, "outputs": kept, **told}


@dataclass(frozen=True)
class RetrieveStage:
    """`query` -> `hits`, at most k. The label names what searches, and its settings.

    Where an earlier stage lets several queries be searched, their hits are fused by reciprocal rank fusion.

    Args:
        filter_by: Field of a document -> its condition; only documents that fulfil all of them are searched. A
            condition whose paths have no values in the search filters nothing.
    """

    retriever: Retriever
    k: int
    label: str
    filter_by: Mapping[str, Condition] = field(default_factory=dict)

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        queries = [searched_queries(search) for search in searches]
        flat = [query for of_search in queries for query in of_search]
        found = iter(self._search(flat, self.filters(searches)))
        done: list[SearchContext] = []
        for search, of_search in zip(searches, queries, strict=True):
            rankings, failures = zip(*(next(found) for _ in of_search), strict=True)
            hits = rankings[0] if len(rankings) == 1 else fuse(rankings)[: self.k]
            failed = dict(failure for of_query in failures for failure in of_query)
            done.append({**search, "hits": hits, **({FAILED_PARTS: failed} if failed else {})})
        return done

    def _search(self, queries: Sequence[str], filters: Sequence[FieldFilter]) -> list[tuple[list[Hit], list[Failure]]]:
        if isinstance(self.retriever, Fused):
            return self.retriever.search_with_failures(queries, self.k, filters)
        return [(hits, []) for hits in search_filtered(self.retriever, queries, self.k, filters)]

    def filters(self, searches: Sequence[SearchContext]) -> list[FieldFilter]:
        """The filter of each query that is searched; those of one search have the same."""
        of_searches = [bound(self.filter_by, search) for search in searches]
        return [filter for search, filter in zip(searches, of_searches, strict=True) for _ in searched_queries(search)]


def has_own_hits(search: SearchContext) -> bool:
    """Whether `hits` are those of a stage, and not those that a query row holds, which may be anything."""
    hits = search.get("hits")
    return isinstance(hits, list | tuple) and all(isinstance(hit, Hit) for hit in hits)


def searched_queries(search: SearchContext) -> tuple[str, ...]:
    """The queries with which retrievers search: the query, after those that a rewrite is fused with."""
    queries: tuple[str, ...] = search.get(FUSED_QUERIES, (str(search["query"]),))
    return queries


@dataclass(frozen=True)
class HitsStage:
    """The hits of another engine: those of a run, or the field `hits` of the search; at most k, best first.

    Args:
        run: Topic -> document -> score; None: the hits are in the search. A topic without results has no hits.
        name: The run's name, for the label.

    Raises:
        PipelineError: if a search has no `hits`, or they are not ids or objects with `document` and `score`.
    """

    run: Run | None
    k: int
    name: str = ""

    @property
    def label(self) -> str:
        return f"hits({self.name or 'given'},k={self.k})"

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        return [{**search, "hits": self._hits(search)[: self.k]} for search in searches]

    def _hits(self, search: SearchContext) -> list[Hit]:
        if self.run is None:
            return supplied_hits(search)
        scores = self.run.get(str(search["id"]), {})
        return [Hit(document, scores[document]) for document in ranked(scores)]


def supplied_hits(search: SearchContext) -> list[Hit]:
    """The hits in a query row: document ids, best first, or objects with `document` and `score`.

    Ids get the scores n, n - 1, ... 1. Hits with scores are ranked by them, with ties as trec_eval orders them.

    Raises:
        PipelineError: naming the query, if there are none, one is malformed, or a document is repeated.

    Examples:
        >>> supplied_hits({"id": "q1", "hits": ["d7", "d2"]})
        [Hit(document='d7', score=2.0), Hit(document='d2', score=1.0)]
    """
    where = f"query {search['id']}"
    form = 'Hits are a list of document ids, best first, or of {"document": "d1", "score": 12.5}.'
    rows = search.get("hits")
    if not isinstance(rows, list):
        raise PipelineError("has no list 'hits'", where=where, fix=form)
    if all(isinstance(row, str) for row in rows):
        scores = {row: float(len(rows) - rank) for rank, row in enumerate(rows)}
    else:
        try:
            scores = {row["document"]: float(row["score"]) for row in rows}
        except (TypeError, KeyError, ValueError, OverflowError):
            raise PipelineError("'hits' has an element that is not a hit", where=where, fix=form) from None
        if not all(isinstance(document, str) for document in scores) or not all(map(isfinite, scores.values())):
            raise PipelineError("'hits' has a document that is not text or a score that is not finite", where=where)
    if len(scores) < len(rows):
        raise PipelineError("'hits' names a document twice", where=where)
    return [Hit(document, scores[document]) for document in ranked(scores)]


@dataclass(frozen=True)
class PassagesStage:
    """`hits` -> `passages`: the texts of the first k hits, best first, each with `id`, `title`, `text` and `score`.

    Raises:
        PipelineError: if a search has no hits, because no earlier stage retrieves.
    """

    documents: Mapping[str, Document]
    k: int

    @property
    def label(self) -> str:
        return f"passages({self.k})"

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        return [{**search, "passages": self._passages(search)} for search in searches]

    def _passages(self, search: SearchContext) -> list[dict[str, str | float]]:
        if "hits" not in search:
            raise PipelineError(
                "there are no hits to fetch passages of",
                where=f"query {search['id']}",
                fix="Put a retrieval stage before 'passages'.",
            )
        passages = []
        for hit in search["hits"][: self.k]:
            document = _document(self.documents, hit, search)
            passages.append({"id": document.id, "title": document.title, "text": document.text, "score": hit.score})
        return passages


def _document(documents: Mapping[str, Document], hit: Hit, search: SearchContext) -> Document:
    """The document of a hit. Raises `PipelineError` if the corpus does not have it."""
    if hit.fetched is not None:
        return hit.fetched
    try:
        return documents[hit.document]
    except KeyError:
        raise PipelineError(
            f"the document '{hit.document}' is not in the corpus",
            where=f"query {search['id']}",
            fix="Give the corpus that the hits were retrieved from.",
        ) from None


@dataclass(frozen=True)
class MatchStage:
    """`hits` -> `hits`: filtered and boosted by fields of the documents that fit what earlier stages wrote.

    Args:
        filter: Field of a document -> its condition; hits that do not fulfil one of them are removed. A condition whose
            paths have no values in the search filters nothing.
        boost: The same; the score s of a hit that fulfils it becomes s + (factor - 1) · |s|, once for each field.
        k: Number of hits to keep; None: all.

    Raises:
        PipelineError: if a search has no hits, or the corpus does not have the document of a hit.
    """

    documents: Mapping[str, Document]
    filter: Mapping[str, Condition]
    boost: Mapping[str, Condition]
    factor: float = 2.0
    k: int | None = None

    @property
    def label(self) -> str:
        parts = [f"filter={each}" for each in described(self.filter)]
        parts += [f"boost={each}^{self.factor:g}" for each in described(self.boost)]
        return f"match({','.join(parts if self.k is None else [*parts, f'k={self.k}'])})"

    @property
    def paths(self) -> list[str]:
        """The paths of all values in a search that the stage reads."""
        return paths_of(self.filter, self.boost)

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        return [{**search, "hits": self._matching(search)[: self.k]} for search in searches]

    def _matching(self, search: SearchContext) -> list[Hit]:
        if "hits" not in search:
            raise PipelineError(
                "there are no hits to match", where=f"query {search['id']}", fix="Put a retrieval stage before 'match'."
            )
        filters, boosts = bound(self.filter, search), bound(self.boost, search)
        if not filters and not boosts:
            return list(search["hits"])
        kept = {}
        for hit in search["hits"]:
            document = _document(self.documents, hit, search)
            if all(test(document.field(name)) for name, test in filters.items()):
                matches = sum(test(document.field(name)) for name, test in boosts.items())
                score = hit.score
                for _ in range(matches):
                    score += (self.factor - 1) * abs(score)
                kept[hit.document] = replace(hit, score=score)
        scores = {document: hit.score for document, hit in kept.items()}
        return [kept[document] for document in ranked(scores)]


@dataclass(frozen=True)
class SimilarityStage:
    """`passages` -> `grades`: of each passage its `id`, and as `relevance` its cosine with the query, from 0 to 1.

    A cosine c is written as (1 + c) / 2, so that rules for probabilities of relevance take it. It is no probability.

    Raises:
        PipelineError: if a search has no passages.
    """

    encoder: Encoder
    label: str
    query_prefix: str = ""
    document_prefix: str = ""
    batch_size: int = 32

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        for search in searches:
            if "passages" not in search:
                raise PipelineError(
                    "there are no passages to grade",
                    where=f"query {search['id']}",
                    fix="Put a stage 'passages' before 'similarity'.",
                )
        queries = [self.query_prefix + str(search["query"]) for search in searches]
        passages = [[self.document_prefix + _searchable(each) for each in search["passages"]] for search in searches]
        of_query = self._units(self.encoder.encode, queries)
        of_passage = self._units(self.encoder.encode_documents, [text for texts in passages for text in texts])
        grades = [
            _cosine_grades(search["passages"], of_query[query], [of_passage[text] for text in texts])
            for search, query, texts in zip(searches, queries, passages, strict=True)
        ]
        return [{**search, "grades": each} for search, each in zip(searches, grades, strict=True)]

    def _units(self, encode: Callable[..., Any], texts: Sequence[str]) -> dict[str, Any]:
        """Text -> its vector, of length 1. Each text is encoded once."""
        distinct = list(dict.fromkeys(texts))
        vectors = encode(distinct, batch_size=self.batch_size)
        units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return dict(zip(distinct, units, strict=True))


def _cosine_grades(passages: Sequence[Mapping[str, Any]], query: Any, vectors: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {"id": passage["id"], "relevance": min(max((1 + float(vector @ query)) / 2, 0.0), 1.0)}
        for passage, vector in zip(passages, vectors, strict=True)
    ]


def _searchable(passage: Mapping[str, Any]) -> str:
    return Document(str(passage["id"]), str(passage["text"]), str(passage.get("title") or "")).searchable
