"""What a user's file looks like, and which commands build from it: `searchlora data inspect`.

`profiling` reads the beginning of a file and describes it, `commands` proposes commands.
"""

from __future__ import annotations

from searchlora.data.inspection.commands import Command, propose
from searchlora.data.inspection.profiling import Column, Profile, inspection, lines_of, profile

__all__ = ["Column", "Command", "Profile", "inspection", "lines_of", "profile", "propose"]
