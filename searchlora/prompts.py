"""The only prompt renderer: record -> chat messages -> token ids, the same for training and inference.

A task's `prompt.jinja` has two blocks, `system` and `user`. Text that many requests share (instructions, guideline)
belongs in `system`, which the prefix cache of an engine reuses.

Message contents are data. The chat template alone produces control tokens: a document that holds the text
`<|im_end|>` gets the token ids of these characters, never the id of the control token.
"""

from __future__ import annotations

import itertools
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from searchlora.errors import RenderError
from searchlora.recipe import PromptOptions
from searchlora.records import Record
from searchlora.task import GenerationTask, Task

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, str]

#: Label of a token that is not trained on, as everywhere in PyTorch.
IGNORED = -100

#: Incremented when the same chat renders to other token ids than before. 4: control tokens come from the template only.
RENDERING = 4

#: Character ranges `[first, last]` for private substitutes of content: Unicode's private use planes.
_PRIVATE = ((0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))

_PRIVATE_RUN = re.compile("[\U000f0000-\U000ffffd\U00100000-\U0010fffd]+")

#: Characters for each allowed token in the beginning of a text that is counted first; English has about 4.
_FIRST_CHARACTERS = 4

#: Tokens that may be different at the place where a text is cut.
_CUT_TOKENS = 64

#: Separates the parts of a control token for a server that tokenises by itself; invisible, and no word boundary.
_WORD_JOINER = "\u2060"

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Example:
    """A training row: token ids of prompt, completion and stop token; those after the prompt are trained on."""

    input_ids: Sequence[int]
    prompt_length: int


def messages(task: GenerationTask, record: Record) -> tuple[Message, ...]:
    """The chat messages that ask a task's question about a record.

    Raises:
        RenderError: if the template names a field that the record lacks, or fails on its value.
    """
    from jinja2 import TemplateError

    template = _template(task.template)
    fields = task.fields(record)
    try:
        texts = {role: _block(template, role, fields) for role in ("system", "user")}
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise RenderError(f"the prompt cannot be rendered ({error})", where=f"record {record.get('id')}") from None
    return tuple({"role": role, "content": text} for role, text in texts.items() if text)


def input_text(task: Task, record: Record) -> str:
    """The model's input for a record, without text that all records share; two splits must not have the same."""
    if not isinstance(task, GenerationTask):
        return task.input_text(record)
    return next((message["content"] for message in messages(task, record) if message["role"] == "user"), "")


def first_words(text: str, length: int) -> str:
    """The first words of a text, with "…" where some are left out."""
    words = text.split()
    return " ".join(words) if len(words) <= length else " ".join(words[:length]) + " …"


def truncated_history(
    history: Sequence[Mapping[str, str]], latest: int, words: Mapping[str, int]
) -> list[dict[str, str]]:
    """The opening turn, which names the subject, "…" in place of omitted turns, and the latest turns.

    `words`: role -> maximum number of words of its turns; the turns of other roles are kept whole.

    Examples:
        >>> truncated_history([{"role": "user", "text": "warm  tents for two?"}], latest=4, words={"user": 2})
        [{'role': 'user', 'text': 'warm tents …'}]
    """
    if len(history) > latest + 2:
        history = [history[0], {"role": "assistant", "text": "…"}, *history[-latest:]]
    return [
        {"role": turn["role"], "text": first_words(turn["text"], words.get(turn["role"], len(turn["text"])))}
        for turn in history
    ]


