"""Ids of pairs that have none of their own: hashes that whoever writes judgments can compute beforehand.

The id of a query is `pair_id(query)`: 16 hexadecimal digits of BLAKE2b (8 bytes) over the normalised query in UTF-8
(`normalised` of `searchlora.eval.text_identity`). With a rewrite, the hash is over normalised query, line feed,
normalised rewrite.
"""

from __future__ import annotations

from hashlib import blake2b

from searchlora.eval.text_identity import fingerprint, normalised


def pair_id(query: str, rewrite: str | None = None) -> str:
    """The id of a query, or of a query with one of its rewrites."""
    text = normalised(query)
    return _hash(text if rewrite is None else f"{text}\n{normalised(rewrite)}")


class PairIds:
    """Gives every row of a source an id of its own; two integers per row stay in memory."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def of(self, query: str, rewrite: str) -> str:
        """`pair_id(query)` for the first row with this query, `pair_id(query, rewrite)` for a further rewrite of it.

        A row that is there again gets a number hashed with it, from 2.
        """
        if self._first(pair_id(query)):
            return pair_id(query)
        both = pair_id(query, rewrite)
        if self._first(both):
            return both
        while not self._first(numbered := _hash(f"{both}\n{self._seen[fingerprint(both)]}")):
            self._first(both)
        return numbered

    def _first(self, name: str) -> bool:
        key = fingerprint(name)
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key] == 1


def _hash(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
