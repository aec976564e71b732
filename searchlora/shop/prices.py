"""What a shopper wants to spend, in words and as bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from searchlora.shop.tables import load_table
from searchlora.shop.wording import said


@dataclass(frozen=True)
class PriceBound:
    """A price bound.

    Args:
        words: As the shopper says it.
        marked: It names a currency, so that it can stand before the product too.
        lowest, highest: In the shop's currency; None where there is no such bound.
    """

    words: str
    marked: bool
    lowest: float | None
    highest: float | None

    def said_with(self, query: str, rng: Random) -> str:
        """The query with the bound behind it, or now and then before it."""
        return f"{self.words} {query}" if self.marked and rng.random() < 0.15 else f"{query} {self.words}"


def price_bound(category: str, split: str, rng: Random) -> PriceBound:
    """A bound that makes sense in a category: an upper one mostly, else a lower one or both."""
    table = load_table("intents/prices")
    kind = rng.choices(("most", "least", "between"), weights=(65, 12, 23))[0]
    amounts = sorted(_distinct_amounts(*table["ranges"][category], count=1 + (kind == "between"), rng=rng))
    template = rng.choice(said(table[kind]["words"], table[kind]["unseen"], split=split))
    marked = rng.random() < 0.6
    form = rng.choice(said(table["amounts"]["marked"], table["amounts"]["unseen"], split=split))
    if not marked or template == "{}-{}":
        form = table["amounts"]["bare"]
    spelled = table["spelled"] if form.startswith("{}") and template != "{}-{}" else {}
    words = template.format(*(form.format(_in_words(amount, spelled, rng)) for amount in amounts))
    lowest = amounts[0] if kind != "most" else None
    highest = amounts[-1] if kind != "least" else None
    return PriceBound(words, form != table["amounts"]["bare"], lowest, highest)


def _distinct_amounts(low: int, high: int, *, count: int, rng: Random) -> list[float]:
    """Amounts as people say them: the larger, the rounder; now and then one with 99 pence."""
    steps = [amount for amount in range(low, high + 1, 5) if amount % _roundness(amount) == 0]
    amounts: list[float] = list(rng.sample(steps, count))
    return [amount - 0.01 if rng.random() < 0.05 else amount for amount in amounts]


def _roundness(amount: int) -> int:
    return 5 if amount < 60 else 10 if amount < 200 else 50


def _in_words(amount: float, spelled: Mapping[int, str], rng: Random) -> str:
    if amount in spelled and rng.random() < 0.1:
        return spelled[int(amount)]
    return f"{amount:.2f}" if amount % 1 else str(int(amount))