class Renderer:
    """Renders chats to token ids with one tokenizer and its chat template.

    The chat template is rendered with `options`, never with today's date. A template without a system role gets the
    system message in front of the first user turn, separated by an empty line.

    Content is told from template text by rendering the chat a second time with every visible character of its contents
    replaced by a private one. The text is then tokenised as a whole, so that harmless content gets the same ids as with
    `apply_chat_template`. If a control token covers any character of a content, the text is cut inside that token and
    the parts are tokenised apart.

    Args:
        tokenizer: A fast transformers tokenizer with a chat template.
        options: Date and arguments of the chat template.
        adapter_options: Returns the options with which the prompts of an adapter are rendered.

    Raises:
        RenderError: if there is no chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        options: PromptOptions | None = None,
        adapter_options: Callable[[str], PromptOptions] | None = None,
    ) -> None:
        if not tokenizer.chat_template:
            raise RenderError("the tokenizer has no chat template", fix="Use an instruction-tuned base model.")
        self.tokenizer = tokenizer
        self.options = options or PromptOptions()
        self._adapter_options = adapter_options
        self._others: dict[str, Renderer] = {}

    def with_options(self, options: PromptOptions) -> Renderer:
        if options == self.options:
            return self
        return self._others.setdefault(options.model_dump_json(), Renderer(self.tokenizer, options))

    def prompt_ids(self, chat: Sequence[Message], answer_prefix: str = "", adapter: str | None = None) -> list[int]:
        """Token ids up to the beginning of the answer, then those of `answer_prefix`.

        Args:
            adapter: Reference of the adapter that answers; its options are used instead of the renderer's own.

        Raises:
            RenderError: if the chat template refuses the chat, or a content cannot be kept apart from it.
        """
        if adapter is not None and self._adapter_options is not None:
            return self.with_options(self._adapter_options(adapter)).prompt_ids(chat, answer_prefix)
        if not self._has_system_role:
            chat = _merge_system(chat)
        text, contents = self._render(chat)
        return [*self._ids(text, contents), *self._content_ids(answer_prefix)]

    def bounded_prompt_ids(
        self, chat: Sequence[Message], answer_prefix: str = "", adapter: str | None = None, *, limit: int | None = None
    ) -> tuple[list[int], int]:
        """Token ids of a prompt and their number. Above `limit` perhaps none, and a smaller number, as texts are read
        no further than necessary. Raises `RenderError`.
        """
        if adapter is not None and self._adapter_options is not None:
            renderer = self.with_options(self._adapter_options(adapter))
            return renderer.bounded_prompt_ids(chat, answer_prefix, limit=limit)
        size = sum(len(message["content"]) for message in chat) + len(answer_prefix)
        if limit is not None and size > _FIRST_CHARACTERS * limit:
            text = f"{self._apply(chat if self._has_system_role else _merge_system(chat))}{answer_prefix}"
            if (above := self._beginning_above(text, limit)) is not None:
                return [], above[1] - _CUT_TOKENS
        ids = self.prompt_ids(chat, answer_prefix)
        return ids, len(ids)

    def _beginning_above(self, text: str, limit: int) -> tuple[int, int] | None:
        """Characters and tokens of a beginning with clearly more tokens than `limit`; None if the whole is read."""
        size = _FIRST_CHARACTERS * limit
        while size < len(text):
            tokens = len(self.tokenizer(text[:size], add_special_tokens=False)["input_ids"])
            if tokens > limit + _CUT_TOKENS:
                return size, tokens
            size *= 4
        return None

    def text_ids(self, text: str, *, limit: int | None = None) -> list[int]:
        """Token ids of a text that a model continues, without the chat template; the text never becomes a control
        token.

        They begin with the beginning-of-text token, if the tokenizer writes one. Above `limit` tokens, they may be
        those of a beginning of the text.
        """
        beginning = self.tokenizer("")["input_ids"][:1]
        first = beginning if beginning == [self.tokenizer.bos_token_id] else []
        if limit is not None and (above := self._beginning_above(text, limit)) is not None:
            text = text[: above[0]]
        return [*first, *self._content_ids(text)]

    def completion_ids(self, text: str, choice_suffix: str | None = None) -> list[int]:
        """Token ids of an answer and the stop token; with a suffix, of the text and the suffix without stop token."""
        if choice_suffix is None:
            return [*self._content_ids(text), self.stop_id]
        return self._content_ids(text + choice_suffix)

    def example(self, task: GenerationTask, record: Record) -> Example:
        """A training row. The prompt's ids are a prefix of it, since prompt and completion are tokenised apart.

        Raises:
            RenderError: naming the record, if its target is empty, so that no token would be trained.
        """
        target = task.completion(record)
        if not target.strip():
            raise RenderError("the target is empty, so every label would be masked", where=f"record {record['id']}")
        prompt = self.prompt_ids(messages(task, record))
        return Example((*prompt, *self.completion_ids(target)), len(prompt))

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def disarm(self, text: str) -> str:
        """Content for a server that tokenises by itself: control tokens are broken by an invisible word joiner."""
        return _WORD_JOINER.join(piece for piece, _ in self._pieces(text, [(0, len(text))]))

    @cached_property
    def stop_id(self) -> int:
        """The token with which the chat template ends an assistant's turn.

        Raises:
            RenderError: if it is not a special token.
        """
        mark = "THE-ANSWER"
        text = self._apply([{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}], prompt=False)
        after = self.tokenizer(text.partition(mark)[2], add_special_tokens=False)["input_ids"]
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        if not after or after[0] not in special:
            raise RenderError(
                "the chat template does not end an assistant's turn with a special token",
                fix="Use a base model whose template does, or training could not teach the model to stop.",
            )
        return int(after[0])

    # Chat template

    def _apply(self, chat: Sequence[Message], *, prompt: bool = True) -> str:
        """The text of a chat; with `prompt`, up to the beginning of the answer."""
        from jinja2 import TemplateError

        try:
            return _chat_template(self.tokenizer.get_chat_template()).render(
                **self.tokenizer.special_tokens_map,
                **self.options.template_kwargs,
                messages=[dict(message) for message in chat],
                tools=None,
                documents=None,
                add_generation_prompt=prompt,
                strftime_now=self._strftime,
            )
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise RenderError(f"the chat template refuses the chat ({error})") from None

    def _strftime(self, pattern: str) -> str:
        """The date of the options in English, whatever the locale, for templates that print today's date."""
        date = datetime.fromisoformat(self.options.date)
        month, day = _MONTHS[date.month - 1], _DAYS[date.weekday()]
        for code, name in (("%B", month), ("%b", month[:3]), ("%h", month[:3]), ("%A", day), ("%a", day[:3])):
            pattern = pattern.replace(code, name)
        return date.strftime(pattern)

    @cached_property
    def _has_system_role(self) -> bool:
        mark = "THE-SYSTEM-MESSAGE"
        chat = [{"role": "system", "content": mark}, {"role": "user", "content": "?"}]
        try:
            return mark in self._apply(chat)
        except RenderError:
            return False

    def _render(self, chat: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The text of a chat, and the spans [start, end) of it that come from message contents.

        Raises:
            RenderError: if the template changes contents so that they cannot be told from template text.
        """
        plain = self._apply(chat)
        opaque, spans = self._render_opaque(chat, plain, *_PRIVATE[0])
        if opaque == plain:
            return plain, spans
        # The template transforms contents, or its output depends on them.
        marked = self._render_marked(chat, plain)
        if marked is not None and marked[0] == plain:
            return marked
        if self._is_harmless("".join(message["content"] for message in chat)):
            return plain, []
        if (opaque, spans) != self._render_opaque(chat, plain, *_PRIVATE[1]):
            raise RenderError(
                "the chat template encodes the contents of messages, so control tokens in them cannot be found",
                fix="Use a base model with another chat template.",
            )
        return opaque, spans

    def _render_opaque(
        self, chat: Sequence[Message], plain: str, first: int, last: int
    ) -> tuple[str, list[tuple[int, int]]]:
        """Render with each character of the contents replaced by a private one, and put the contents back.

        The template cannot read such contents. White space around them stays, so the template can trim it.
        """
        used = sorted(set("".join(message["content"] for message in chat)))
        reserved = set(plain).union(used)
        private = (chr(code) for code in range(first, last + 1) if chr(code) not in reserved)
        table = dict(zip(used, private, strict=False))
        if len(table) < len(used):
            raise RenderError("the chat has too many different characters")
        forward = str.maketrans(table)
        text = self._apply([_with_core(message, lambda core: core.translate(forward)) for message in chat])
        back = str.maketrans({private: char for char, private in table.items()})
        return text.translate(back), list(_runs(text, set(table.values())))

    def _render_marked(self, chat: Sequence[Message], plain: str) -> tuple[str, list[tuple[int, int]]] | None:
        """Render with a private character at both ends of each content; None if they do not come out in pairs."""
        begin, end = (char for char, _ in zip(_unused(plain), range(2), strict=False))
        text = self._apply([_with_core(message, lambda core: f"{begin}{core}{end}") for message in chat])
        parts: list[str] = []
        spans: list[tuple[int, int]] = []
        length = 0
        before, *rest = text.split(begin)
        parts.append(before)
        length += len(before)
        if end in before:
            return None
        for part in rest:
            inside, *outside = part.split(end)
            if len(outside) != 1:
                return None
            spans.append((length, length + len(inside)))
            parts += [inside, outside[0]]
            length += len(inside) + len(outside[0])
        return "".join(parts), spans

    # Tokens

    @cached_property
    def _control_tokens(self) -> dict[int, str]:
        """Id -> text of the tokens that content must not produce: all added tokens but runs of white space."""
        tokens = {
            int(token_id): str(token.content)
            for token_id, token in self.tokenizer.added_tokens_decoder.items()
            if token.special or str(token.content).strip()
        }
        special = zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True)
        return {**{int(token_id): str(token) for token_id, token in special}, **tokens}

    def _is_harmless(self, contents: str) -> bool:
        """True if contents hold no character with which a control token could be written, whatever stands around it.

        These are all its characters that are neither letters, digits nor white space.
        """
        for token in self._control_tokens.values():
            marks = {char for char in token if not char.isalnum() and not char.isspace()}
            if marks.intersection(contents) or (not marks and token.lower() in contents.lower()):
                return False
        return True

    def _content_ids(self, text: str) -> list[int]:
        return self._ids(text, [(0, len(text))])

    def _ids(self, text: str, contents: Sequence[tuple[int, int]]) -> list[int]:
        return [token for _, ids in self._pieces(text, contents) for token in ids]

    def _pieces(self, text: str, contents: Sequence[tuple[int, int]]) -> Iterator[tuple[str, list[int]]]:
        """Parts of a text with their token ids; one part unless a content holds the text of a control token."""
        waiting = [(0, len(text))]
        while waiting:
            start, end = waiting.pop()
            batch = self.tokenizer(text[start:end], add_special_tokens=False)
            ids: list[int] = batch["input_ids"]
            cuts: set[int] = set()
            for position, token in enumerate(ids):
                if token in self._control_tokens:
                    first, last = batch.token_to_chars(position) or (0, 0)
                    cuts |= self._cuts(text, token, start + first, start + last, contents)
            if not cuts:
                yield text[start:end], ids
                continue
            bounds = [start, *sorted(cuts), end]
            waiting += reversed(list(itertools.pairwise(bounds)))

    def _cuts(self, text: str, token: int, start: int, end: int, contents: Sequence[tuple[int, int]]) -> set[int]:
        """Where to cut a text so that content does not produce this token; empty if it is the template's.

        A token that template and content form together is cut where they meet.
        """
        covered = text[start:end]
        literal = self._control_tokens[token]
        if token == self.tokenizer.unk_token_id and covered.strip() != literal.strip():
            return set()  # a character outside the vocabulary
        edges = _overlap(start, end, contents)
        if edges is None:
            return set()
        if edges:
            return edges
        start += len(covered) - len(covered.lstrip())
        end -= len(covered) - len(covered.rstrip())
        if end - start < 2:
            raise RenderError(
                f"the text holds {covered!r}, which this tokenizer reads as a control token",
                fix="Remove the character, or use another base model.",
            )
        return {start + 1}


def _merge_system(chat: Sequence[Message]) -> list[Message]:
    """System messages put in front of the next user turn, for templates without a system role."""
    merged: list[Message] = []
    pending: list[str] = []
    for message in chat:
        if message["role"] == "system":
            pending.append(message["content"])
        elif message["role"] == "user" and pending:
            merged.append({**message, "content": "\n\n".join([*pending, message["content"]])})
            pending = []
        else:
            merged.append(message)
    return [*merged, {"role": "user", "content": "\n\n".join(pending)}] if pending else merged


def _with_core(message: Message, change: Callable[[str], str]) -> Message:
    """A message whose content is changed inside of its surrounding white space; unchanged if it is blank."""
    content = message["content"]
    core = content.strip()
    if not core:
        return message
    start = len(content) - len(content.lstrip())
    return {**message, "content": content[:start] + change(core) + content[start + len(core) :]}


def _unused(text: str) -> Iterator[str]:
    return (chr(code) for first, last in _PRIVATE for code in range(first, last + 1) if chr(code) not in text)


def _runs(text: str, chars: set[str]) -> Iterator[tuple[int, int]]:
    """Spans [start, end) of the runs of the given private characters."""
    for private in _PRIVATE_RUN.finditer(text):
        if chars.issuperset(private.group()):
            yield private.span()
            continue
        start = private.start()
        for same, group in itertools.groupby(private.group(), chars.__contains__):
            length = sum(1 for _ in group)
            if same:
                yield start, start + length
            start += length


def _overlap(start: int, end: int, spans: Sequence[tuple[int, int]]) -> set[int] | None:
    """The ends of spans strictly inside [start, end); None if no span overlaps it."""
    at = max(bisect_right(spans, (start, start)) - 1, 0)
    edges: set[int] = set()
    overlaps = False
    for first, last in spans[at:]:
        if first >= end:
            break
        if last > start:
            overlaps = True
            edges |= {edge for edge in (first, last) if start < edge < end}
    return edges if overlaps else None


@cache
def _chat_template(source: str) -> Template:
    """A chat template with what transformers offers to it, except for the clock and random choices.

    It is compiled here, so that the same template and options give the same text for ever.

    Raises:
        RenderError: if it is not a Jinja template.
    """
    from jinja2 import Environment, TemplateError, TemplateSyntaxError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}` marks the assistant's text for masks of the loss; the text itself is unchanged."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class PlainNamespace(Namespace):
        """A namespace without underscore attributes, through which a template could leave the sandbox."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise TemplateError(f"a template must not set {name}")
            super().__setitem__(name, value)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)

    environment: Environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    for clock_or_chance in ("random", "shuffle"):
        environment.filters.pop(clock_or_chance, None)
    environment.globals.pop("lipsum", None)
    environment.globals |= {"raise_exception": raise_exception, "namespace": PlainNamespace}
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise RenderError(f"the chat template is not a Jinja template ({error})") from None


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
