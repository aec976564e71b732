"""An experiment as files: `experiment.json` and `.md`, `per_query.jsonl`, `report.html`, and what a CI reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from searchlora.data.collection import read_documents
from searchlora.eval.comparison import Comparison
from searchlora.eval.formats import read_run
from searchlora.eval.policy import RuleResult
from searchlora.eval.policy.ci import summary_markdown, write_junit
from searchlora.eval.report import SHOWN_DOCUMENTS, Answer, Detail, Found, extremes, write_report
from searchlora.eval.trec import ranked
from searchlora.experiments.experiment import RESULT, Experimented, measured_by
from searchlora.experiments.result_files import header, provenance, write_figures
from searchlora.files import atomic_text


def write(found: Experimented, folder: Path) -> Path:
    """Write all files of an experiment into a folder and return the path of the report."""
    made = header(found.spec.name)
    more = {
        "inputs": dict(found.inputs),
        "measured": measured_by(found.spec),
        "accepted_changes": list(found.accepted),
        "judgments": found.judgments,
        "costs": {name: dict(costs) for name, costs in found.comparison.costs.items()},
        "rules": [dataclasses.asdict(result) for result in found.results],
    }
    report = write_report(
        folder / "report.html",
        found.spec.name,
        found.comparison,
        _details(found),
        {**{f"{label}, sha256": digest for label, digest in found.inputs.items()}, **provenance(made)},
        introduction=_introduction(found),
        rules=found.results,
    )
    write_figures(folder, Path(RESULT).stem, found.comparison, made, more)
    return report


def write_decision(
    title: str,
    comparison: Comparison,
    results: Sequence[RuleResult],
    reason: str = "",
    *,
    junit: Path | None = None,
    summary: Path | None = None,
) -> None:
    """Write the files that a CI asked for.

    Args:
        reason: Of a system put through by force.
    """
    if junit is not None:
        write_junit(junit, title, results)
    if summary is not None:
        with atomic_text(summary) as out:
            out.write(summary_markdown(title, comparison, results, reason))


def _introduction(found: Experimented) -> str:
    said = f"{len(found.runs)} systems on {len(found.qrels)} judged topics; the judgments are {found.judgments}."
    if found.accepted:
        said += f" Against the earlier result, these changes were accepted: {'; '.join(found.accepted)}."
    return said


def _details(found: Experimented) -> Mapping[str, Detail]:
    """The texts of the topics that the report shows: the biggest wins and losses of each headline pair."""
    comparison = found.comparison
    shown = set()
    for a, b in comparison.main_pairs:
        for topics in extremes(comparison, a, b):
            shown.update(topics)
    firsts: dict[str, dict[str, list[str]]] = {topic: {} for topic in shown}
    for name, run in found.runs.items():
        scores = read_run(run.source.path, run.source.format)
        for topic in shown:
            firsts[topic][name] = ranked(scores.get(topic, {}))[:SHOWN_DOCUMENTS]
    wanted = {document for systems in firsts.values() for documents in systems.values() for document in documents}
    titles = _titles(found, wanted)
    return {
        topic: Detail(
            str(found.topics[topic]["query"]),
            {
                name: Answer(
                    "", tuple(Found(each, titles.get(each, ""), found.qrels[topic].get(each)) for each in documents)
                )
                for name, documents in systems.items()
            },
        )
        for topic, systems in firsts.items()
    }


def _titles(found: Experimented, wanted: set[str]) -> dict[str, str]:
    if found.spec.corpus is None:
        return {}
    documents = (document for document in read_documents(found.spec.corpus) if document.id in wanted)
    return {document.id: document.title or document.text[:80] for document in documents}
