"""Result files of an experiment: JSON, Markdown, per-query JSONL, HTML report, and files for CI."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from searchlora.data.collection import read_documents
from searchlora.eval.ci import summary_markdown, write_junit
from searchlora.eval.comparison import Comparison
from searchlora.eval.formats import read_run
from searchlora.eval.policy import RuleResult
from searchlora.eval.report import SHOWN_DOCUMENTS, RetrievedDocument, RowTexts, SystemOutput, extremes, write_report
from searchlora.eval.trec import ranked
from searchlora.experiments.experiment import RESULT, ExperimentResult
from searchlora.experiments.experiment_inputs import measured_by
from searchlora.experiments.result_files import header, provenance, write_figures
from searchlora.files import atomic_text


def write(result: ExperimentResult, folder: Path) -> Path:
    """Write all result files of an experiment to a folder; returns the path of the HTML report."""
    about = header(result.spec.name)
    more = {
        "inputs": dict(result.inputs),
        "measured": measured_by(result.spec),
        "accepted_changes": list(result.accepted),
        "judgments": result.topics.graded.source,
        "judgments by source": dict(result.topics.graded.counts),
        "costs": {name: dict(costs) for name, costs in result.comparison.costs.items()},
        "rules": [dataclasses.asdict(rule) for rule in result.results],
    }
    report = write_report(
        folder / "report.html",
        result.spec.name,
        result.comparison,
        details(result),
        {**{f"{label}, sha256": digest for label, digest in result.inputs.items()}, **provenance(about)},
        introduction=_introduction(result),
        rules=result.results,
    )
    write_figures(folder, Path(RESULT).stem, result.comparison, about, more)
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
    """Write the files for continuous integration.

    Args:
        title: Heading of the summary.
        results: The results of a policy's rules.
        reason: The reason of a forced promotion.
        junit: Path of a JUnit XML file.
        summary: Path of a Markdown summary.
    """
    if junit is not None:
        write_junit(junit, title, results)
    if summary is not None:
        with atomic_text(summary) as out:
            out.write(summary_markdown(title, comparison, results, reason))


def _introduction(result: ExperimentResult) -> str:
    text = f"{len(result.systems)} systems on {len(result.topics.qrels)} judged topics; the judgments are "
    text += f"{result.topics.graded.source} ({result.topics.graded})."
    if result.accepted:
        text += f" Against the earlier result, these changes were accepted: {'; '.join(result.accepted)}."
    return text


def details(result: ExperimentResult) -> Mapping[str, RowTexts]:
    """Topic -> its texts, of the topics that the report shows: the largest wins and losses of each main pair."""
    comparison = result.comparison
    shown = set()
    for a, b in comparison.main_pairs:
        for topics in extremes(comparison, a, b):
            shown.update(topics)
    top_documents: dict[str, dict[str, list[str]]] = {topic: {} for topic in shown}
    for name in result.systems:
        scores = read_run(result.runs[name].path, result.runs[name].format)
        for topic in shown:
            top_documents[topic][name] = ranked(scores.get(topic, {}))[:SHOWN_DOCUMENTS]
    shown_documents = {
        document for systems in top_documents.values() for documents in systems.values() for document in documents
    }
    titles = _titles(result, shown_documents)
    return {
        topic: RowTexts(
            str(result.topics.fields[topic]["query"]),
            {
                name: SystemOutput(
                    "",
                    tuple(
                        RetrievedDocument(document, titles.get(document, ""), result.topics.qrels[topic].get(document))
                        for document in documents
                    ),
                )
                for name, documents in systems.items()
            },
        )
        for topic, systems in top_documents.items()
    }


def _titles(result: ExperimentResult, documents_shown: set[str]) -> dict[str, str]:
    if result.spec.documents is None:
        return {}
    documents = (document for document in read_documents(result.spec.documents) if document.id in documents_shown)
    return {document.id: document.title or document.text[:80] for document in documents}
