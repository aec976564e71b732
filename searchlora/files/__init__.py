"""Reading and writing of files, shared by all other packages.

`atomic` writes files and folders whole or not at all, `text` opens and decodes, `json_text` parses strict JSON, `rows`
reads rows of five kinds of file, `field_map` says which columns hold their fields, `read_progress` counts the bytes
read, and `file_state` notices that a file was changed. `result_cache` remembers results by key, and `append_log` is the
log from which an interrupted run continues.
"""

from __future__ import annotations

from searchlora.files.atomic import atomic_bytes as atomic_bytes
from searchlora.files.atomic import atomic_folder as atomic_folder
from searchlora.files.atomic import atomic_text as atomic_text
from searchlora.files.atomic import check_writable as check_writable
from searchlora.files.atomic import file_sha256 as file_sha256
from searchlora.files.atomic import publish_folder as publish_folder
from searchlora.files.atomic import sync as sync
from searchlora.files.atomic import tree_sha256 as tree_sha256
from searchlora.files.atomic import tree_size as tree_size
from searchlora.files.field_map import FieldMap as FieldMap
from searchlora.files.field_map import as_text as as_text
from searchlora.files.field_map import mapped as mapped
from searchlora.files.field_map import parse_field_map as parse_field_map
from searchlora.files.file_state import FileState as FileState
from searchlora.files.file_state import cache_digest as cache_digest
from searchlora.files.file_state import cached_digest as cached_digest
from searchlora.files.json_text import Pairs as Pairs
from searchlora.files.json_text import json_file as json_file
from searchlora.files.json_text import json_line as json_line
from searchlora.files.json_text import json_object as json_object
from searchlora.files.json_text import parse_json as parse_json
from searchlora.files.read_progress import ReadProgress as ReadProgress
from searchlora.files.read_progress import track_reads as track_reads
from searchlora.files.rows import EXCERPT as EXCERPT
from searchlora.files.rows import EXTENSIONS as EXTENSIONS
from searchlora.files.rows import RejectedRow as RejectedRow
from searchlora.files.rows import Rows as Rows
from searchlora.files.rows import SourceRow as SourceRow
from searchlora.files.rows import read_rows as read_rows
from searchlora.files.rows import strict as strict
from searchlora.files.text import NOT_UTF8 as NOT_UTF8
from searchlora.files.text import Head as Head
from searchlora.files.text import check_file as check_file
from searchlora.files.text import numbered_lines as numbered_lines
from searchlora.files.text import open_bytes as open_bytes
from searchlora.files.text import open_text as open_text
from searchlora.files.text import read_bounded as read_bounded
from searchlora.files.text import read_bytes as read_bytes
from searchlora.files.text import read_head as read_head
from searchlora.files.text import read_text as read_text
from searchlora.files.text import reading_as as reading_as
