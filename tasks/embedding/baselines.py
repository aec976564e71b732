"""What an encoder must beat without any model: for classes, the commonest one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from searchlora.records import Record


def baseline_outputs(records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[str]]:
    """`commonest class` of the training split, where records have labels. (For retrieval the verb adds BM25.)"""
    if not records or "label" not in records[0]:
        return {}
    with (dataset / "train.jsonl").open(encoding="utf-8") as lines:
        counts = Counter(json.loads(line)["label"] for line in lines)
    commonest = min(counts, key=lambda label: (-counts[label], label))
    return {"commonest class": [commonest] * len(records)}
