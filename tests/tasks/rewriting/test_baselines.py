"""Baselines of the rewriting task."""

from __future__ import annotations

import json

import pytest

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


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Where was Bobby Darin born?", "Bobby Darin"),
        ("what was Ken Norton's career?", "Ken Norton"),
        ("Why Zappa? He left in 1969. Ask Ian Underwood, then Don Preston.", "Zappa"),
        ("Yes. Because he moved to Saint-Denis, Québec.", "Saint-Denis"),
        ("Österreich, then Émilie du Châtelet", "Émilie"),
        ("Yes, he did. no more", ""),
        ("", ""),
    ],
)
def test_the_first_name_of_a_conversation_is_written_twice(text, name):
    record = {"query": "why?", "history": turns(text, "On Monday")}
    (found,) = baseline_outputs([record])["query + first name twice"]
    assert found == f"why? {name or 'Monday'} {name or 'Monday'}"


def test_a_conversation_without_names_has_no_rule_of_names():
    assert "query + first name twice" not in baseline_outputs([RECORD])


def test_the_first_title_that_the_conversation_found_is_written_twice():
    records = [{**RECORD, "titles": ["Ada Lovelace", "Tents"]}, {"query": "tent", "rewrite": "tent"}]
    found = baseline_outputs(records)["query + found title twice"]
    assert found == [f"{RECORD['query']} Ada Lovelace Ada Lovelace", "tent"]
    assert "query + found title twice" not in baseline_outputs([RECORD])


def test_a_record_without_history_is_its_query():
    found = baseline_outputs([RECORD, {"query": "tent", "rewrite": "tent"}])
    assert [outputs[1] for outputs in found.values()] == ["tent"] * 5


def test_dictionary_baseline_uses_the_vocabulary_of_the_dataset(tmp_path):
    (tmp_path / "vocabulary.json").write_text(json.dumps({"kicks": "running shoes"}), encoding="utf-8")
    found = baseline_outputs([{"query": "red kicks", "rewrite": "red running shoes"}], tmp_path)
    assert found["dictionary"] == ["red running shoes"]
    assert "first turn + query" not in found
