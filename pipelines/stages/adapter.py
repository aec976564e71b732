"""The stage `adapter`: an adapter, or its base model zero-shot, generates, and its task updates the search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator

from searchlora.adapters.full_model import base_of
from searchlora.adapters.load_check import check_renders
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import InvalidScores, PipelineError, UsageError
from searchlora.inference.engine import ChoiceScores, Completion, Engine, Request
from searchlora.inference.metered import Exchange, MeteredEngine
from searchlora.inference.settings import EngineSettings, engine_settings
from searchlora.outputs import ClosedSet, Continued, Graded, InvalidOutput
from searchlora.pipelines.stages.answering import AnsweringSettings, AnsweringStage
from searchlora.pipelines.stages.deciding import Decides
from searchlora.pipelines.stages.retrieve import searched_queries
from searchlora.pipelines.stages.stage import (
    FUSED_QUERIES,
    BuildContext,
    Needs,
    short_name,
)
from searchlora.prompts import messages
from searchlora.recipe import PromptOptions
from searchlora.records import Record, SearchContext
from searchlora.task import GenerationTask

#: Log-probability margin in nats: choices this far behind the best are not scored to the end, see `Engine.score`. No
#: probability changes by more than 0.0004. (Temperatures are fitted to probabilities that were scored in this way.)
PRUNE_MARGIN = 8.0

#: Smallest number of records that are scored before their continuations are generated: few enough for a local engine's
#: prefix cache to hold their prompts still. Half a call of the engine is scored where that is more.
SCORING_BATCH = 16


class AdapterSettings(AnsweringSettings):
    """`- adapter: {name: shop-rewriter@production}`: run an adapter on each query; its manifest names task and base.

    With `name: null`, also as the value of a parameter, the stage is left out: the slot is empty.
    """

    kind: ClassVar[str] = "adapter"
    adapter_key: ClassVar[str | None] = "name"
    slot_key: ClassVar[str | None] = "name"
    removable: ClassVar[bool] = True
    works_on_records: ClassVar[bool] = True

    name: str = Field(description="adapter: `name`, `name@3` or `name@alias`")
    max_new_tokens: int | None = Field(
        None, ge=1, description="maximum number of generated tokens; default: that of the adapter's recipe"
    )
    constrained: bool = Field(True, description="constrain the output to the output form of the task")
    continue_after_choice: bool = Field(
        True, description="also generate the text that follows a scored choice, such as the reason for a grade"
    )
    engine: EngineSettings | None = Field(
        None, description="see [engine](#engine); default: the file's engine, else this process"
    )
    zero_shot: bool = Field(False, description="use the base model without the adapter, with the same prompt")
    rewrite: Literal["replace", "fuse"] = Field(
        "replace",
        description="for rewriting tasks; replace: later stages search with the rewritten query; fuse: they search with"
        " the query and its rewrite, and fuse the hits by reciprocal rank fusion",
    )
    tuned: dict[str, Any] = Field(
        default_factory=dict,
        description="tuned values that replace those in the adapter's manifest, such as `{abstain: judge}` for"
        " rag_answer; `searchlora tune` fits them",
    )

    @field_validator("engine", mode="before")
    @classmethod
    def _engine_of_a_file(cls, engine: Any, info: ValidationInfo) -> Any:
        return engine if engine is None or not info.context else engine_settings(engine, f"{info.context}, engine")

    def needs(self) -> Needs:
        adapters, zero_shot = ((), (self.name,)) if self.zero_shot else ((self.name,), ())
        return Needs(adapters=adapters, zero_shot=zero_shot)

    @property
    def adapter_reference(self) -> str | None:
        return None if self.zero_shot else self.name

    def with_adapter(self, reference: str | None) -> Self:
        update: dict[str, Any] = {"zero_shot": True} if reference is None else {"name": reference, "zero_shot": False}
        return self.model_copy(update={**update, "decides": self.rule_for(reference)})

    def with_default_engine(self, engine: EngineSettings) -> Self:
        return self if self.engine is not None else self.model_copy(update={"engine": engine})

    def to_tune(self, task: str, store: Store) -> Mapping[str, Any]:
        return self.tuned if self.tuned and store.get(self.name).manifest.task == task else {}

    def untuned(self) -> Self:
        return self.model_copy(update={"tuned": {}, "continue_after_choice": False})

    def decides_for(self, task: str, store: Store) -> bool:
        if self.only_undecided or self.zero_shot:
            return False
        return store.get(self.name).manifest.task == task

    @property
    def slot_name(self) -> str:
        return short_name(self.name)

    def can_swap(self, reference: str, store: Store) -> bool:
        del reference, store
        return True

    def build(self, context: BuildContext) -> AdapterStage:
        """Load the adapter."""
        stored = context.store.get(self.name)
        manifest = stored.manifest
        task = self._task(stored, context)
        base = manifest.base.resolve()
        model = base if self.zero_shot else base_of(stored, base)
        # An engine knows the options of each adapter's prompts; those of a base without an adapter are its own.
        own = self.zero_shot and manifest.prompt_options != PromptOptions()
        options = manifest.prompt_options if own else None
        local = context.engines.get(model, manifest.precision, settings=self.engine, prompt_options=options)
        check_renders(stored, task, local.renderer)
        if self.decides is not None:
            self.decides.check(None if self.zero_shot else stored.reference, task, constrained=self.constrained)
        engine: Engine = local
        adapter = None if self.zero_shot else engine.pin(self.name)
        if context.cache is not None:
            scope = {
                "engine": engine.engine_id,
                "base": manifest.base.fingerprint.model_dump(),
                "adapter": {} if self.zero_shot else dict(manifest.files),
                "prompt options": manifest.prompt_options.model_dump(),
            }
            engine = MeteredEngine(engine, context.cache.answers(scope))
        return AdapterStage(
            task,
            engine,
            adapter,
            self.max_new_tokens or manifest.max_new_tokens,
            constrained=self.constrained,
            continue_after_choice=self.continue_after_choice,
            fuse_rewrite=self.rewrite == "fuse",
            decides=self.decides,
            only_undecided=self.only_undecided,
        )

    def _task(self, stored: StoredAdapter, context: BuildContext) -> GenerationTask:
        from searchlora.task import load_task

        manifest = stored.manifest
        tuned = {} if self.zero_shot else manifest.tuned  # values that were chosen for the adapter's outputs
        task = load_task(manifest.task, context.tasks).bound(manifest.settings, {**tuned, **self.tuned})
        if not isinstance(task, GenerationTask):
            what = f"the task '{task.name}' has no prompt, so it cannot be an adapter stage"
            raise PipelineError(what, where=self.name)
        try:
            task.check_tuned(self.tuned)
        except UsageError as error:
            raise PipelineError(error.what, where=f"{self.name}, tuned", fix=error.fix) from None
        return task


def grades(task: GenerationTask) -> bool:
    """Whether a task grades passages, as judges do."""
    return bool(task.examples) and isinstance(task.output(task.examples[0]), Graded)


@dataclass(frozen=True)
class _Asked:
    """A record with its first request; `scored` has the choices, None if the output is generated."""

    record: Record
    request: Request
    scored: ClosedSet | None


@dataclass(frozen=True)
class AdapterStage(AnsweringStage):
    """A stage for any generation task: an adapter, or the base model, generates, and the task updates the search.

    Parsed outputs, including `InvalidOutput`, are stored under `outputs[task name]`, one list per search. The task's
    fallback replaces an invalid output; without a fallback the search is unchanged.
    """

    task: GenerationTask
    engine: Engine
    adapter: str | None
    max_new_tokens: int = 64
    constrained: bool = True
    continue_after_choice: bool = True
    fuse_rewrite: bool = False
    decides: Decides | None = None
    only_undecided: bool = False

    @property
    def label(self) -> str:
        name = self.adapter or f"base({self.task.name})"
        return f"{name}(rewrite=fuse)" if self.fuse_rewrite else name

    def requests(self, searches: Sequence[SearchContext]) -> list[tuple[Request, tuple[str, ...]]]:
        """The first request for each record of the searches, with its choices; none where it generates."""
        asked = [self._asked(record) for search in searches for record in self.task.records_from(search)]
        return [(each.request, tuple(each.scored.choices or ()) if each.scored else ()) for each in asked]

    def completed(self, before: SearchContext, after: SearchContext) -> SearchContext:
        """The search with the queries before it that retrievers search with, too."""
        if after["query"] == before["query"] or not (self.fuse_rewrite or FUSED_QUERIES in before):
            return after
        others = searched_queries(before) if self.fuse_rewrite else searched_queries(before)[:-1]
        return {**after, FUSED_QUERIES: tuple(dict.fromkeys((*others, str(after["query"]))))}

    def ask(self, records: Sequence[Record]) -> list[Any]:
        """The output of each record; `InvalidOutput` if its text does not parse, or is cut off without a whole part."""
        size = max(SCORING_BATCH, self.engine.call_size // 2)
        if self.continue_after_choice and len(records) > size and self._continues(records[0]):
            parts = [records[start : start + size] for start in range(0, len(records), size)]
            return [output for part in parts for output in self.ask(part)]
        asked = [self._asked(record) for record in records]
        scored = iter(self._score([each for each in asked if each.scored is not None]))
        generated = iter(self._generate([each for each in asked if each.scored is None]))
        outputs = [next(generated if each.scored is None else scored) for each in asked]
        tuned = [self._apply_tuning(output, record) for output, record in zip(outputs, records, strict=True)]
        return self._with_continuations(asked, tuned) if self.continue_after_choice else tuned

    def _asked(self, record: Record) -> _Asked:
        chat, spec = messages(self.task, record), self.task.output(record)
        if not (self.constrained and isinstance(spec, ClosedSet)):
            grammar = spec.grammar if self.constrained else None
            return _Asked(record, Request(chat, self.adapter, self.max_new_tokens, grammar), None)
        continued = spec if isinstance(spec, Continued) else None
        suffix = None if continued is None else continued.choice_suffix
        keep = self.continue_after_choice and continued is not None and continued.continues
        return _Asked(record, Request(chat, self.adapter, choice_suffix=suffix, keep_prefix=keep), spec)

    def _continues(self, record: Record) -> bool:
        spec = self.task.output(record)
        return self.constrained and isinstance(spec, Continued) and spec.continues

    def _score(self, asked: Sequence[_Asked]) -> list[Any]:
        specs = [each.scored for each in asked if each.scored is not None]
        requests, choices = [each.request for each in asked], [spec.choices or () for spec in specs]
        scores = self.engine.score(requests, choices, prune_margin=PRUNE_MARGIN) if requests else []
        return [_value(spec, score.log_probabilities) for spec, score in zip(specs, scores, strict=True)]

    def _generate(self, asked: Sequence[_Asked]) -> list[Any]:
        completions = self.engine.generate([each.request for each in asked]) if asked else []
        texts = map(self._text, completions)
        return [
            text if isinstance(text, InvalidOutput) else self.task.parse(text, each.record)
            for each, text in zip(asked, texts, strict=True)
        ]

    def _apply_tuning(self, output: Any, record: Record) -> Any:
        return output if isinstance(output, InvalidOutput) else self.task.apply_tuning(output, record)

    def _with_continuations(self, asked: Sequence[_Asked], values: list[Any]) -> list[Any]:
        continued = {
            index: (each.scored, prefix)
            for index, each in enumerate(asked)
            if isinstance(each.scored, Continued)
            and not isinstance(values[index], InvalidOutput)
            and (prefix := each.scored.answer_prefix(values[index])) is not None
        }
        requests = [
            Request(
                asked[index].request.messages,
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
            outputs[index] = spec.with_continuation(values[index], self._text(completion))
        return outputs

    def _text(self, completion: Completion) -> str | InvalidOutput:
        """The text of a completion; of one that was cut off what is whole, or `InvalidOutput`."""
        if completion.finish == "stop":
            return completion.text
        whole = self.task.whole_part(completion.text)
        reason = f"no end within {completion.completion_tokens} tokens"
        return InvalidOutput(completion.text, reason) if whole is None else whole

    def engines(self) -> tuple[Engine, ...]:
        return (self.engine,)

    def with_engines(self, change: Callable[[Engine], Engine]) -> AdapterStage:
        return replace(self, engine=change(self.engine))

    # Traces and explanations

    def trace(
        self, before: SearchContext, after: SearchContext, exchanges: Mapping[str, Sequence[Exchange]]
    ) -> tuple[dict[str, Any], list[str]]:
        """The version that generated, its requests and answers, and tokens, those of cached answers included."""
        prompts = dict.fromkeys(repr(messages(self.task, record)) for record in self.records(before))
        own = [exchange for prompt in prompts for exchange in exchanges.get(prompt, ())]
        distinct = list({(repr(exchange.request), exchange.choices): exchange for exchange in own}.values())
        row = {
            "adapter": self.adapter,
            "requests": [_request(exchange) for exchange in distinct],
            "tokens": {
                "prompt": sum(exchange.answer.prompt_tokens for exchange in distinct),
                "output": sum(_output_tokens(exchange) for exchange in distinct),
            },
        }
        flags = ["cached"] if distinct and all(exchange.known for exchange in distinct) else []
        _, more = super().trace(before, after, exchanges)
        return row, [*flags, *more]


def _request(exchange: Exchange) -> dict[str, Any]:
    request, answer = exchange.request, exchange.answer
    row: dict[str, Any] = {"prompt": [dict(message) for message in request.messages]}
    if request.answer_prefix:
        row["answer_prefix"] = request.answer_prefix
    if isinstance(answer, ChoiceScores):
        row["log_probabilities"] = dict(zip(exchange.choices, answer.log_probabilities, strict=True))
    else:
        row |= {"text": answer.text, "finish": answer.finish}
    tokens = {"prompt": answer.prompt_tokens, "output": _output_tokens(exchange)}
    return {**row, "tokens": tokens, **({"cached": True} if exchange.known else {})}


def _output_tokens(exchange: Exchange) -> int:
    answer = exchange.answer
    return answer.scored_tokens if isinstance(answer, ChoiceScores) else answer.completion_tokens


def _value(spec: ClosedSet, log_probabilities: Sequence[float]) -> Any:
    """The most probable choice; `InvalidOutput` for scores that are not numbers."""
    try:
        return spec.from_scores(log_probabilities)
    except InvalidScores as error:
        return InvalidOutput("", error.what)
