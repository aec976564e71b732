"""Runs, qrels and topics in public file formats, for reading and writing.

One module describes one format or family: `trec`, `beir`, `records` (jsonl, parquet, csv), `ranx`, `quepid` and
`opensearch`. The rest of the project calls the functions of `read_write`.
"""

from searchlora.eval.formats.base import Topics
from searchlora.eval.formats.read_write import (
    FORMATS,
    format_for_name,
    format_of_file,
    read_qrels,
    read_run,
    read_topics,
    write_qrels,
    write_run,
    write_topics,
)

__all__ = [
    "FORMATS",
    "Topics",
    "format_for_name",
    "format_of_file",
    "read_qrels",
    "read_run",
    "read_topics",
    "write_qrels",
    "write_run",
    "write_topics",
]
