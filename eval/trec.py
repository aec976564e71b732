"""The TREC shapes: qrels and runs as plain mappings, read from and written to their text files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

#: topic id -> document id -> grade
Qrels: TypeAlias = Mapping[str, Mapping[str, int]]

#: topic id -> document id -> score; a topic that found nothing has an empty mapping
Run: TypeAlias = Mapping[str, Mapping[str, float]]
