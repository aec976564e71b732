"""From which probability of the abstention on to abstain: chosen on validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from searchlora.outputs import CitedAnswer, InvalidOutput
from searchlora.records import Record

#: From here on the abstention is likelier than all else together; a model that is made to answer then writes something
#: like it, which nothing would know for an abstention.
MOST = 0.5


def tuned(records: Sequence[Record], outputs: Sequence[CitedAnswer | InvalidOutput]) -> dict[str, Any]:
    """`abstain_from`: the probability up to `MOST` with the best `balance`, the highest such where there are several.

    Nothing where the rows whose abstention was scored are all answerable, or none is.
    """
    scored = [
        (output.abstention_probability, not record["answerable"])
        for record, output in zip(records, outputs, strict=True)
        if isinstance(output, CitedAnswer) and output.abstention_probability is not None
    ]
    silent = np.array([wanted for _, wanted in scored], dtype=bool)
    if silent.all() or not silent.any():
        return {}
    given = np.array([probability for probability, _ in scored])
    steps = np.unique(given)
    between = (steps[1:] + steps[:-1]) / 2
    candidates = (MOST, *between[between < MOST][::-1], 0.0)  # 0: to abstain always
    found = {float(least): balance(given >= least, silent) for least in candidates}
    best = max(found, key=lambda least: found[least])
    return {"abstain_from": best, "validation": {"rows": len(scored), "mean F1": found[best]}}


def balance(said: np.typing.NDArray[np.bool_], wanted: np.typing.NDArray[np.bool_]) -> float:
    """The mean of the F1 of abstaining and that of answering; by the first alone, to abstain always is often best."""
    return (_f1(said, wanted) + _f1(~said, ~wanted)) / 2


def _f1(said: np.typing.NDArray[np.bool_], wanted: np.typing.NDArray[np.bool_]) -> float:
    """0 where it is neither said nor wanted of any row."""
    return float(2 * (said & wanted).sum() / max(1, said.sum() + wanted.sum()))
