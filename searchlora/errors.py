"""Exceptions of searchlora. Each message says what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Characters of a part of a message that are shown: names and values of files may have any length.
_MAX_PART, _KEPT_END = 4000, 500


class SearchloraError(Exception):
    """Base class of all errors that searchlora raises on purpose.

    Args:
        what: What is wrong, one sentence without a closing stop.
        where: The file, row, field, adapter or key concerned.
        fix: What the user can do about it, one sentence.

    Attributes:
        stage: Label of the stage of a pipeline that failed; None: it was raised elsewhere.

    Examples:
        >>> str(SearchloraError("is empty", where="rows.jsonl", fix="Give a file with rows."))
        'rows.jsonl: is empty. Give a file with rows.'
    """

    exit_code = 1
    stage: str | None = None

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        message = f"{_clipped(where)}: {_clipped(what)}." if where else f"{_clipped(what)}."
        super().__init__(f"{message} {fix}" if fix else message)

    def __reduce__(self) -> tuple[Any, ...]:
        """How another process gets a copy: `args` is the whole message, not the arguments of `__init__`."""
        return _unpickled, (type(self), self.args), self.__dict__


def _unpickled(kind: type[SearchloraError], args: tuple[Any, ...]) -> SearchloraError:
    return kind.__new__(kind, *args)


def _clipped(part: str) -> str:
    if len(part) <= _MAX_PART:
        return part
    return f"{part[: _MAX_PART - _KEPT_END]} … ({len(part):,} characters) … {part[-_KEPT_END:]}"


def some(names: Sequence[str]) -> str:
    """The first five names of a list, for a message.

    Examples:
        >>> some("abcdefg"), some("abcde"), some("")
        ('a, b, c, d, e and 2 more', 'a, b, c, d, e', '')
    """
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")


def printable(text: str) -> str:
    """Text of unknown origin for one line of a terminal or a log: line breaks and control characters become spaces.

    Examples:
        >>> printable("moved\\n\\x1b[31mERROR")
        'moved  [31mERROR'
    """
    return "".join(character if character.isprintable() else " " for character in text)


class UsageError(SearchloraError):
    """Arguments that do not fit together or are out of range."""

    exit_code = 2


class MissingExtra(SearchloraError):
    """A verb needs an optional dependency that is not installed."""


class ShardsFailed(SearchloraError):
    """Some shards of a job failed; what they and the others computed is kept.

    Args:
        failed: Shard -> why. The first error decides the exit code.
    """

    def __init__(self, failed: Mapping[str, BaseException]) -> None:
        shard, error = next(iter(failed.items()))
        super().__init__(
            f"{len(failed)} shards failed ({some([*failed])}); shard {shard}: {str(error).removesuffix('.')}",
            fix="What is complete is not computed again.",
        )
        self.exit_code = getattr(error, "exit_code", 1)


# Files of users


class DataError(SearchloraError):
    """A source file, a record or a dataset folder that cannot be used."""


class UnknownFormat(DataError):
    """No reader of that name."""


class MissingColumn(DataError):
    """A file has no column of the required name."""


class RowError(DataError):
    """A row that is invalid under its format or schema; `where` names the file, the row and the field."""


class RejectedRows(DataError):
    """Some rows were rejected, without `--allow-rejects`."""


class LeakError(DataError):
    """The same input is in two splits."""


class StaleIndex(DataError):
    """An index of another corpus, with other settings or models than those in use, or whose files were changed."""


class RecipeError(SearchloraError):
    """A recipe with an unknown key or a value out of range."""


class PipelineError(SearchloraError):
    """A pipeline file that is invalid, or a stage that cannot run on its input."""


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
    """An operation that the store refuses; its content is unchanged."""


class InvalidName(StoreError):
    """A name or reference outside the grammar."""


class NotInStore(StoreError):
    """No adapter, version or alias of that name."""


class NameTaken(StoreError):
    """The name is already in use."""


class ManifestError(StoreError):
    """A manifest that cannot be read, or was written by a newer version."""


class LoadCheckFailed(StoreError):
    """The adapter must not be loaded; subclasses name the reason."""


class TamperedAdapter(LoadCheckFailed):
    """A file's sha256 is not the one in the manifest, or a file is missing or extra."""


class BaseMismatch(LoadCheckFailed):
    """The adapter was trained on another base model."""


class TokenizerMismatch(LoadCheckFailed):
    """The tokenizer or the chat template changed since training."""


class MissingKey(LoadCheckFailed):
    """A weight required by the adapter's configuration is not in its file."""


class UnexpectedKey(LoadCheckFailed):
    """A weight in the adapter's file matches no module of the base, or has the wrong shape or type."""


class ZeroDelta(LoadCheckFailed):
    """The adapter's delta B·A is zero, so it changes nothing."""


class GoldenMismatch(LoadCheckFailed):
    """A golden record gives other token ids, logits or vectors than the stored ones, or outputs equal to the base's."""


# Training and inference


class TrainingError(SearchloraError):
    """A training run that cannot start, continue or be resumed."""


class EngineError(SearchloraError):
    """An operation that the inference engine cannot perform."""


class RequestRefused(EngineError):
    """A request whose grammar, choices or length cannot be served."""


class UnusableAnswer(EngineError):
    """An answer to one request that cannot be used: no finite numbers, or text that a server withheld."""


class EngineBusy(EngineError):
    """The engine accepts no requests now: the queue is full, all slots are in use, or it is closing."""


class DeadlineExceeded(EngineError):
    """A request that was not finished by its deadline."""


class PromptTooLong(RequestRefused):
    """A prompt that does not fit into the model's context.

    Args:
        request: Index of the request, from 0.
        prompt: Length of the prompt in tokens.
        answer: Number of further tokens that must fit.
        context: Context length in tokens.
    """

    def __init__(self, request: int, prompt: int, answer: int, context: int) -> None:
        self.request = request
        super().__init__(
            f"the prompt of {prompt} tokens and {answer} more for the answer do not fit into the model's context of"
            f" {context}",
            where=f"request {request + 1}",
            fix="Shorten the texts in the prompt, or take a base with a longer context.",
        )


def concerns_all(error: SearchloraError) -> bool:
    """Whether other requests would fail as well: an engine that cannot be asked, and no single bad request."""
    return isinstance(error, EngineError) and not isinstance(error, RequestRefused | UnusableAnswer)
