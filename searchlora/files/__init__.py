"""Reading and writing of files, shared by all other packages.

`atomic` writes files and folders whole or not at all, `text` opens and decodes, `json_text` parses strict JSON, `rows`
reads rows of five kinds of file, `field_map` says which columns hold their fields, `watched_reads` counts and bounds
the bytes read, and `file_state` notices that a file was changed. `result_cache` remembers results by key, and
`append_log` is the log from which an interrupted run continues.
"""

from __future__ import annotations

from searchlora.files.atomic import (
    atomic_bytes,
    atomic_folder,
    atomic_text,
    check_writable,
    file_sha256,
    publish_folder,
    replace_folder,
    resumable_folder,
    sync,
    tree_sha256,
    tree_size,
)
from searchlora.files.field_map import FieldMap, as_text, mapped, parse_field_map
from searchlora.files.file_state import FileState, WatchedFiles, cache_digest, cached_digest
from searchlora.files.json_text import Pairs, json_file, json_line, json_object, parse_json
from searchlora.files.rows import EXCERPT, EXTENSIONS, RejectedRow, Rows, SourceRow, read_rows, strict
from searchlora.files.text import (
    Head,
    check_file,
    numbered_lines,
    open_bytes,
    open_text,
    read_bounded,
    read_bytes,
    read_head,
    read_text,
)
from searchlora.files.watched_reads import ReadLimitReached, ReadProgress, limited_reads, track_reads

__all__ = [
    "EXCERPT",
    "EXTENSIONS",
    "FieldMap",
    "FileState",
    "Head",
    "Pairs",
    "ReadLimitReached",
    "ReadProgress",
    "RejectedRow",
    "Rows",
    "SourceRow",
    "WatchedFiles",
    "as_text",
    "atomic_bytes",
    "atomic_folder",
    "atomic_text",
    "cache_digest",
    "cached_digest",
    "check_file",
    "check_writable",
    "file_sha256",
    "json_file",
    "json_line",
    "json_object",
    "limited_reads",
    "mapped",
    "numbered_lines",
    "open_bytes",
    "open_text",
    "parse_field_map",
    "parse_json",
    "publish_folder",
    "read_bounded",
    "read_bytes",
    "read_head",
    "read_rows",
    "read_text",
    "replace_folder",
    "resumable_folder",
    "strict",
    "sync",
    "track_reads",
    "tree_sha256",
    "tree_size",
]
