"""Result files of an evaluation: JSON, Markdown, per-query JSONL, runs, and HTML report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from searchlora.adapters.stored import StoredAdapter
from searchlora.eval.policy import RuleResult
from searchlora.eval.report.comparison import write_report
from searchlora.eval.report.examples import SHOWN_DOCUMENTS, RetrievedDocument, RowTexts, SystemOutput
from searchlora.eval.tables import Header
from searchlora.eval.trec import write_run
from searchlora.experiments.evaluate import EvaluationResult
from searchlora.experiments.result_files import file_name, header, provenance, shown_rows, titles, write_figures
from searchlora.outputs import CitedAnswer, Grade, Graded, InvalidOutput, Label, OutputSpec
from searchlora.prompts import input_text
from searchlora.records import Record
from searchlora.systems.system import BASE
from searchlora.task import EncoderTask, GenerationTask, Task

_Shown = TypeVar("_Shown")


def write(evaluated: EvaluationResult, folder: Path, *, rules: Sequence[RuleResult] = (), forced: str = "") -> Path:
    """Write all result files of an evaluation to a folder; returns the path of the HTML report.

    Args:
        rules: The results of a promotion policy's rules.
        forced: The reason of a promotion that was forced against the policy.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = header(evaluated.adapter.reference)
    write_figures(folder, "evaluation", evaluated.comparison, about, {"engines": list(evaluated.engines)})
    for name, system in evaluated.systems.items():
        if system.raw.run is not None:
            file = file_name(name)
            write_run(folder / "runs" / f"{file}.trec", system.raw.run, file)
    return write_report(
        folder / "report.html",
        f"Evaluation of {evaluated.adapter.reference}",
        evaluated.comparison,
        _details(evaluated),
        _provenance(evaluated, about),
        introduction=(
            f"Comparison of the adapter with its base model and with baselines on the {len(evaluated.records)} records "
            f"of the split '{evaluated.split}'."
        ),
        rules=rules,
        forced=forced,
        confusions=_titled(evaluated, {name: each.evaluation.confusions for name, each in evaluated.systems.items()}),
        curves=_titled(evaluated, {name: each.evaluation.curves for name, each in evaluated.systems.items()}),
        base=BASE,
    )


def _titled(evaluated: EvaluationResult, of_system: Mapping[str, Mapping[str, _Shown]]) -> dict[str, _Shown]:
    """Curves or confusion matrices of the adapter and its base, by title and system."""
    shown = [evaluated.adapter.reference, BASE]
    titles = dict.fromkeys(title for name in shown for title in of_system.get(name, {}))
    return {
        f"{title}: {evaluated.comparison.label(name)}": of_system[name][title]
        for title in titles
        for name in shown
        if title in of_system.get(name, {})
    }


def _provenance(evaluated: EvaluationResult, about: Header) -> dict[str, str]:
    manifest = evaluated.adapter.manifest
    card = evaluated.dataset.card
    judgments = evaluated.judgments
    return {
        "Adapters": "\n".join(map(_weight_hashes, evaluated.adapters)),
        "Base": f"{manifest.base.name}, tensors sha256 {manifest.base.fingerprint.tensors}",
        "Dataset": f"{card.source['name']} ({card.format}), split {evaluated.split}, "
        f"sha256 {evaluated.dataset.fingerprint}",
        **(
            {"Data with these judgments": f"sha256 {judgments.data}"}
            if judgments.data != evaluated.dataset.fingerprint
            else {}
        ),
        "Judgments": str(judgments),
        **({"Baselines learned from": f"sha256 {other.fingerprint}"} if (other := evaluated.learned.other) else {}),
        **({"Engine": "\n".join(evaluated.engines)} if evaluated.engines else {}),
        **provenance(about),
    }


def _weight_hashes(adapter: StoredAdapter) -> str:
    files = (f"{name} sha256 {digest}" for name, digest in sorted(adapter.manifest.files.items()))
    return "\n".join([f"{adapter.reference}, stored {adapter.manifest.created}", *files])


def _details(evaluated: EvaluationResult) -> dict[str, RowTexts]:
    """The records that the report shows: the largest wins and losses of each main pair of systems."""
    comparison = evaluated.comparison
    shown = shown_rows(comparison)
    documents = titles(evaluated.dataset.documents() or ())
    qrels = evaluated.judgments.qrels or {}
    own_tasks = {adapter.reference: evaluated.task.bound(adapter.manifest.settings) for adapter in evaluated.adapters}
    details = {}
    for index, record in enumerate(evaluated.records):
        row = str(record["id"])
        if row not in shown:
            continue
        answers = {
            name: SystemOutput(
                _output_text(system.outputs[index], _output_spec(own_tasks.get(name, evaluated.task), record)),
                _top_hits((system.raw.run or {}).get(row, {}), documents, qrels.get(row, {})),
            )
            for name, system in evaluated.systems.items()
        }
        details[row] = RowTexts(input_text(evaluated.task, record), answers, _expected(evaluated.task, record))
    return details


def _expected(task: GenerationTask | EncoderTask, record: Record) -> str:
    return "" if isinstance(task, GenerationTask) and not task.has_target(record) else task.target(record)


def _output_spec(task: Task, record: Record) -> OutputSpec | None:
    return task.output(record) if isinstance(task, GenerationTask) else None


def _output_text(output: Any, spec: OutputSpec | None) -> str:
    """An output as text: the text itself, a label or grade with its probability, or JSON; "" without an output."""
    if output is None:
        return ""
    if isinstance(output, InvalidOutput):
        return output.raw
    if isinstance(output, CitedAnswer):
        scored = output.abstention_probability
        return output.text if scored is None else f"{output.text} (abstention probability {scored:.2f})"
    if isinstance(output, Label | Grade):
        choices = spec.choices or () if spec is not None else ()
        values = tuple(spec.scale.values()) if isinstance(spec, Graded) else choices
        # Two labels of a scale may have the same grade.
        probabilities = [
            p for value, p in zip(values, output.probabilities or (), strict=False) if value == output.value
        ]
        text = f"{output.value} (probability {sum(probabilities):.2f})" if probabilities else str(output.value)
        return f"{text}: {output.reason}" if isinstance(output, Grade) and output.reason else text
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


def _top_hits(
    scores: Mapping[str, float], documents: Mapping[str, str], grades: Mapping[str, int]
) -> tuple[RetrievedDocument, ...]:
    hits = list(scores)[:SHOWN_DOCUMENTS]
    return tuple(RetrievedDocument(document, documents.get(document, ""), grades.get(document)) for document in hits)
