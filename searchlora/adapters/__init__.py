"""LoRA adapters with manifests, versions and aliases in a store, and the checks before one is loaded.

The functions have the names of the subcommands of `searchlora adapters`.
"""

from __future__ import annotations

from searchlora.adapters.operations import (
    alias,
    base_path,
    diff,
    export,
    merge,
    path,
    remove,
    rollback,
    show,
    verify,
)
from searchlora.adapters.operations import list_ as list
from searchlora.adapters.store import Store, StoredAdapter
from searchlora.adapters.transfer import pull, push

__all__ = [
    "Store",
    "StoredAdapter",
    "alias",
    "base_path",
    "diff",
    "export",
    "list",
    "merge",
    "path",
    "pull",
    "push",
    "remove",
    "rollback",
    "show",
    "verify",
]
