"""What a user's file looks like, and which commands build from it: `searchlora data inspect`.

`profiling` reads the beginning of a file and describes it, `commands` proposes commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from searchlora.data.inspection import profiling
from searchlora.data.inspection.commands import Command, propose
from searchlora.data.inspection.profiling import Profile, lines_of
from searchlora.files import limited_reads, reading_as
from searchlora.task import Task

__all__ = ["inspect_file", "lines_of"]


def inspect_file(path: Path, tasks: Sequence[Task] = ()) -> tuple[Profile, list[Command]]:
    """The profile of a file or folder, and the commands by which these tasks build from it.

    What is read is bounded: of a file by `MAX_ROWS`, `MAX_CELLS` and `MAX_BYTES`, of all files by `MAX_SECONDS`.

    Raises:
        DataError: if there is no such file or folder, or the file is empty.
    """
    with limited_reads(profiling.MAX_BYTES, profiling.MAX_SECONDS):
        found = profiling.profile(path)
        for encoding in profiling.other_encodings(found):
            with reading_as(encoding, [path]):
                other = profiling.profile(path)
                if other.rows and not any(f"not {encoding}" in fault.reason for fault in other.faults):
                    other.encoding = encoding
                    return other, propose(other, tasks)
        return found, propose(found, tasks)
