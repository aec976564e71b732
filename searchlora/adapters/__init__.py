"""Adapters: names, manifests, the store, what must hold before one is loaded, and the verbs over them.

The functions here carry the names of the verbs of `searchlora adapters`.
"""

from __future__ import annotations

from searchlora.adapters.store import Store, StoredAdapter
from searchlora.adapters.verbs import alias, diff, export, merge, pull, push, remove, rollback, show, verify
from searchlora.adapters.verbs import list_ as list

__all__ = [
    "Store",
    "StoredAdapter",
    "alias",
    "diff",
    "export",
    "list",
    "merge",
    "pull",
    "push",
    "remove",
    "rollback",
    "show",
    "verify",
]
