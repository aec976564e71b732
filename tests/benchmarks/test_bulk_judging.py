"""Bulk judging by the command line: shards with kills give the bytes of one process, in bounded memory."""

from __future__ import annotations

import json

import pytest

from benchmarks.bulk_judging.__main__ import measure
from tests.child_scripts import COMMAND, Script


@pytest.mark.journey
def test_killed_shards_give_the_bytes_of_one_process_in_less_than_a_gigabyte(tmp_path):
    rows, more = measure(tmp_path, 2_000, 5, lambda *words: Script(COMMAND, *words), ray=False)
    figures = {(row["system"], row["measure"]): row["value"] for row in rows}
    assert more["equal bytes"] == {"alone": True, "four shards, killed": True}
    assert more["lines"] == 2_000
    assert more["kills"]["four shards, killed"] >= 3
    assert max(value for (_, measured), value in figures.items() if measured == "peak memory, MB") < 1_000
    grown = figures["alone", "peak memory, MB"] - figures["a tenth alone", "peak memory, MB"]
    assert grown < 60  # 1,800 more pairs; only the parts of 512 are in memory
    assert json.loads(json.dumps(more)) == more
