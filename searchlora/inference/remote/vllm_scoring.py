"""Scores of choices by vLLM: few prompts for a tree of tokens.

vLLM returns the log-probabilities of given tokens after a prompt (`logprob_token_ids`), before any mask. A prompt
therefore gives all first tokens of the choices at once. It also generates: greedily, but only tokens of the tree
(`allowed_token_ids`), so the same prompt follows the best choice to its end. Further prompts are sent for choices that
can still matter, up to the token where they leave what is known; vLLM's prefix cache holds what they share.

`prompt_logprobs` would return a choice's score at once. With LoRA they crash vLLM's CPU engine, and elsewhere they
ignore an adapter's output layer (vLLM's issues 29955 and 51594).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from searchlora.errors import UnusableAnswer
from searchlora.inference.batched.choice_tree import ChoiceTree, PrunedSearch, build_tree

#: Maximum number of prompts, and of tokens with log-probabilities (vLLM refuses more), in one call.
MAX_PROMPTS, MAX_TOKENS = 16, 128

#: Maximum number of tokens that a prompt generates to follow a choice.
_MAX_STEPS = 8


@dataclass(frozen=True)
class TreeCall:
    """Prompts of one call, and what they are asked."""

    prefixes: Sequence[tuple[int, ...]]  # choice tokens behind the prompt of the request, one sequence for each prompt
    tokens: Sequence[int]  # the tokens whose log-probabilities are returned at each step, at most 128
    steps: int  # number of tokens to generate


#: What a prompt returns at each step: the chosen token, and token -> log-probability.
Steps: TypeAlias = Sequence[tuple[int, Mapping[int, float]]]


def score_tree(
    ask: Callable[[TreeCall], Sequence[Steps]], choices: Sequence[tuple[int, ...]], prune_margin: float | None
) -> tuple[tuple[float, ...], int]:
    """The log-probability of each choice, exact or an upper bound, and the count of known steps."""
    written = [ids for ids in choices if ids]
    if not written:
        return (0.0,) * len(choices), 0
    tree = _tree(tuple(written))
    search = PrunedSearch(tree, prune_margin)
    nodes = [-1]
    while nodes:
        for asked, call in _calls(tree, nodes):
            for node, steps in zip(asked, ask(call), strict=True):
                _record(search, node, steps, set(call.tokens))
        search.mark_computed(np.array([node for node in nodes if node >= 0], dtype=np.int64))
        nodes = search.next_heads()
    scores = iter(search.scores().tolist())
    return tuple(next(scores) if ids else 0.0 for ids in choices), search.known_steps


@lru_cache(maxsize=32)
def _tree(choices: tuple[tuple[int, ...], ...]) -> ChoiceTree:
    return build_tree(choices)


def _record(search: PrunedSearch, node: int, steps: Steps, asked: set[int]) -> None:
    """Take over the log-probabilities after a node, and after the nodes that the chosen tokens lead to."""
    tree = search.tree
    for number, (chosen, likely) in enumerate(steps):
        after = tree.steps_after(node)
        known = [step for step in after.tolist() if int(tree.targets[step]) in asked]
        values = np.array([likely[int(tree.targets[step])] for step in known])
        if not np.isfinite(values).all():
            raise UnusableAnswer(
                "the server's log-probabilities are not all finite", fix="Check the adapter on the server."
            )
        search.record(np.array(known, dtype=np.int64), values)
        if number and len(known) == len(after):
            search.mark_computed(np.array([node]))
        if len(known) < len(after) or (child := tree.child(node, chosen)) is None:
            return
        node = child


def _calls(tree: ChoiceTree, nodes: Sequence[int]) -> Iterator[tuple[list[int], TreeCall]]:
    """The calls that ask for all tokens after these nodes, each with the nodes of its prompts."""
    part: list[int] = []
    wanted: set[int] = set()
    for node in nodes:
        targets = sorted(set(tree.targets[tree.steps_after(node)].tolist()))
        for start in range(0, len(targets), MAX_TOKENS):
            some = targets[start : start + MAX_TOKENS]
            if part and (len(part) == MAX_PROMPTS or len(wanted.union(some)) > MAX_TOKENS):
                yield part, _call(tree, part, wanted)
                part, wanted = [], set()
            part.append(node)
            wanted.update(some)
    if part:
        yield part, _call(tree, part, wanted)


def _call(tree: ChoiceTree, nodes: Sequence[int], wanted: set[int]) -> TreeCall:
    """A call for the tokens after the nodes, and as many levels below as there is room for their tokens."""
    steps = 1
    whole = all(wanted.issuperset(tree.targets[tree.steps_after(node)].tolist()) for node in nodes)
    level = [child for node in nodes for child in tree.children_of(node)] if whole else []
    while level and steps < _MAX_STEPS:
        below = {int(target) for node in level for target in tree.targets[tree.steps_after(node)]}
        if len(wanted | below) > MAX_TOKENS:
            break
        wanted, steps = wanted | below, steps + 1
        level = [child for node in level for child in tree.children_of(node)]
    return TreeCall([tree.path(node) for node in nodes], sorted(wanted), steps)
