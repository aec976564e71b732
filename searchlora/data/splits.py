"""Train, validation and test splits: their names, the ratios of groups, and rows that belong to one group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from searchlora.errors import UsageError

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


#: Ratios of a dataset of test rows only, which adapters trained elsewhere are evaluated on.
ONLY_TEST = (0.0, 0.0, 1.0)


def check_ratios(ratios: tuple[float, float, float]) -> None:
    """Raise `UsageError` unless these are three ratios that add up to 1, with some training data or `ONLY_TEST`."""
    listed = ", ".join(f"{ratio:g}" for ratio in ratios)
    fix = "Give train, validation and test, for example 0.8,0.1,0.1."
    if len(ratios) != 3 or min(ratios) < 0 or not abs(sum(ratios) - 1) <= 1e-6:
        raise UsageError(f"the ratios {listed} are not three that add up to 1", fix=fix)
    if ratios[0] == 0 and tuple(ratios) != ONLY_TEST:
        raise UsageError(f"the ratios {listed} leave nothing for training", fix=f"{fix} 0,0,1 puts all rows in test.")


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
