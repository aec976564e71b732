"""Valid rows of a dataset while it is built: on disk, assigned to splits by group, and checked for leaks.

Memory per row: three 8-byte fingerprints, four 4-byte lengths and a byte, 41 MB for a million rows.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, compress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from searchlora.data.splits import SPLITS
from searchlora.errors import LeakError
from searchlora.eval.text_identity import fingerprint, normalised
from searchlora.records import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A training row of the source that becomes a validation row if no other row is one.
_HELD = "held"
_CODES = (*SPLITS, _HELD)

#: Split -> splits whose rows take precedence over its own.
_PRECEDENCE = (("train", ("validation", "test")), ("validation", ("test",)))
_LEAKS_IN_MESSAGE = 5


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


class RowStore:
    """The rows of a build: `add` them, `close` the store, remove leaks, then `write` the splits.

    The split of a group is the hash of seed and group mapped to the ratios, so it does not change when rows are added.
    Official splits of a source (its first row has a `split`) are respected. If they have no validation split, groups of
    the training split form it, in the proportion of the ratios.

    Args:
        folder: Folder of the dataset.
        seed: Seed of the split.
        ratios: Ratios of train, validation and test; they add up to 1.

    Attributes:
        official: Whether the splits are those of the source.
        rows: After `close`: split -> numbers of its rows in the store, in the order in which they are written.
    """

    def __init__(self, folder: Path, seed: int, ratios: tuple[float, float, float]) -> None:
        self.official: bool | None = None
        self.rows: dict[str, NDArray[np.int64]] = {}
        self._folder, self._seed, self._ratios = folder, seed, ratios
        self._lines, self._places = folder / "rows.tmp", folder / "places.tmp"
        self._files = [path.open("w", encoding="utf-8") for path in (self._lines, self._places)]
        self._splits = array("B")
        self._ids, self._inputs, self._groups = array("Q"), array("Q"), array("Q")
        self._lengths = array("I")

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
        """Add a row; `input_text` is the rendered input of the model, `target` its expected output."""
        lines, places = self._files
        lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        places.write(json.dumps([record["id"], where]) + "\n")
        self._splits.append(_CODES.index(self._split_of(record)))
        self._ids.append(fingerprint(record["id"]))
        self._inputs.append(fingerprint(normalised(input_text)))
        self._groups.append(fingerprint(record["group"]))
        self._lengths.extend((len(input_text), len(input_text.split()), len(target), len(target.split())))

    def _split_of(self, record: Record) -> str:
        position = fingerprint(f"{self._seed}:{record['group']}") / 2**64
        train, validation, _ = self._ratios
        if not self.official:
            return "train" if position < train else "validation" if position < train + validation else "test"
        split = str(record["split"])
        held = split == "train" and validation and position >= train / (train + validation)
        return _HELD if held else split

    def close(self) -> None:
        """Finish reading; no row can be added afterwards."""
        for file in self._files:
            file.close()
        splits = np.asarray(self._splits)
        self.rows = {name: np.flatnonzero(splits == code) for code, name in enumerate(_CODES)}
        held = self.rows.pop(_HELD)
        target = "train" if len(self.rows["validation"]) else "validation"
        self.rows[target] = np.concatenate([self.rows[target], held])

    def remove_leaks(self) -> list[Leak]:
        """Remove the rows whose input or group is in a split that takes precedence, and return them all.

        Test rows are always kept; validation rows yield to test, training rows to both.
        """
        leaks: list[Leak] = []
        for name, others in _PRECEDENCE:
            keep = np.ones(len(self.rows[name]), dtype=np.bool_)
            for other in others:
                for same in ("input", "group"):
                    matches = self._matches(self.rows[name], self.rows[other], same)
                    # Each row is reported once, for its first reason.
                    fresh = {row: match for row, match in matches.items() if keep[row]}
                    keep[list(fresh)] = False
                    pairs = [(self.rows[name][row], self.rows[other][match]) for row, match in fresh.items()]
                    places = self._places_of({number for pair in pairs for number in pair})
                    leaks += [Leak(name, *places[row], other, *places[match], same) for row, match in pairs]
            self.rows[name] = self.rows[name][keep]
        return leaks

    def _matches(self, rows: NDArray[np.int64], others: NDArray[np.int64], same: str) -> dict[int, int]:
        """Position in `rows` -> position in `others` of the first row that equals it in input or group."""
        keys = np.asarray(self._inputs if same == "input" else self._groups)
        values, first = np.unique(keys[others], return_index=True)
        if not len(values):
            return {}
        positions = np.minimum(np.searchsorted(values, keys[rows]), len(values) - 1)
        equal = np.flatnonzero(values[positions] == keys[rows])
        return dict(zip(equal.tolist(), first[positions[equal]].tolist(), strict=True))

    def _places_of(self, numbers: set[int]) -> dict[int, tuple[str, str]]:
        """Row -> id and place in the source."""
        if not numbers:
            return {}
        with self._places.open(encoding="utf-8") as lines:
            return {number: tuple(json.loads(line)) for number, line in enumerate(lines) if number in numbers}

    def write(self) -> None:
        """Write `SPLIT.jsonl` for each split, and remove the temporary files."""
        for name, numbers in self.rows.items():
            # Held rows follow the others; each part is in the order of the source.
            parts = np.split(numbers, np.flatnonzero(np.diff(numbers) < 0) + 1)
            with self._file(name).open("w", encoding="utf-8") as out:
                out.writelines(chain.from_iterable(map(self._lines_of, parts)))
        for path in (self._lines, self._places):
            path.unlink()

    def _lines_of(self, numbers: NDArray[np.int64]) -> Iterator[str]:
        wanted = np.zeros(len(self._splits), dtype=np.bool_)
        wanted[numbers] = True
        with self._lines.open(encoding="utf-8") as lines:
            yield from compress(lines, wanted)

    def _file(self, split: str) -> Path:
        return self._folder / f"{split}.jsonl"

    def records(self, split: str | None = None) -> Iterator[Record]:
        """The written records of a split; None: of all splits."""
        for name in SPLITS if split is None else (split,):
            with self._file(name).open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)

    def ids(self, split: str) -> set[int]:
        """Fingerprints of the ids of a split."""
        return set(np.asarray(self._ids)[self.rows[split]].tolist())

    def count_groups(self, split: str) -> int:
        """The number of groups of a split."""
        return len(np.unique(np.asarray(self._groups)[self.rows[split]]))

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Characters and words of the input, characters and words of the target, of all rows. Shape: (rows, 4)."""
        rows = np.concatenate(list(self.rows.values()))
        lengths = np.asarray(self._lengths, dtype=np.uint32).reshape(-1, 4)
        return np.take(lengths, rows, axis=0)


def leak_error(leaks: Sequence[Leak], listing: Path) -> LeakError:
    """The error for leaking rows: it shows some of them; the file `listing` gets all."""
    write_leaks(leaks, listing)
    examples = "; ".join(
        f"{leak.where} ({leak.split}) and {leak.like_where} ({leak.like_split}) have the same {leak.same}"
        for leak in leaks[:_LEAKS_IN_MESSAGE]
    )
    more = f"; and {len(leaks) - _LEAKS_IN_MESSAGE} more" if len(leaks) > _LEAKS_IN_MESSAGE else ""
    return LeakError(
        f"{len(leaks)} rows are in two splits: {examples}{more}",
        fix=f"Give them one group, or remove them from training and validation with on_leak=drop "
        f"(--on-leak drop). All are listed in {listing}; no dataset was written.",
    )


def write_leaks(leaks: Sequence[Leak], path: Path) -> None:
    """Write leaks as JSON Lines."""
    path.write_text("".join(json.dumps(asdict(leak), ensure_ascii=False) + "\n" for leak in leaks), encoding="utf-8")
