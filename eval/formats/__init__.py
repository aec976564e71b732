"""Runs, qrels and topics in the formats that people have, in and out.

One file holds one format; `registry` lists them, `reading` and `writing` are what the rest of the project calls.
"""

from searchlora.eval.formats.contract import Topics
from searchlora.eval.formats.reading import read_qrels, read_run, read_topics
from searchlora.eval.formats.registry import FORMATS, format_for_name, format_of_file
from searchlora.eval.formats.writing import write_qrels, write_run, write_topics

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
