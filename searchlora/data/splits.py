"""Train, validation and test splits: assignment of rows by group, and the leak check between splits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from searchlora.data.row_buffer import RowBuffer
from searchlora.errors import LeakError, UsageError
from searchlora.eval.text_identity import fingerprint
from searchlora.records import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")

#: Name of a split in public datasets -> split.
SPLIT_NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


#: Shares of a dataset of test rows only, which adapters trained elsewhere are evaluated on.
ONLY_TEST = (0.0, 0.0, 1.0)


def check_shares(shares: tuple[float, float, float]) -> None:
    """Raise `UsageError` unless these are three shares that add up to 1, with some training data or `ONLY_TEST`."""
    listed = ", ".join(f"{share:g}" for share in shares)
    fix = "Give train, validation and test, for example 0.8,0.1,0.1."
    if len(shares) != 3 or min(shares) < 0 or not abs(sum(shares) - 1) <= 1e-6:
        raise UsageError(f"the shares {listed} are not three that add up to 1", fix=fix)
    if shares[0] == 0 and tuple(shares) != ONLY_TEST:
        raise UsageError(f"the shares {listed} leave nothing for training", fix=f"{fix} 0,0,1 puts all rows in test.")


class Splitter:
    """Assigns rows to one row buffer per split, by their group.

    The split of a group is the hash of seed and group mapped to the shares, so it does not change when rows are added.
    Official splits of a source (its first row has a `split`) are respected. If they have no validation split, groups of
    the training split form it, in the proportion of the shares.

    Args:
        folder: Folder of the buffers.
        seed: Seed of the split.
        shares: Shares of train, validation and test; they add up to 1.
    """

    def __init__(self, folder: Path, seed: int, shares: tuple[float, float, float]) -> None:
        self.seed = seed
        self.shares = shares
        self.official: bool | None = None
        self._folder = folder
        self._buffers = {name: RowBuffer(folder, name) for name in SPLITS}
        self._held: RowBuffer | None = None

    def problem(self, record: Record) -> str | None:
        """Why a row cannot be assigned to a split, or None."""
        split = record.get("split")
        if self.official is None:
            self.official = split is not None
        if self.official and split is None:
            return "field 'split' is missing, while the first row has it"
        if not self.official and split is not None:
            return "field 'split' is there, while the first row lacks it"
        if split is not None and split not in SPLITS:
            return f"field 'split': '{split}' is not one of {', '.join(SPLITS)}"
        return None

    def add(self, record: Record, where: str, input_text: str, target: str) -> None:
        """Add a row to the buffer of its split; arguments as in `RowBuffer.add`."""
        self._buffer_for(record).add(record, where, input_text, target)

    def _buffer_for(self, record: Record) -> RowBuffer:
        position = fingerprint(f"{self.seed}:{record['group']}") / 2**64
        train, validation, _ = self.shares
        if not self.official:
            return self._buffers[
                "train" if position < train else "validation" if position < train + validation else "test"
            ]
        split = record["split"]
        if split == "train" and validation and position >= train / (train + validation):
            if self._held is None:
                self._held = RowBuffer(self._folder, "held")
            return self._held
        return self._buffers[split]

    def close(self) -> Mapping[str, RowBuffer]:
        """Close and return the buffers by split."""
        for buffer in self._buffers.values():
            buffer.close()
        if self._held is not None:
            self._held.close()
            target = "train" if len(self._buffers["validation"]) else "validation"
            self._buffers[target].append_all(self._held)
        return self._buffers


#: Split -> splits whose rows take precedence over its own.
PRECEDENCE = (("train", ("validation", "test")), ("validation", ("test",)))
LEAKS_IN_MESSAGE = 5


@dataclass(frozen=True)
class Leak:
    """A row with a duplicate in a split that takes precedence.

    Attributes:
        split: Split of the row.
        id: Id of the row.
        where: Its place in the source.
        like_split: Split of the duplicate.
        like_id: Id of the duplicate; of the first one, if there are several.
        like_where: Place of the duplicate in the source.
        same: What both share: "input" (after `normalised`) or "group".
    """

    split: str
    id: str
    where: str
    like_split: str
    like_id: str
    like_where: str
    same: str


def find_leaks(buffers: Mapping[str, RowBuffer]) -> tuple[list[Leak], dict[str, NDArray[np.bool_]]]:
    """All leaking rows, and for each split a mask of the rows to keep (shape: (rows,)).

    Test rows are always kept; validation rows yield to test, training rows to both.
    """
    leaks: list[Leak] = []
    masks = {name: np.ones(len(buffer), dtype=np.bool_) for name, buffer in buffers.items()}
    for name, others in PRECEDENCE:
        for other in others:
            for same in ("input", "group"):
                fresh = _matches(buffers[name], buffers[other], same)
                # Each row is reported once, for its first reason.
                numbers = [number for number in fresh if masks[name][number]]
                masks[name][numbers] = False
                leaks += _leaks(buffers[name], buffers[other], {number: fresh[number] for number in numbers}, same)
    return leaks, masks


def leak_error(leaks: Sequence[Leak], listing: Path) -> LeakError:
    """The error for leaking rows: it shows some of them; the file `listing` gets all."""
    write_leaks(leaks, listing)
    examples = "; ".join(
        f"{leak.where} ({leak.split}) and {leak.like_where} ({leak.like_split}) have the same {leak.same}"
        for leak in leaks[:LEAKS_IN_MESSAGE]
    )
    more = f"; and {len(leaks) - LEAKS_IN_MESSAGE} more" if len(leaks) > LEAKS_IN_MESSAGE else ""
    return LeakError(
        f"{len(leaks)} rows are in two splits: {examples}{more}",
        fix=f"Give them one group, or remove them from training and validation with on_leak=drop "
        f"(--on-leak drop). All are listed in {listing}; no dataset was written.",
    )


def write_leaks(leaks: Sequence[Leak], path: Path) -> None:
    """Write leaks as JSON Lines."""
    path.write_text("".join(json.dumps(asdict(leak), ensure_ascii=False) + "\n" for leak in leaks), encoding="utf-8")


def _matches(buffer: RowBuffer, other: RowBuffer, same: str) -> dict[int, int]:
    """Row of `buffer` -> first row of `other` that equals it in input or group."""
    keys, others = (buffer.inputs, other.inputs) if same == "input" else (buffer.groups, other.groups)
    values, first = np.unique(others, return_index=True)
    if not len(values):
        return {}
    positions = np.minimum(np.searchsorted(values, keys), len(values) - 1)
    rows = np.flatnonzero(values[positions] == keys)
    return dict(zip(rows.tolist(), first[positions[rows]].tolist(), strict=True))


def _leaks(buffer: RowBuffer, other: RowBuffer, matches: Mapping[int, int], same: str) -> list[Leak]:
    places, other_places = buffer.places(set(matches)), other.places(set(matches.values()))
    return [Leak(buffer.name, *places[row], other.name, *other_places[match], same) for row, match in matches.items()]


def connected(keys: Sequence[Iterable[str]]) -> list[int]:
    """Connected components of rows that share keys: for each row, the number of the first row of its component.

    Args:
        keys: The keys of each row; rows that share a key belong to one group.

    Examples:
        >>> connected([["a"], ["b"], ["a", "c"], ["c"]])
        [0, 1, 0, 0]
    """
    parent = list(range(len(keys)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    owner: dict[str, int] = {}
    for row, row_keys in enumerate(keys):
        for key in row_keys:
            one, other = root(owner.setdefault(key, row)), root(row)
            parent[max(one, other)] = min(one, other)
    return [root(row) for row in range(len(keys))]
