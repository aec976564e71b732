"""Text of an answer that grows token by token, up to a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: What a decoder writes for bytes that are no character, or not yet one.
_REPLACEMENT = "\ufffd"


class AnswerText:
    """Incremental decoding, with a search for stop strings that may span tokens.

    A few tokens are decoded at each step, after the last complete piece: some decoders treat the first token of a text
    differently.

    Examples:
        >>> text = AnswerText(lambda ids: "".join(map(chr, ids)), ("END",))
        >>> for token in map(ord, "a tent EN"):
        ...     _ = text.add(token)
        >>> text.visible
        'a tent '
        >>> text.add(ord("D")), text.complete
        (True, 'a tent ')
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self.complete = ""
        self.stopped = False
        self._decode, self._stop = decode, tuple(stop)
        self._longest = max(map(len, stop), default=0)
        self._starts: list[int] = []  # length of the text before each token
        self._ids: list[int] = []  # the last complete piece and what follows it
        self._context = 0  # number of tokens of the piece
        self._context_text = ""
        self._tail = ""  # an incomplete character

    def add(self, token: int) -> bool:
        """Append a token of the answer; whether the text has ended at a stop string."""
        self._starts.append(len(self.complete))
        self._ids.append(token)
        piece = self._decode(self._ids)[len(self._context_text) :]
        if not piece or piece.endswith(_REPLACEMENT):
            self._tail = piece
            return False
        self._tail = ""
        self._ids = self._ids[self._context :]
        self._context, self._context_text = len(self._ids), self._decode(self._ids)
        before = len(self.complete)
        self.complete += piece
        first = max(0, before - self._longest + 1)
        places = [place for stop in self._stop if (place := self.complete.find(stop, first)) >= 0]
        if places:
            self.complete, self.stopped = self.complete[: min(places)], True
        return self.stopped

    @property
    def whole(self) -> str:
        """The text of an answer that has ended, an incomplete character at its end included."""
        return self.complete if self.stopped else self.complete + self._tail

    @property
    def visible(self) -> str:
        """The text so far that later tokens cannot take back: without the beginning of a possible stop string."""
        text = self.complete
        for length in range(0 if self.stopped else min(len(text), self._longest - 1), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return text[:-length]
        return text

    def tokens_of(self, text: str) -> int:
        """Number of tokens that a beginning of the text consists of, the one included in which it ends."""
        count = len(self._starts)
        while count and self._starts[count - 1] >= len(text):
            count -= 1
        return count
