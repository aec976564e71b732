"""Judge cards from files: qrels of people and of judges, with what the cards beside them say of their lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from searchlora.errors import UsageError
from searchlora.eval.calibration import CurvePoint, grade_curve
from searchlora.eval.files import atomic_text, file_sha256
from searchlora.eval.formats import read_qrels, read_run, read_topics
from searchlora.eval.formatting import to_plain, write_json
from searchlora.eval.judge.card import JudgeCard, cards_markdown, judge_card, to_json
from searchlora.eval.judge.comparison import JudgeComparison, compare_judges
from searchlora.eval.judge.labels import Labels, check_of_people, read_labels
from searchlora.eval.judge.stability import stability
from searchlora.eval.judge.system_order import order_of_runs
from searchlora.eval.judgments.card import invalid_path, read_card
from searchlora.eval.judgments.lineage import RunLineage, circular, doubts, read_lineage
from searchlora.eval.report.judge_card import judge_name, write_judge_card
from searchlora.eval.trec import Qrels

Files = Mapping[str, str | Path]

#: The name under which the lineage check knows the figures of agreement, where runs have theirs.
_AGREEMENT = "the agreement with people"


@dataclass(frozen=True)
class JudgeCards:
    """Cards of judges that were held against the same people.

    Attributes:
        cards: In the order of the judges given.
        comparison: Of every two judges; None for one judge.
        curves: Judge -> what people said where it gave each grade.
        inputs: Each file read -> its sha256.
    """

    cards: tuple[JudgeCard, ...]
    comparison: JudgeComparison | None
    curves: Mapping[str, Sequence[CurvePoint]]
    inputs: Mapping[str, str]


def judge_cards(
    human: str | Path,
    judges: Files,
    *,
    scale: Sequence[int] = (0, 1, 2, 3),
    relevant: int = 2,
    raters: Files | None = None,
    variants: Mapping[str, Sequence[str | Path]] | None = None,
    runs: Files | None = None,
    measure: str = "nDCG@10",
    top: int = 5,
    topics: str | Path | None = None,
    allow_circular: bool = False,
    correction: str = "holm",
    resamples: int = 10_000,
    seed: int = 0,
) -> JudgeCards:
    """A card of each judge and, where there are several, which of them differ.

    Args:
        human: Qrels of people.
        judges: name -> qrels; answers that were no grade are read from `<file>.invalid.jsonl` (`read_labels`).
        raters: name -> qrels of each person.
        variants: Judge -> more files with its labels of the same pairs, asked in another way.
        runs: name -> run; their order under both sets of grades is compared by `measure`, and among the best `top`.
        topics: The topics with their queries, to see whether a judge was trained on them.
        allow_circular: Make the card of a judge that was trained on the topics or works in a run, marked as circular.

    Raises:
        UsageError: for a circular judge that is not allowed, variants of a judge that there is not, and what
            `judge_card`, `compare_judges` and `order_of_runs` refuse.
        DataError: for a file that cannot be read, or qrels of people whose card says that they are not.
    """
    for path in (human, *(raters or {}).values()):
        check_of_people(path)
    asked = variants or {}
    if unknown := sorted(asked.keys() - judges.keys()):
        raise UsageError(f"there is no judge '{unknown[0]}' to be a variant of", fix=f"Judges: {', '.join(judges)}.")
    people = read_qrels(human)
    labels = {name: read_labels(path) for name, path in judges.items()}
    queries = {topic: str(each["query"]) for topic, each in read_topics(topics).items()} if topics else None
    lineage = {name: read_lineage(path) for name, path in (runs or {}).items()}
    found = {name: read_run(path) for name, path in (runs or {}).items()}
    of_people = {name: read_qrels(path) for name, path in (raters or {}).items()}
    cards = []
    for name, path in judges.items():
        reasons, notes = _checked(name, path, lineage, queries, people, allow_circular)
        ways = {name: labels[name], **_variants(name, asked.get(name, ()))}
        order = order_of_runs(
            people, labels[name], found, measure=measure, scale=scale, top=top, resamples=resamples, seed=seed
        ) if found else None  # fmt: skip
        cards.append(
            judge_card(
                people,
                labels[name],
                name=name,
                scale=scale,
                relevant=relevant,
                raters=of_people or None,
                order=order,
                stability=stability(ways, scale=scale, resamples=resamples, seed=seed) if len(ways) > 1 else None,
                circular=reasons,
                notes=notes,
                resamples=resamples,
                seed=seed,
            )
        )
    comparison = compare_judges(
        people, labels, scale=scale, relevant=relevant, correction=correction, resamples=resamples, seed=seed
    ) if len(labels) > 1 else None  # fmt: skip
    judged = [*judges.values(), *(file for others in asked.values() for file in others)]
    failed = [path for path in map(invalid_path, judged) if path.exists()]
    of_others = [*(raters or {}).values(), *(runs or {}).values()]
    files = [human, *judged, *failed, *of_others, *([topics] if topics else [])]
    curves = {name: _curve(people, of_judge, scale, seed) for name, of_judge in labels.items()}
    return JudgeCards(tuple(cards), comparison, curves, {str(path): file_sha256(path) for path in files})


def write(found: JudgeCards, folder: str | Path) -> tuple[Path, Path, Path]:
    """Write `judge_card.json`, `.md` and `.html` into the folder; returns their paths. Raises `DataError`."""
    as_json, as_text, as_page = (Path(folder) / f"judge_card.{kind}" for kind in ("json", "md", "html"))
    write_json(as_json, cards_json(found))
    with atomic_text(as_text) as out:
        out.write(cards_markdown(found.cards, found.comparison))
    write_judge_card(
        as_page,
        "Judge cards" if len(found.cards) > 1 else f"Judge card of {judge_name(found.cards[0])}",
        found.cards,
        {path: f"sha256 {digest}" for path, digest in found.inputs.items()},
        comparison=found.comparison,
        curves=found.curves,
    )
    return as_json, as_text, as_page


def cards_json(found: JudgeCards) -> dict[str, Any]:
    """What `judge_card.json` holds: `cards` (`card.to_json`), `comparison`, `calibration` (`curves`), `inputs`."""
    return {
        "cards": [to_json(card) for card in found.cards],
        "comparison": asdict(found.comparison) if found.comparison else None,
        "calibration": {name: [to_plain(asdict(point)) for point in points] for name, points in found.curves.items()},
        "inputs": dict(found.inputs),
    }


def _variants(judge: str, files: Sequence[str | Path]) -> dict[str, Labels]:
    """Name -> labels: the file's name, or its path where that is another variant's too."""
    names = [Path(file).name for file in files]
    if len({judge, *names}) <= len(names):
        names = [str(file) for file in files]
    if len({judge, *names}) <= len(names):
        raise UsageError("a file is given twice as a variant", where=f"judge {judge}")
    return {name: read_labels(file) for name, file in zip(names, files, strict=True)}


def _curve(human: Qrels, labels: Labels, scale: Sequence[int], seed: int) -> Sequence[CurvePoint]:
    """Of the answers that are grades; none where no pair has one."""
    graded = {
        topic: {document: float(grade) for document, grade in row.items() if grade is not None and grade in scale}
        for topic, row in labels.items()
    }
    shared = any(document in graded.get(topic, {}) for topic, row in human.items() for document in row)
    return grade_curve(human, graded, seed=seed) if shared else ()


def _checked(
    name: str,
    path: str | Path,
    runs: Mapping[str, RunLineage | None],
    queries: Mapping[str, str] | None,
    human: Mapping[str, object],
    allow: bool,
) -> tuple[list[str], list[str]]:
    """Why the card of a judge is circular, and what could not be looked into."""
    card = read_card(path)
    asked = {topic: query for topic, query in (queries or {}).items() if topic in human}
    systems = {_AGREEMENT: RunLineage(()), **runs}
    found = circular(card, systems, asked)
    # Training topics concern the agreement and every run alike: once is enough.
    reasons = list(dict.fromkeys(found.values()))
    if reasons and not allow:
        raise UsageError(
            f"the card would be circular: {reasons[0]}",
            where=f"judge {name}",
            fix="Hold the judge against other topics and runs, or say that a circular card is wanted.",
        )
    notes = list(doubts(card, systems))
    if card is not None and card.judge_queries and queries is None:
        notes.append("Whether the judge was trained on these topics was not looked into, for want of their queries.")
    return reasons, notes
