"""Academic sets as formats of the judgment task."""

from __future__ import annotations

from benchmarks.readers.trecdl import read_trecdl
from searchlora.data.formats.common import mapped
from searchlora.records import Format
from searchlora.tasks.judgment.dataset import UNJUDGED, by_guideline, record_of, unjudged

FORMATS = (
    by_guideline(
        Format(
            name="trecdl",
            description="TREC Deep Learning: a folder with the retrieved passages as JSON, and the qrels",
            read=mapped(lambda source, options: read_trecdl(source, unjudged=unjudged(options)), record_of),
            options=UNJUDGED,
        )
    ),
)
