"""How much of a conversation the model is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: The opening turn names the subject, the latest turns hold what "it" and "they" mean.
LATEST_TURNS = 4
WORDS_OF_AN_ANSWER = 30


def shortened(history: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The opening turn, "…" for what is left out, and the latest turns; answers cut to their first words."""
    if len(history) > LATEST_TURNS + 2:
        history = [history[0], {"role": "assistant", "text": "…"}, *history[-LATEST_TURNS:]]
    return [{"role": turn["role"], "text": _cut(turn)} for turn in history]


def _cut(turn: Mapping[str, str]) -> str:
    words = turn["text"].split()
    if turn["role"] == "user" or len(words) <= WORDS_OF_AN_ANSWER:
        return " ".join(words)
    return " ".join(words[:WORDS_OF_AN_ANSWER]) + " …"
