"""Ids of pairs: predictable and unique."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import pytest

from searchlora.data import build, load_dataset
from searchlora.data.formats.common import PairIds, pair_id
from searchlora.errors import RejectedRows


def _built(path: Path, text: str, **options: str) -> dict[str, str]:
    path.write_text(text, encoding="utf-8")
    out = path.with_suffix(".data")
    build("rewriting", path, format="pairs", out=out, options=options, split_ratios=(1.0, 0.0, 0.0))
    return {record["id"]: record["query"] for record in load_dataset(out).records("train")}


def test_an_id_is_the_documented_hash() -> None:
    assert pair_id(" Red  KICKS!") == blake2b(b"red kicks", digest_size=8).hexdigest()
    assert pair_id("kicks", "Shoes") == blake2b(b"kicks\nshoes", digest_size=8).hexdigest()


def test_rows_with_the_same_query_have_distinct_ids() -> None:
    ids = PairIds()
    given = [
        ids.assign(query, rewrite) for query, rewrite in [("a", "b"), ("A", "c"), ("a", "c"), ("a", "C"), ("b", "b")]
    ]
    assert given[:2] == [pair_id("a"), pair_id("a", "c")]
    assert given[4] == pair_id("b")
    assert len(set(given)) == 5
    again = PairIds()
    assert given[0] == again.assign("a", "b")


def test_an_id_does_not_depend_on_other_rows(tmp_path: Path) -> None:
    one = _built(tmp_path / "one.csv", "query,rewrite\nkicks,shoes\ntent,dome tent\n")
    two = _built(tmp_path / "two.csv", "query,rewrite\nsofa,couch\ntent,dome tent\nkicks,shoes\n")
    assert one == {pair_id("kicks"): "kicks", pair_id("tent"): "tent"}
    assert one.items() <= two.items()


def test_ids_of_the_source_are_used(tmp_path: Path) -> None:
    rows = "id,query,rewrite,key\n7,kicks,shoes,k1\n,tent,dome tent,k2\n"
    assert _built(tmp_path / "own.csv", rows) == {"7": "kicks", pair_id("tent"): "tent"}
    assert _built(tmp_path / "named.csv", rows, id="key") == {"k1": "kicks", "k2": "tent"}
    assert _built(tmp_path / "none.csv", rows, id="") == {pair_id("kicks"): "kicks", pair_id("tent"): "tent"}
    number = '{"id": 7, "query": "kicks", "rewrite": "shoes"}\n'
    assert _built(tmp_path / "number.jsonl", number) == {"7": "kicks"}


def test_an_id_column_given_as_option_must_be_filled_in_every_row(tmp_path: Path) -> None:
    with pytest.raises(RejectedRows, match="line 3: field 'id'"):
        _built(tmp_path / "own.csv", "key,query,rewrite\n7,kicks,shoes\n,tent,dome tent\n", id="key")
