"""Chunked prefill (arXiv:2308.16369): long prompts are computed in chunks, with decode steps of other rows in between.

A prompt is computed into a KV cache of its own. Its last chunk is computed as short prompts are, in the batch that
generates or scores: the columns before are pasted there, like those of a cached prefix.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial

from searchlora.inference.batched.kv_cache import KVCache
from searchlora.inference.batched.prefill import ComputedPrefix, Prefiller, Prompt
from searchlora.inference.scheduling.requests import AnyModelRequest


@dataclass
class _Progress:
    """What is computed of a long prompt."""

    request: AnyModelRequest
    cache: KVCache
    start: int  # number of tokens in the cache
    computed: int  # number of tokens that were computed; the others came from the prefix cache
    shared: list[int]


class ChunkedPrefill:
    """Long prompts that are being computed. Clients take turns chunk by chunk; prompts of one client do not.

    Chunks end at multiples of `Prefiller.chunk` tokens, so that they depend on the prompt only. No pass needs a mask of
    more than a chunk times the length of the prompt.
    """

    def __init__(self, prefiller: Prefiller) -> None:
        self._prefiller = prefiller
        self._queues: OrderedDict[Hashable, deque[Prompt]] = OrderedDict()  # the client whose turn it is first
        self._progress: dict[Prompt, _Progress] = {}
        self.current: Prompt | None = None

    @property
    def requests(self) -> dict[Prompt, AnyModelRequest]:
        return {prompt: progress.request for prompt, progress in list(self._progress.items())}

    def add(self, prompts: Mapping[Prompt, AnyModelRequest]) -> None:
        """Add long prompts. The prefixes that they share with others are cached as soon as one has computed them."""
        prefixes, chunk = self._prefiller.prefixes, self._prefiller.chunk
        for adapter in dict.fromkeys(prompt.adapter for prompt in prompts):
            of_adapter = [prompt for prompt in prompts if prompt.adapter == adapter]
            rounds = prefixes.to_compute(adapter, [prompt.ids for prompt in of_adapter])
            shared = [prefix for of_round in rounds for prefix in of_round]
            for prompt in of_adapter:
                last = (len(prompt.ids) - 1) // chunk * chunk  # where the last chunk begins
                lengths = {min(len(prefix), last) for prefix in shared if prompt.ids[: len(prefix)] == prefix}
                request, cache = prompts[prompt], self._prefiller.forward.new_cache()
                cache.reserve(1, last, last)
                self._progress[prompt] = _Progress(request, cache, 0, 0, sorted(lengths))
                self._queues.setdefault(request.client, deque()).append(prompt)

    def take_computed(self, fits: Callable[[AnyModelRequest], bool], max_tokens: int) -> dict[Prompt, AnyModelRequest]:
        """Remove and return prompts of which only the last chunk is left, with their requests, as many as `fits`
        accepts and as have `max_tokens` left together; one prompt may have more.

        After an error nothing is removed, and `current` is the prompt that caused it. Prompts before it are returned,
        and the error comes with the next call.
        """
        taken: list[Prompt] = []
        tokens = 0
        for queue in self._queues.values():
            for prompt in queue:
                try:
                    left = len(prompt.ids) - self._start(prompt)
                    if left > self._prefiller.chunk or (taken and tokens + left > max_tokens):
                        break
                    progress = self._progress[prompt]
                    if not fits(progress.request):
                        break
                    if progress.start:
                        columns = progress.cache.copy_columns(0, slice(progress.start))
                        prompt.prefix = ComputedPrefix(columns, progress.computed)
                except Exception:
                    if not taken:
                        raise
                    return {prompt: self.remove(prompt) for prompt in taken}
                tokens += left
                taken.append(prompt)
        return {prompt: self.remove(prompt) for prompt in taken}

    def compute_chunk(self) -> None:
        """Compute the next chunk of the prompt whose turn it is, if any; its client goes to the end of the rotation.

        Raises `NonFinitePrompts` if its hidden states are not finite. After an error, `current` is the prompt.
        """
        for client, queue in self._queues.items():
            if len(queue[0].ids) - self._start(queue[0]) > self._prefiller.chunk:
                self._queues.move_to_end(client)
                self._compute_chunk(queue[0])
                return

    def _compute_chunk(self, prompt: Prompt) -> None:
        progress, prefiller = self._progress[prompt], self._prefiller
        end = (progress.start // prefiller.chunk + 1) * prefiller.chunk
        part = Prompt(prompt.ids[:end], prompt.adapter, prompt.slot)
        prefiller.forward_pass([part], [progress.start], progress.cache, 0)
        progress.computed += end - progress.start
        progress.start = end
        while progress.shared and progress.shared[0] <= end:
            prefix = prompt.ids[: progress.shared.pop(0)]
            prefiller.prefixes.add_copy(prompt.adapter, prefix, partial(progress.cache.copy_columns, 0))

    def remove(self, prompt: Prompt) -> AnyModelRequest:
        request = self._progress.pop(prompt).request
        queue = self._queues[request.client]
        queue.remove(prompt)
        if not queue:
            del self._queues[request.client]
        return request

    def clear(self) -> None:
        self._queues.clear()
        self._progress.clear()
        self.current = None

    def _start(self, prompt: Prompt) -> int:
        """Number of tokens in the cache of a prompt, after a longer prefix has been taken from the prefix cache."""
        self.current = prompt
        progress = self._progress[prompt]
        length, columns = self._prefiller.prefixes.longest_match(prompt.adapter, prompt.ids)
        if columns is not None and length > progress.start:
            progress.cache.paste_columns(0, columns)
            progress.start = length
        return progress.start
