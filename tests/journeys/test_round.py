"""Once round in production, on MSRD with simulated users: trained, promoted, recorded, trained again, rolled out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from searchlora.adapters.ancestry import ancestors
from searchlora.adapters.store import Store
from tests.docs.blocks import ROOT
from tests.journeys.walk import Walk, skip_without

PAGE = ROOT / "docs" / "tutorials" / "round.md"

#: What the users of one run do decides about them.
CHANCE = ("events interleaving", "events failures")


@pytest.mark.slow
@pytest.mark.journey
def test_the_page_on_msrd(real_data: Path, tmp_path: Path) -> None:
    """Half an hour, most of it two trainings and what 6,000 users search for."""
    skip_without("msrd", real_data)
    (tmp_path / "msrd").symlink_to(real_data / "msrd")
    walk = Walk(tmp_path, not_compared=CHANCE)
    walk.page(PAGE)

    store = Store(tmp_path / "store")
    history = store.history("movie-rewriter")
    assert (history[-1].rollback, store.aliases("movie-rewriter")) == (True, {"production": 1, "candidate": 2})
    card = json.loads((tmp_path / "data" / "next" / "dataset.json").read_text(encoding="utf-8"))
    assert card["source"]["origin"]["versions"].keys() == {"movie-rewriter@1", "bm25"}
    assert card["rows"]["train"] > 100
    assert "movie-rewriter@1" in ancestors(store, "movie-rewriter@2")
    assert "median milliseconds" in walk.output("events shadow")
    assert "Share of before" in walk.output("events interleaving")
