"""Kendall's tau of the order of Cranfield systems under judges: an encoder, an LLM, and two judges without skill.

    python -m benchmarks.statistics.system_order

Uses the runs of `benchmarks.cranfield_runs`. Grades are stored in `benchmarks/work/system_order` and reused. The
encoder takes minutes, the LLM ten minutes on two idle cores; an interrupted run resumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.common import WORK, real_data, save_figures
from benchmarks.cranfield_runs.systems import ENCODER, Cranfield, cranfield_systems
from benchmarks.statistics.system_order.judges import (
    LLM,
    LLM_TOPICS,
    Judge,
    dealt,
    embedding_judge,
    encoding_systems,
    llm_judges,
    votes,
)
from benchmarks.statistics.system_order.orders import (
    MEASURE,
    Measured,
    Row,
    card_rows,
    differences,
    graded_cards,
    halves,
    kappa_row,
    order_rows,
    spread_rows,
    tau_difference,
)
from benchmarks.statistics.system_order.pairs import DEPTH, WORDS, Pool, completed, judged_pool, shuffled
from searchlora.cli.terminal import progress_bars
from searchlora.eval.significance import correct
from searchlora.eval.trec import Qrels, Run, ranked, read_run

DEALS = 200


@dataclass(frozen=True)
class Ground:
    """Topics on which judges are compared with people.

    Attributes:
        qrels: All human grades.
        human: Human grades of the pooled pairs, 0 for a pair without one.
        judges: The judges of these topics.
    """

    runs: Mapping[str, Run]
    queries: Mapping[str, str]
    qrels: Qrels
    human: Qrels
    judges: Sequence[Judge]

    @property
    def topics(self) -> int:
        return len(self.human)

    def where(self, systems: Sequence[str]) -> str:
        return f"{self.topics} topics, {len(systems)} systems"


def main() -> None:
    work = WORK / "system_order"
    data = Cranfield(real_data() / "cranfield")
    with progress_bars() as steps:
        paths = cranfield_systems(WORK / "cranfield_runs", steps=steps)
        runs = {name: _top(read_run(path)) for name, path in paths.items()}
        pooled = judged_pool(data.folder, runs)
        human = completed(data.qrels, pooled)
        some = shuffled(list(pooled))[:LLM_TOPICS]
        encoder = embedding_judge(work, data, pooled, human, steps)
        graded, cut = llm_judges(work, data, _only(pooled, some), _only(human, some), steps)
    everywhere = (encoder, votes(pooled, human))
    there = (graded, cut, *(judge.on(some) for judge in everywhere))
    large = Ground(runs, data.queries, data.qrels, human, everywhere)
    small = Ground(runs, data.queries, _only(data.qrels, some), _only(human, some), there)
    _save(large, small, pooled)


def _save(large: Ground, small: Ground, pooled: Pool) -> None:
    free = [name for name in large.runs if name not in encoding_systems()]
    rows = [row for ground in (large, small) for row in _rows(ground, free)]
    comparisons = _comparisons(large, small, free)
    more = {
        "caption": _caption(),
        "pool": {"depth": DEPTH, **_sizes(large, pooled), "words_shown_to_the_llm": WORDS},
        "llm_pairs": sum(map(len, small.human.values())),
        "llm": LLM,
        "encoder": ENCODER,
        "circular": {judge.name: judge.circular(large.queries) for judge in large.judges},
        "thresholds": {
            judge.name: [part.thresholds for part in judge.parts]
            for judge in (*small.judges, *large.judges)
            if judge.parts
        },
        "means": {
            f"{ground.topics} topics": {
                name: _means(Measured.of(ground.runs, qrels))
                for name, qrels in {"people": ground.qrels, **_grades(ground)}.items()
            }
            for ground in (large, small)
        },
        "cards": {
            f"{ground.topics} topics": graded_cards(ground.qrels, ground.human, ground.judges)
            for ground in (large, small)
        },
    }
    save_figures("system_order", rows, comparisons, more, module="statistics.system_order")
    _save_cards(small)


def _save_cards(ground: Ground) -> None:
    """Save the agreement of the judges on the same pairs, with binary relevance."""
    judges = (*ground.judges, dealt(ground.human, seed=0))
    pairs = sum(map(len, ground.human.values()))
    caption = (
        f"pooled pairs of {ground.topics} topics, binary relevance (any grade of people, and of the judge); value and"
        " 95% interval by topic; bias: the judge's share of relevant pairs minus that of people"
    )
    rows, compared = card_rows(ground.human, judges), differences(ground.human, judges)
    save_figures(
        "system_order_cards", rows, compared, {"caption": caption, "pairs": pairs}, module="statistics.system_order"
    )


def _rows(ground: Ground, free: Sequence[str]) -> list[Row]:
    human = Measured.of(ground.runs, ground.qrels)
    sets = (list(ground.runs), free)
    made: list[Row] = []
    for systems in sets:
        label = f"{ground.where(systems)}: people, half of the topics against the other half"
        made += spread_rows(label, halves(human.on(systems)))
    for judge in ground.judges:
        measured = Measured.of(ground.runs, judge.grades)
        kappa = kappa_row(ground.human, judge)
        reasons = judge.circular(ground.queries)
        for systems in sets:
            label = f"{ground.where(systems)}: {judge.name}{_mark(reasons, systems)}"
            rows = order_rows(label, human.on(systems), measured.on(systems))
            made += [{**row, "circular": _within(reasons, systems)} for row in [*rows, {**kappa, "system": label}]]
    for systems in sets:
        label = f"{ground.where(systems)}: permuted grades"
        made += spread_rows(label, _chance(ground, human.on(systems), systems))
        made.append({**kappa_row(ground.human, dealt(ground.human, seed=0)), "system": label})
    return made


def _chance(ground: Ground, human: Measured, systems: Sequence[str]) -> Iterator[tuple[Measured, Measured]]:
    runs = {name: ground.runs[name] for name in systems}
    return ((human, Measured.of(runs, dealt(ground.human, seed=seed).grades)) for seed in range(DEALS))


def _comparisons(large: Ground, small: Ground, free: Sequence[str]) -> list[Row]:
    selected = [
        (large, "embedding", "votes of the runs"),
        (small, "embedding", "votes of the runs"),
        (small, "LLM, answers", "votes of the runs"),
        (small, "LLM, thresholds", "votes of the runs"),
        (small, "LLM, thresholds", "embedding"),
    ]
    found: list[Row] = []
    for ground, a, b in selected:
        human = Measured.of(ground.runs, ground.qrels).on(free)
        sides = [Measured.of(ground.runs, _grades(ground)[name]).on(free) for name in (a, b)]
        difference, low, high, p = tau_difference(human, *sides)
        made = {"a": f"{ground.where(free)}: {a}", "b": b, "measure": "tau", "difference": difference}
        found.append({**made, "low": low, "high": high, "p": p, "n": len(free), "queries": ground.topics})
    corrected = correct([row["p"] for row in found])
    return [{**row, "p_corrected": p} for row, p in zip(found, corrected, strict=True)]


def _caption() -> str:
    return (
        f"systems unless the row names another number. tau, tau-ap: agreement of the order by {MEASURE} under the"
        " judge's grades with that under people's. Value and 95% interval by topic; for halves of the topics, mean and"
        f" middle 95% of 1,000 random halves; for permuted grades, of {DEALS} permutations. kappa_binary: kappa"
        " over the pooled pairs with binary relevance. p from the same resamples, corrected by Holm"
    )


def _mark(reasons: Mapping[str, str], systems: Sequence[str]) -> str:
    count = len(_within(reasons, systems))
    return f" (CIRCULAR for {count})" if count else ""


def _within(reasons: Mapping[str, str], systems: Sequence[str]) -> list[str]:
    return [name for name in systems if name in reasons]


def _sizes(ground: Ground, pooled: Pool) -> dict[str, int]:
    graded = sum(document in ground.qrels[topic] for topic, row in pooled.items() for document in row)
    return {"pairs": sum(map(len, pooled.values())), "graded_by_people": graded}


def _grades(ground: Ground) -> dict[str, Qrels]:
    return {judge.name: judge.grades for judge in ground.judges}


def _means(measured: Measured) -> dict[str, dict[str, float]]:
    return {
        measure: {name: sum(row.values()) / len(row) for name, row in by_system.items()}
        for measure, by_system in measured.by.items()
    }


def _top(run: Run) -> dict[str, dict[str, float]]:
    """The documents that measures and pool use."""
    return {topic: {document: scores[document] for document in ranked(scores)[:DEPTH]} for topic, scores in run.items()}


def _only(rows: Mapping[str, Any], topics: Sequence[str]) -> dict[str, Any]:
    return {topic: rows[topic] for topic in topics}


if __name__ == "__main__":
    main()
