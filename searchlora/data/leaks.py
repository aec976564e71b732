"""The leak check: no two splits may hold the same input, or rows of the same group."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from searchlora.data.spool import Spool
from searchlora.errors import LeakError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A row of the first is checked against, and yields to, the rows of the others.
YIELDS_TO = (("train", ("validation", "test")), ("validation", ("test",)))
SHOWN = 5


@dataclass(frozen=True)
class Leak:
    """A row that has a like in a split that matters more.

    Attributes:
        split: Where the row is.
        id: Its id.
        where: Its place in the source.
        like_split: Where its like is.
        like_id: The like's id; the first one, if there are several.
        like_where: The like's place in the source.
        same: "input" (the same after normalising, see `text.normalised`), or "group".
    """

    split: str
    id: str
    where: str
    like_split: str
    like_id: str
    like_where: str
    same: str


def find_leaks(spools: Mapping[str, Spool]) -> tuple[list[Leak], dict[str, NDArray[np.bool_]]]:
    """Every leaking row, and per split which rows may stay (shape: (rows,)).

    A test row always stays, a validation row yields to test, a training row to both.
    """
    leaks: list[Leak] = []
    kept = {name: np.ones(len(spool), dtype=np.bool_) for name, spool in spools.items()}
    for name, others in YIELDS_TO:
        for other in others:
            for same in ("input", "group"):
                fresh = _matches(spools[name], spools[other], same)
                # Each row is told once, for its first reason.
                numbers = [number for number in fresh if kept[name][number]]
                kept[name][numbers] = False
                leaks += _told(spools[name], spools[other], {number: fresh[number] for number in numbers}, same)
    return leaks, kept


def refuse(leaks: Sequence[Leak], listing: Path) -> LeakError:
    """The error that lists leaking rows: some in its text, all of them in the file `listing`."""
    write_leaks(leaks, listing)
    told = "; ".join(
        f"{leak.where} ({leak.split}) and {leak.like_where} ({leak.like_split}) have the same {leak.same}"
        for leak in leaks[:SHOWN]
    )
    more = f"; and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""
    return LeakError(
        f"{len(leaks)} rows stand in two splits: {told}{more}",
        fix=f"Give them one group, or take them out of training and validation with on_leak=drop "
        f"(--on-leak drop). All are listed in {listing}; no dataset was written.",
    )


def write_leaks(leaks: Sequence[Leak], path: Path) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(asdict(leak), ensure_ascii=False) + "\n" for leak in leaks), encoding="utf-8")


def _matches(spool: Spool, other: Spool, same: str) -> dict[int, int]:
    """Row of `spool` -> the first row of `other` that is like it."""
    mine, its = (spool.inputs, other.inputs) if same == "input" else (spool.groups, other.groups)
    values, first = np.unique(its, return_index=True)
    if not len(values):
        return {}
    at = np.minimum(np.searchsorted(values, mine), len(values) - 1)
    rows = np.flatnonzero(values[at] == mine)
    return dict(zip(rows.tolist(), first[at[rows]].tolist(), strict=True))


def _told(spool: Spool, other: Spool, matches: Mapping[int, int], same: str) -> list[Leak]:
    mine, its = spool.places(set(matches)), other.places(set(matches.values()))
    return [Leak(spool.name, *mine[row], other.name, *its[like], same) for row, like in matches.items()]
