"""The log of kept batches: what is not one is begun again. Killed runs are continued in `test_run.py`."""

from __future__ import annotations

import json

import pytest

from searchlora.experiments.kept_batches import KeptBatches

KEY = {"queries": "q"}


@pytest.mark.parametrize(
    "line",
    [
        {"done": 2, "sizes": [-1]},
        {"done": -2, "sizes": [2]},
        {"done": "2", "sizes": [2]},
        {"done": 2, "sizes": ["2"]},
        {"done": 2, "sizes": [1.5]},
        {"done": True, "sizes": [2]},
        {"done": 2, "sizes": 2},
        {"done": 2, "sizes": [9]},
        {"done": 2},
        [2],
        None,
    ],
)
def test_a_log_that_somebody_changed_is_begun_again(tmp_path, line):
    kept = KeptBatches(tmp_path, 1, KEY, tmp_path / "run.trec")
    kept.append(2, ["ab"])
    assert KeptBatches(tmp_path, 1, KEY, tmp_path / "run.trec").done == 2
    (tmp_path / "batches.jsonl").write_text(f"{json.dumps(KEY)}\n{json.dumps(line)}\n")
    again = KeptBatches(tmp_path, 1, KEY, tmp_path / "run.trec")
    assert again.done == 0 and again.files[0].read_text() == ""
