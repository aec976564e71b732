"""The text of an answer as it grows, carried from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import suppress

from searchlora.inference.engine import Completion


class Pieces:
    """Made in the event loop; `told` is for `LocalEngine.submit`.

    Only the newest text is held, however far whoever reads the pieces is behind.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._text = ""
        self._news = asyncio.Event()

    def told(self, text: str) -> None:
        """Take the text so far."""
        self._text = text
        self._wake()

    async def of(self, future: Future[Completion]) -> AsyncIterator[str]:
        """What came new since the last piece, perhaps nothing; all pieces together are the completion's text.

        Whoever stops asking for more takes the request back. Raises what the future raises.
        """
        future.add_done_callback(lambda _: self._wake())
        sent = ""
        try:
            done = False
            while not done:
                await self._news.wait()
                self._news.clear()
                done = future.done()
                whole = self._text.rstrip("\ufffd")  # half a character becomes a whole one with the next token
                if whole.startswith(sent) and not (done and whole == sent):
                    yield whole[len(sent) :]
                    sent = whole
            yield future.result().text[len(sent) :]
        finally:
            future.cancel()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed; the engine's thread must go on
            self._loop.call_soon_threadsafe(self._news.set)
