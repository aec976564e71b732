"""Unwritable targets are refused before any input is read."""

from __future__ import annotations

import pytest

COMMANDS = {
    "judge-card --out": ("judge-card", "--human", "none", "--judge", "a=none", "--out"),
    "experiment --out": ("experiment", "none.yaml", "--out"),
    "experiment --junit": ("experiment", "none.yaml", "--out", "out", "--junit"),
    "experiment --summary": ("experiment", "none.yaml", "--out", "out", "--summary"),
    "promote --out": ("promote", "a@1", "--to", "b", "--policy", "none", "--data", "none", "--out"),
    "promote --junit": ("promote", "a@1", "--to", "b", "--policy", "none", "--data", "none", "--junit"),
    "promote --summary": ("promote", "a@1", "--to", "b", "--policy", "none", "--data", "none", "--summary"),
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_an_unwritable_target_is_reported_before_any_work(refused, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    reported = refused(*arguments, "taken/below")
    assert "taken/below" in reported and "cannot be written" in reported
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
