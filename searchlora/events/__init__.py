"""Searches of a server and what users did with their hits: recorded, exported, summed up and replayed.

`log` keeps them in SQLite or PostgreSQL, `recorder` writes them in a thread of its own while a server answers, `export`
writes them for other tools, and `summary` counts them.
"""

from __future__ import annotations
