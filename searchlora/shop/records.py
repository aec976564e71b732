"""How many records of which kind a shop has, and their making."""

from __future__ import annotations

from random import Random

from searchlora.errors import DataError
from searchlora.shop.catalogue import Catalogue
from searchlora.shop.conversations import ConversationWriter
from searchlora.shop.dealing import SPLITS, portions
from searchlora.shop.needs import Draft, Sampler
from searchlora.shop.queries import QueryWriter
from searchlora.shop.tables import Tables

#: Kind -> share of the records, in per cent. In test, half of the share of "slang" goes to "unseen-word".
SHARES = {"plain": 15, "slang": 22, "misspelling": 20, "unit": 8, "ambiguous": 11, "code": 2, "conversation": 22}
TEST_SHARES = {**SHARES, "slang": 11, "unseen-word": 11}

#: Draws without a new record after which a catalogue is taken to have no more to give.
_PATIENCE = 20_000


def make_drafts(catalogue: Catalogue, tables: Tables, *, total: int, seed: int) -> list[Draft]:
    """`total` drafts, train first, then validation, then test, mixed within each.

    Raises:
        DataError: where the catalogue is too small for so many different queries.
    """
    sampler = Sampler(catalogue, tables, seed=seed)
    queries, conversations = QueryWriter(sampler, tables), ConversationWriter(sampler, tables)
    seen: set[tuple[str, ...]] = set()
    drafts: list[Draft] = []
    for split, count in portions(total, SPLITS).items():
        rng = Random(f"{seed} {split}")
        mixed: list[Draft] = []
        for kind, quota in portions(count, TEST_SHARES if split == "test" else SHARES).items():
            writer = conversations if kind == "conversation" else queries
            mixed += _distinct(writer, kind, split, quota, rng, seen)
        rng.shuffle(mixed)
        drafts += mixed
    return drafts


def _distinct(
    writer: QueryWriter | ConversationWriter, kind: str, split: str, quota: int, rng: Random, seen: set[tuple[str, ...]]
) -> list[Draft]:
    """`quota` drafts, none of which shows a rewriter the same words as another, or as one in `seen`."""
    found: list[Draft] = []
    idle = 0
    while len(found) < quota:
        fresh = {draft.shown: draft for draft in writer.write(kind, split, rng) if draft.shown not in seen}
        new = list(fresh.values())[: quota - len(found)]
        idle = 0 if new else idle + 1
        if idle > _PATIENCE:
            raise DataError(
                f"so small a shop has only {len(found)} different queries of kind '{kind}' in {split}",
                fix="Ask for fewer queries or more products.",
            )
        seen.update(draft.shown for draft in new)
        found += new
    return found
