"""What each guard of an adapter stage saves and costs, beside the same stage without it.

    python -m benchmarks.guardrails

* `rewrite_guard` on MSRD, with the adapter of `benchmarks.rewriting_msrd` and with its base, and on the conversations
  of MT-RAG with the base. `top_score` is the greatest tenth that costs the adapter nothing on validation queries: the
  interval of the difference includes 0.
* `only_if_unsure` on MSRD: BM25's first ten movies are ordered by the judge of web passages that
  `benchmarks.judgment_trecdl19` trains, as no judge learned from MSRD. The threshold is fitted on validation queries.
  On Chorus, the judges and their grades are those of `benchmarks.judgment_chorus`: of BM25's hits, the graded ones are
  ordered. The threshold of a fold is fitted on the others.
* `min_support` on a third of MT-RAG: answers that the base writes without an adapter, with the rules of abstention and
  citation of `benchmarks.rag_mtrag`. At least half of the sentences must be supported; nothing is fitted.

Outputs of models in `benchmarks/work/guardrails` are reused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from benchmarks.common import parser, save_figures
from benchmarks.guardrails import answers, reranking, rewrites
from benchmarks.guardrails.measured import Guarded
from searchlora.cli.terminal import progress_bars
from searchlora.eval.formatting import figure, markdown_table, p_value
from searchlora.eval.significance import correct

NAME = "guardrails"

HEAD = ["guard", "on", "stage", "n", "acts on", "saves", "measure", "without it", "guard minus without", "p, corrected"]


def main() -> None:
    parser(NAME).parse_args()
    with progress_bars() as steps:
        parts = [part.measured(steps) for part in (rewrites, reranking, answers)]
    found = [guarded for of_part, _ in parts for guarded in of_part]
    corrected = iter(correct([guarded.pair.p for guarded in found]))
    found = [replace(guarded, pair=replace(guarded.pair, p_corrected=next(corrected))) for guarded in found]
    print(table(found))
    rows = [
        {"system": guarded.system, "measure": guarded.pair.measure, "value": guarded.without, "low": None, "high": None,
         "n": guarded.pair.n, "acts": guarded.acts, "saves": guarded.saves}
        for guarded in found
    ]  # fmt: skip
    more = {"table": table(found), "fitted": {key: value for _, about in parts for key, value in about.items()}}
    pairs = [asdict(replace(guarded.pair, a=guarded.system, b="without the guard")) for guarded in found]
    save_figures(NAME, rows, pairs, more)


def table(found: Sequence[Guarded]) -> str:
    """The Markdown of the results file."""
    return markdown_table(HEAD, [_line(guarded) for guarded in found], words=3)


def _line(guarded: Guarded) -> list[Any]:
    pair = guarded.pair
    difference = "–" if math.isnan(pair.difference) else figure(pair.difference, pair.low, pair.high, "+")
    cells = [f"{pair.n:,}", f"{guarded.acts:.1%}", guarded.saves, pair.measure, f"{guarded.without:.3f}", difference]
    return [guarded.guard, guarded.data, guarded.stage, *cells, p_value(pair.p_corrected)]


if __name__ == "__main__":
    main()
