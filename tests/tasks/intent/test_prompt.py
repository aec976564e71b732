"""The exact prompt of the intent task."""

from __future__ import annotations

import pytest

from searchlora.adapters.golden import golden_renders
from searchlora.errors import UsageError
from searchlora.models.load import load_tokenizer
from searchlora.prompts import Renderer, messages
from searchlora.tasks.intent import task

RECORD = {"id": "1", "group": "1", "query": " lost my\ncard "}
MANY = {"kind": "label", "labels": [f"label_{number:02}" for number in range(21)], "out_of_scope": None}
SCHEMA = {
    "type": "object",
    "properties": {"need": {"enum": ["buy", "ask"]}, "brand": {"type": "string"}, "any": True},
}


@pytest.mark.parametrize(
    ("settings", "system"),
    [
        (MANY, "Name the intent."),
        ({"kind": "label", "labels": ["a", "b c"]}, "Name the intent: a, b c."),
        ({"kind": "labels", "labels": ["a", "b"]}, "Name every intent that holds as a JSON list: a, b."),
        ({"kind": "object", "schema": SCHEMA}, "Write what the query asks for as JSON: need (buy, ask), brand, any."),
    ],
)
def test_rendered_prompt(settings, system):
    assert messages(task.bound(settings), RECORD) == (
        {"role": "system", "content": system},
        {"role": "user", "content": "lost my card"},
    )


def test_the_examples_render_under_any_settings(tiny_base):
    for settings in (MANY, {"kind": "object", "schema": SCHEMA}, None):
        renders = golden_renders(task.bound(settings), Renderer(load_tokenizer(tiny_base)))
        assert len(renders) == len(task.examples) > 2


def test_a_task_without_settings_is_an_error_that_names_data_build():
    with pytest.raises(UsageError, match="Take them from a dataset or an adapter"):
        task.output(RECORD)
    with pytest.raises(UsageError, match="no answer to train on"):
        task.target(RECORD)
