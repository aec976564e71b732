"""What a server lets its callers do."""

from __future__ import annotations

from dataclasses import dataclass

from searchlora.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """Who may ask, and how much.

    Attributes:
        keys: API keys, one of which every request brings but those for health; none: everybody may ask.
        names: Host names by which the server may be reached without a key, see `binding.is_own`.
        body_bytes: Of a request's body at most.
        prompt_tokens: Of a prompt at most; None: what the model's context holds.
        answer_tokens: Of an answer at most, and where the request does not say.
        per_minute: Requests of one caller in a minute that ask for something to be done (POST), which may come all at
            once; None: any number.
        seconds: After which nobody waits for an answer any more.
        waiting: Requests in the engine's queue at most.
        at_once: Requests that the server is busy with at most, those among them whose body has not come yet.

    Raises:
        UsageError: for a key that is empty or that no header can carry whole.
    """

    keys: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    body_bytes: int = 1_000_000
    prompt_tokens: int | None = None
    answer_tokens: int = 1024
    per_minute: int | None = None
    seconds: float = 120.0
    waiting: int = 1024
    at_once: int = 2048

    def __post_init__(self) -> None:
        if any(not key or key != key.strip() for key in self.keys):
            raise UsageError(
                "an API key is empty, or has blanks at an end",
                fix="Give a long random one, or none at all to let everybody ask who reaches the server.",
            )
