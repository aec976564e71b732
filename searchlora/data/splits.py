"""Which split a row goes to: by its group, never by itself; official splits are respected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from searchlora.data.spool import Spool
from searchlora.errors import UsageError
from searchlora.eval.text_identity import fingerprint
from searchlora.records import Record

SPLITS = ("train", "validation", "test")

#: What publishers call their splits.
SPLIT_NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}


def check_shares(shares: tuple[float, float, float]) -> None:
    """Raise `UsageError` unless these are three shares of one whole with something to train on."""
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6 or shares[0] == 0:
        told = ", ".join(f"{share:g}" for share in shares)
        raise UsageError(
            f"the shares {told} do not make a whole", fix="Give train, validation and test, for example 0.8,0.1,0.1."
        )


class Splitter:
    """Deals rows out to one spool per split.

    A group's split is the hash of seed and group laid onto the shares, so it does not change when rows are added.
    Where the source has official splits (its first row has a `split`), they are used. If among them there is no
    validation split, some groups of the training split become it, in the proportion of the shares.

    Args:
        folder: Where the spools go.
        seed: Another seed, another split.
        shares: Of train, validation and test; together 1.
    """

    def __init__(self, folder: Path, seed: int, shares: tuple[float, float, float]) -> None:
        self.seed = seed
        self.shares = shares
        self.official: bool | None = None
        self._folder = folder
        self._spools = {name: Spool(folder, name) for name in SPLITS}
        self._held: Spool | None = None

    def problem(self, record: Record) -> str | None:
        """Why a row cannot be dealt out, if it cannot."""
        split = record.get("split")
        if self.official is None:
            self.official = split is not None
        if self.official and split is None:
            return "field 'split' is missing, while the first row has it"
        if not self.official and split is not None:
            return "field 'split' is there, while the first row lacks it"
        if split is not None and split not in SPLITS:
            return f"field 'split': '{split}' is none of {', '.join(SPLITS)}"
        return None

    def add(self, record: Record, where: str, input_text: str, target: str) -> str | None:
        """Put a row where it belongs (arguments as of `Spool.add`); returns why that is impossible, if it is."""
        try:
            self._spool_for(record).add(record, where, input_text, target)
        except UnicodeEncodeError:
            return "holds half of a character (a lone surrogate)"
        return None

    def _spool_for(self, record: Record) -> Spool:
        at = fingerprint(f"{self.seed}:{record['group']}") / 2**64
        train, validation, _ = self.shares
        if not self.official:
            return self._spools["train" if at < train else "validation" if at < train + validation else "test"]
        split = record["split"]
        if split == "train" and at >= train / (train + validation):
            if self._held is None:
                self._held = Spool(self._folder, "held")
            return self._held
        return self._spools[split]

    def close(self) -> Mapping[str, Spool]:
        """The finished spools by split."""
        for spool in self._spools.values():
            spool.close()
        if self._held is not None:
            self._held.close()
            made = "train" if len(self._spools["validation"]) else "validation"
            self._spools[made].take(self._held)
        return self._spools
