"""Baselines of the rewriting task."""

from __future__ import annotations

import json

from searchlora.tasks.rewriting.baselines import baseline_outputs, first_and


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "text": text} for n, text in enumerate(texts)]


RECORD = {"query": "why?", "rewrite": "why did it rain", "history": turns("rain?", "yes", "where?", "here")}


def test_baselines_of_conversations():
    found = baseline_outputs([RECORD])
    assert found["raw query"] == ["why?"]
    assert found["previous turn + query"] == ["where? here why?"]
    assert found["whole conversation"] == ["rain? yes where? here why?"]
    assert found["first turn + query"] == ["rain? why?"]
    assert found["reference rewrite"] == ["why did it rain"]
    assert "dictionary" not in found
    assert first_and(RECORD, "x") == "rain? x"


def test_a_record_without_history_is_its_query():
    found = baseline_outputs([RECORD, {"query": "tent", "rewrite": "tent"}])
    assert [outputs[1] for outputs in found.values()] == ["tent"] * 5


def test_dictionary_baseline_uses_the_vocabulary_of_the_dataset(tmp_path):
    (tmp_path / "vocabulary.json").write_text(json.dumps({"kicks": "running shoes"}), encoding="utf-8")
    found = baseline_outputs([{"query": "red kicks", "rewrite": "red running shoes"}], tmp_path)
    assert found["dictionary"] == ["red running shoes"]
    assert "first turn + query" not in found
