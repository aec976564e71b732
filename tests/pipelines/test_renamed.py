"""Pipeline files of the last release load, with a warning for each old name."""

from __future__ import annotations

import pytest

from searchlora.errors import UsageError
from searchlora.pipelines.config import parse_stages, read_pipeline
from searchlora.renamed import RenamedWarning

OLD = """
name: shop
parameters: {judge: shop-judge@1, factor: 1.2}
stages:
  - hits: {run: engine.trec, k: 50}
  - adapter: {name: shop-rewriter@3, bare: true}
  - fuse: {constant: 10, of: [{bm25: {}}, {fuse: {constant: 5, of: [{bm25: {b: 0}}]}}]}
  - match: {boost: {brand: intent.brand}, factor: $factor}
  - passages: {k: 5}
  - adapter: {name: $judge, rest: false}
"""
NEW = OLD
for old, new in {"hits:": "from_run:", "bare:": "zero_shot:", "constant:": "rrf_k:", "match:": "filter:"}.items():
    NEW = NEW.replace(old, new)
NEW = NEW.replace("rest:", "continue_after_choice:")


def test_a_pipeline_of_the_last_release_is_read_with_warnings(tmp_path):
    (tmp_path / "old.yaml").write_text(OLD)
    (tmp_path / "new.yaml").write_text(NEW)
    with pytest.warns(RenamedWarning) as warned:
        old = read_pipeline(tmp_path / "old.yaml").stages
    assert old == read_pipeline(tmp_path / "new.yaml").stages
    told = [str(warning.message) for warning in warned]
    assert len(told) == 6 and all("old.yaml, stage" in text for text in told)
    assert told[0].endswith("stage 1: 'hits' is now 'from_run'; the next release will not accept 'hits'.")


def test_an_old_key_beside_its_new_one_is_refused():
    with pytest.raises(UsageError, match="'bare' is the old name of 'zero_shot', and both are given"):
        parse_stages([{"adapter": {"name": "a", "bare": True, "zero_shot": False}}], "here")
