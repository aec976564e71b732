"""The batches of a run: a log that is not one is begun anew. Killed runs are continued in `test_run.py`."""

from __future__ import annotations

import json

import pytest

from searchlora.errors import DataError
from searchlora.experiments.batch_log import batch_log

KEY = {"queries": "q"}


def interrupted(target, *batches):
    with pytest.raises(KeyboardInterrupt), batch_log(target, 1, KEY) as log:
        for batch in batches:
            log.append(*batch)
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "line",
    [
        {"rows": -2, "texts": ["ab"]},
        {"rows": "2", "texts": ["ab"]},
        {"rows": True, "texts": ["ab"]},
        {"rows": 2, "texts": ["ab", "c"]},
        {"rows": 2, "texts": [1]},
        {"done": 2, "sizes": [2]},
        [2],
    ],
)
def test_a_log_that_somebody_changed_is_begun_anew(tmp_path, line):
    interrupted(tmp_path / "run.trec", (2, ["ab"]))
    with batch_log(tmp_path / "run.trec", 1, KEY) as log:
        assert (log.done, list(log.texts(0))) == (2, ["ab"])
    interrupted(tmp_path / "run.trec", (2, ["ab"]))
    (file,) = tmp_path.glob(".*/batches.jsonl")
    file.write_text(f"{json.dumps(KEY)}\n{json.dumps(line)}\n")
    with batch_log(tmp_path / "run.trec", 1, KEY) as log:
        assert (log.done, list(log.texts(0))) == (0, [])
    assert list(tmp_path.iterdir()) == []


def test_a_text_without_a_utf_8_form_is_refused_before_the_next_batch_is_computed(tmp_path):
    with pytest.raises(DataError, match="cannot be written as UTF-8"):
        interrupted(tmp_path / "run.trec", (1, ["\ud800"]))
