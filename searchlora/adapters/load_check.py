"""What an adapter must pass to be loaded.

At every load (`check_files`, then `attach`): hashes, the base's fingerprint, keys and shapes; no forward pass. When it
is stored and on `adapters verify` (`verify`), also: the delta is not zero, the golden records render to the same
token ids, and the logits on the golden prompts differ from the base's and are those of the day it was stored.
"""

from __future__ import annotations

from searchlora.adapters.manifest import Base
from searchlora.adapters.peft_folder import read_config
from searchlora.adapters.stored import StoredAdapter, check_hashes
from searchlora.errors import BaseMismatch, TokenizerMismatch
from searchlora.models.fingerprint import fingerprint
from searchlora.models.resolve import BaseModel


def check_files(stored: StoredAdapter, base: BaseModel) -> None:
    """What is checked at every load before `attach` compares keys and shapes.

    Raises:
        TamperedAdapter: a file is missing, extra or changed.
        BaseMismatch: the base has another architecture or other weights than the one trained on.
        TokenizerMismatch: the base's tokenizer or chat template is not the one trained with.
        LoadCheckFailed: the configuration asks for more than A and B on an unchanged base.
    """
    check_hashes(stored)
    read_config(stored.path)
    check_base(stored.reference, stored.manifest.base, base)


def check_base(reference: str, trained_on: Base, base: BaseModel) -> None:
    """Compare fingerprints. Raises `BaseMismatch` or `TokenizerMismatch`."""
    then, now = trained_on.fingerprint, fingerprint(base.path)
    if (then.architecture, then.tensors) != (now.architecture, now.tensors):
        raise BaseMismatch(
            f"was trained on '{trained_on.name}' ({then.architecture}, tensors {then.tensors[:12]}), not on "
            f"'{base.name}' ({now.architecture}, tensors {now.tensors[:12]})",
            where=reference,
            fix="Load it on the base it was trained on, or train it again on this one.",
        )
    changed = [part for part in ("tokenizer", "template") if getattr(then, part) != getattr(now, part)]
    if changed:
        what = " and ".join("chat template" if part == "template" else part for part in changed)
        raise TokenizerMismatch(
            f"the {what} of '{base.name}' changed since training",
            where=reference,
            fix="Restore the tokenizer files of the base, or train the adapter again.",
        )
