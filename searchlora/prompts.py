"""The one renderer: record -> messages -> token ids. Training and inference both call it, nobody else renders.

A task's `prompt.jinja` has two blocks, `system` and `user`. What many requests share (instructions, guideline) stands
in `system`, then what fewer share: an engine's prefix cache lives on that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from searchlora.errors import RenderError
from searchlora.records import Record
from searchlora.task import PromptedTask, Task

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, str]

IGNORED = -100  # the label of a token that is not trained on, as everywhere in PyTorch


@dataclass(frozen=True)
class Example:
    """A training row.

    Attributes:
        input_ids: Prompt, completion and stop token.
        prompt_length: How many of them are the prompt; the rest are trained on.
    """

    input_ids: tuple[int, ...]
    prompt_length: int


def messages(task: PromptedTask, record: Record) -> tuple[Message, ...]:
    """The chat messages that ask a task's question about a record.

    Raises:
        RenderError: when the template names a field that the record lacks.
    """
    from jinja2 import TemplateError

    template = _template(task.template)
    fields = task.fields(record)
    try:
        texts = {role: _block(template, role, fields) for role in ("system", "user")}
    except TemplateError as error:
        raise RenderError(f"the prompt cannot be rendered ({error})", where=f"record {record.get('id')}") from None
    return tuple({"role": role, "content": text} for role, text in texts.items() if text)


def input_text(task: Task, record: Record) -> str:
    """What the model sees of a record, without what all records share; two splits may not hold the same."""
    if not isinstance(task, PromptedTask):
        return task.input_text(record)
    return next((message["content"] for message in messages(task, record) if message["role"] == "user"), "")


class Renderer:
    """Messages to token ids, for one tokenizer and its chat template.

    Args:
        tokenizer: A transformers tokenizer with a chat template.

    Raises:
        RenderError: when the template is missing or does not end an assistant's turn with a special token.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise RenderError("the tokenizer has no chat template", fix="Use an instruction-tuned base model.")
        self.tokenizer = tokenizer

    def prompt_ids(self, chat: Sequence[Message], begins: str = "") -> list[int]:
        """The ids up to where the answer begins, and then those of what it begins with."""
        text = self.tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
        return [*self._ids(text), *self._ids(begins)]

    def completion_ids(self, text: str, ends: str | None = None) -> list[int]:
        """The ids of an answer, the stop token at the end; or those of the beginning of one, up to and with `ends`."""
        return [*self._ids(text), self.stop_id] if ends is None else self._ids(text + ends)

    def example(self, task: PromptedTask, record: Record) -> Example:
        """A row to train on. The prompt's ids are a prefix of it by construction: the two are tokenized apart.

        Raises:
            RenderError: naming the record, when its target is empty and so nothing would be trained.
        """
        target = task.target(record)
        if not target.strip():
            raise RenderError("the target is empty, so every label would be masked", where=f"record {record['id']}")
        prompt = self.prompt_ids(messages(task, record))
        return Example((*prompt, *self.completion_ids(target)), len(prompt))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a completion, without special tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    @cached_property
    def stop_id(self) -> int:
        """The token with which the template ends an assistant's turn."""
        mark = "THE-ANSWER"
        chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
        text: str = self.tokenizer.apply_chat_template(chat, tokenize=False)
        after = self.tokenizer(text.partition(mark)[2], add_special_tokens=False)["input_ids"]
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        if not after or after[0] not in special:
            raise RenderError(
                "the chat template does not end an assistant's turn with a special token",
                fix="Use a base model whose template does, or training could not teach the model to stop.",
            )
        return int(after[0])


@cache
def _template(source: str) -> Template:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source)


def _block(template: Template, name: str, fields: Mapping[str, Any]) -> str:
    if name not in template.blocks:
        return ""
    return "".join(template.blocks[name](template.new_context(dict(fields)))).strip()
