"""One exception tree. Every error says what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class SearchloraError(Exception):
    """The root of every error that searchlora raises on purpose.

    Args:
        what: What is wrong, one sentence without a closing stop.
        where: The file, row, field, adapter or key concerned.
        fix: What the user can do about it, one sentence.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        message = f"{where}: {what}." if where else f"{what}."
        super().__init__(f"{message} {fix}" if fix else message)


def some(names: Sequence[str]) -> str:
    """The first five names of a list, for a message: `a, b, c, d, e and 7 more`."""
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")


class UsageError(SearchloraError):
    """A call that cannot be carried out as it was asked."""

    exit_code = 2


class MissingExtra(SearchloraError):
    """A verb needs an optional dependency that is not installed."""


# What a user's files can get wrong


class DataError(SearchloraError):
    """A source file, a record or a dataset folder that cannot be used."""


class UnknownFormat(DataError):
    """No reader of that name."""


class RowError(DataError):
    """One row that does not fit its format or its schema; `where` names the file, the row and the field."""


class RejectedRows(DataError):
    """Some rows were refused and `--allow-rejects` was not given."""


class LeakError(DataError):
    """The same input stands in two splits."""


class RecipeError(SearchloraError):
    """A recipe with an unknown key or a value out of range."""


class PipelineError(SearchloraError):
    """A pipeline file that cannot be built, or a stage that cannot run on what it was given."""


# Rendering and outputs


class RenderError(SearchloraError):
    """A chat or record that cannot be rendered to token ids; names the record."""


class OutputSchemaError(SearchloraError):
    """A JSON Schema of outputs that cannot be used."""


class InvalidScores(SearchloraError):
    """Scores of choices from which no value follows: NaN, infinite, or of the wrong number."""


# Base models


class BaseModelError(SearchloraError):
    """A base model that cannot be found or loaded."""


class BaseModelMoved(BaseModelError):
    """The folder of a base model in use was moved or deleted."""


# The adapter store


class StoreError(SearchloraError):
    """The store cannot do what was asked; what was in it before is untouched."""


class InvalidName(StoreError):
    """A name or reference outside the grammar."""


class NotInStore(StoreError):
    """No adapter, version or alias of that name."""


class NameTaken(StoreError):
    """The name is in use for something else."""


class ManifestError(StoreError):
    """A manifest that cannot be read, or was written by a newer version."""


class LoadCheckFailed(StoreError):
    """The adapter must not be loaded. Each reason has a class of its own below."""


class TamperedAdapter(LoadCheckFailed):
    """A file's sha256 is not the one in the manifest, or a file is missing or extra."""


class BaseMismatch(LoadCheckFailed):
    """The adapter was trained on another base model."""


class TokenizerMismatch(LoadCheckFailed):
    """The tokenizer or the chat template changed since training."""


class MissingKey(LoadCheckFailed):
    """A weight that the adapter's configuration asks for is not in its file."""


class UnexpectedKey(LoadCheckFailed):
    """A weight in the adapter's file matches no module of the base, or has the wrong shape or type."""


class ZeroDelta(LoadCheckFailed):
    """The adapter changes nothing: its delta is zero."""


class GoldenRenderMismatch(LoadCheckFailed):
    """The golden records no longer render to the token ids that training saw."""


class GoldenLogitsMismatch(LoadCheckFailed):
    """The logits on the golden prompts equal the base's, or are not those of the day the adapter was stored."""


class GoldenVectorsMismatch(LoadCheckFailed):
    """The vectors of the golden texts equal the base's, or are not those of the day the adapter was stored."""


# Training and inference


class TrainingError(SearchloraError):
    """A training run that cannot start, go on or be resumed."""


class EngineError(SearchloraError):
    """Something that the inference engine cannot do."""


class RequestRefused(EngineError):
    """A request that cannot be served as it was asked: its grammar, its choices, its length."""


class EngineBusy(EngineError):
    """No more requests are taken now: too many wait, all slots are in use, or the engine is closing."""


class DeadlineExceeded(EngineError):
    """A request that was not done by its deadline."""


class PromptTooLong(RequestRefused):
    """A prompt that has no room in the model's context.

    Args:
        request: Its place among the requests, from 0.
        prompt: Its length in tokens.
        answer: How many more must fit.
        context: How many the model takes.
    """

    def __init__(self, request: int, prompt: int, answer: int, context: int) -> None:
        self.request = request
        super().__init__(
            f"the prompt of {prompt} tokens and {answer} more for the answer do not fit into the model's context of"
            f" {context}",
            where=f"request {request + 1}",
            fix="Shorten the texts in the prompt, or take a base with a longer context.",
        )
