"""Growing answers, passed from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from searchlora.inference.engine import Completion, TokenLogprob


@dataclass(frozen=True)
class Delta:
    """What was added to an answer."""

    answer: int
    text: str  # the added text, possibly empty
    logprobs: tuple[TokenLogprob, ...] | None = None  # log-probabilities of the added tokens, if they were asked for
    completion: Completion | None = None


class AnswerStream:
    """Growing answers, passed from the engine's thread to the event loop. Create it in the event loop.

    Only the newest text of each answer is held, however slowly the client reads.
    """

    def __init__(self, answers: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._newest: list[tuple[str, tuple[TokenLogprob, ...]]] = [("", ())] * answers
        self._changed = asyncio.Event()

    def on_token(self, first: int, answer: int, text: str, logprobs: tuple[TokenLogprob, ...] | None) -> None:
        """Receive an answer so far; with `first` bound, the callback for `LocalEngine.submit_answers`."""
        self._newest[first + answer] = (text, logprobs or ())
        self._wake()

    async def deltas(self, futures: Sequence[Future[Completion]]) -> AsyncIterator[Delta]:
        """What is added to the answers, in the order in which it is; the last delta of each holds its completion.

        Closing the iterator cancels all requests. Raises what a future raises, after the text before it.
        """
        for future in futures:
            future.add_done_callback(lambda _: self._wake())
        sent, sent_logprobs = [""] * len(futures), [0] * len(futures)
        unfinished = list(range(len(futures)))
        try:
            while unfinished:
                await self._changed.wait()
                self._changed.clear()
                for answer in list(unfinished):
                    future = futures[answer]
                    done = future.done()  # before the text is read, so that the text of a failed answer is the last
                    failed = done and (future.cancelled() or future.exception() is not None)
                    completion = future.result() if done and not failed else None
                    text, logprobs = self._newest[answer]
                    if completion is not None:
                        text, logprobs = completion.text, completion.logprobs or ()
                    added, added_logprobs = text[len(sent[answer]) :], logprobs[sent_logprobs[answer] :]
                    if added or completion is not None:
                        yield Delta(answer, added, added_logprobs or None, completion)
                        sent[answer], sent_logprobs[answer] = text, len(logprobs)
                    if done:
                        future.result()
                        unfinished.remove(answer)
        finally:
            for future in futures:
                future.cancel()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed; the engine's thread continues
            self._loop.call_soon_threadsafe(self._changed.set)
