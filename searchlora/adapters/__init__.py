"""LoRA adapters with manifests, versions and aliases in a store, and the checks before one is loaded.

The functions have the names of the subcommands of `searchlora adapters`.
"""

from __future__ import annotations

from searchlora.adapters.operations import alias as alias
from searchlora.adapters.operations import base_path as base_path
from searchlora.adapters.operations import diff as diff
from searchlora.adapters.operations import export as export
from searchlora.adapters.operations import list_ as list
from searchlora.adapters.operations import path as path
from searchlora.adapters.operations import remove as remove
from searchlora.adapters.operations import rollback as rollback
from searchlora.adapters.operations import show as show
from searchlora.adapters.operations import verify as verify
from searchlora.adapters.store import Store as Store
from searchlora.adapters.store import StoredAdapter as StoredAdapter
from searchlora.adapters.transfer import pull as pull
from searchlora.adapters.transfer import push as push

__all__ = ["list"]  # the others are exported by their `as`
