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
from searchlora.eval.report.comparison import write_report
from searchlora.eval.report.examples import SHOWN_DOCUMENTS, RetrievedDocument, RowTexts, SystemOutput
from searchlora.eval.trec import ranked
from searchlora.experiments.experiment import RESULT, ExperimentResult
from searchlora.experiments.experiment_inputs import measured_by
from searchlora.experiments.result_files import header, provenance, shown_rows, titles, write_figures
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
    hits: dict[str, dict[str, list[str]]] = {topic: {} for topic in shown_rows(result.comparison)}
    for name in result.systems:
        scores = read_run(result.runs[name].path, result.runs[name].format)
        for topic, of_topic in hits.items():
            of_topic[name] = ranked(scores.get(topic, {}))[:SHOWN_DOCUMENTS]
    shown = {document for of_topic in hits.values() for documents in of_topic.values() for document in documents}
    source = result.spec.documents
    title_of = {} if source is None else titles(one for one in read_documents(source) if one.id in shown)

    def output(topic: str, documents: Sequence[str]) -> SystemOutput:
        grades = result.topics.qrels[topic]
        return SystemOutput(
            "", tuple(RetrievedDocument(one, title_of.get(one, ""), grades.get(one)) for one in documents)
        )

    return {
        topic: RowTexts(
            str(result.topics.fields[topic]["query"]),
            {name: output(topic, documents) for name, documents in of_topic.items()},
        )
        for topic, of_topic in hits.items()
    }
