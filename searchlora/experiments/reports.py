"""Result files of evaluations, experiments and ablations: JSON, Markdown, JSONL per query, and a report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from searchlora.adapters.stored import StoredAdapter
from searchlora.data.collection import read_documents
from searchlora.eval.ci import summary_markdown, write_junit
from searchlora.eval.comparison import Comparison
from searchlora.eval.formats import read_run
from searchlora.eval.policy import RuleResult
from searchlora.eval.report.ablation import SlotLine, slots_section
from searchlora.eval.report.blocks import Section, markdown
from searchlora.eval.report.comparison import write_report
from searchlora.eval.report.examples import SHOWN_DOCUMENTS, RetrievedDocument, RowTexts, SystemOutput, extremes
from searchlora.eval.trec import ranked, write_run
from searchlora.experiments.ablation_result import Ablation
from searchlora.experiments.evaluation_result import EvaluationResult
from searchlora.experiments.experiment_inputs import measured_by
from searchlora.experiments.experiment_result import RESULT, ExperimentResult
from searchlora.experiments.result_files import header, provenance, write_figures
from searchlora.experiments.spec import file_name
from searchlora.files import atomic_text
from searchlora.outputs import CitedAnswer, Grade, Graded, InvalidOutput, Label, OutputSpec
from searchlora.pipelines.slots import FULL
from searchlora.prompts import input_text
from searchlora.records import Document, Record
from searchlora.systems.system import BASE
from searchlora.task import EncoderTask, GenerationTask, Task

_Shown = TypeVar("_Shown")


def _write(
    folder: Path,
    stem: str,
    name: str,
    comparison: Comparison,
    details: Mapping[str, RowTexts],
    inputs: Mapping[str, str],
    more: Mapping[str, Any],
    *,
    title: str,
    head: str = "",
    **shown: Any,
) -> Path:
    """Write `stem.json`, `stem.md`, `per_query.jsonl` and `report.html`; returns the path of the report."""
    about = header(name)
    write_figures(folder, stem, comparison, about, more, head=head)
    provided = {**inputs, **provenance(about)}
    return write_report(folder / "report.html", title, comparison, details, provided, **shown)


def _shown_rows(comparison: Comparison) -> set[str]:
    """The rows that a report shows: the largest wins and losses of each main pair of systems."""
    return {row for a, b in comparison.main_pairs for rows in extremes(comparison, a, b) for row in rows}


def _titles(documents: Iterable[Document]) -> dict[str, str]:
    """Document -> its title, or the beginning of its text."""
    return {document.id: document.title or document.text[:80] for document in documents}


# Evaluations


def write_evaluation(
    evaluated: EvaluationResult, folder: Path, *, rules: Sequence[RuleResult] = (), forced: str = ""
) -> Path:
    """Write all result files of an evaluation, and the runs; returns the path of the HTML report."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, system in evaluated.systems.items():
        if system.raw.run is not None:
            file = file_name(name)
            write_run(folder / "runs" / f"{file}.trec", system.raw.run, file)
    return _write(
        folder,
        "evaluation",
        evaluated.adapter.reference,
        evaluated.comparison,
        _evaluation_details(evaluated),
        _evaluation_inputs(evaluated),
        {"engines": list(evaluated.engines)},
        title=f"Evaluation of {evaluated.adapter.reference}",
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


def _evaluation_inputs(evaluated: EvaluationResult) -> dict[str, str]:
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
    }


def _weight_hashes(adapter: StoredAdapter) -> str:
    files = (f"{name} sha256 {digest}" for name, digest in sorted(adapter.manifest.files.items()))
    return "\n".join([f"{adapter.reference}, stored {adapter.manifest.created}", *files])


def _evaluation_details(evaluated: EvaluationResult) -> dict[str, RowTexts]:
    """The records that the report shows: the largest wins and losses of each main pair of systems."""
    comparison = evaluated.comparison
    shown = _shown_rows(comparison)
    documents = _titles(evaluated.dataset.documents() or ())
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


# Experiments


def write_experiment(result: ExperimentResult, folder: Path) -> Path:
    """Write all result files of an experiment; returns the path of the HTML report."""
    introduction = f"{len(result.systems)} systems on {_judged(result)}"
    if result.accepted:
        changed = "; ".join(result.accepted)
        introduction += f" Against the earlier result, these changes were accepted: {changed}."
    return _write(
        folder,
        Path(RESULT).stem,
        result.spec.name,
        result.comparison,
        _experiment_details(result),
        _experiment_inputs(result),
        {
            **_experiment_about(result),
            "accepted_changes": list(result.accepted),
            "costs": {name: dict(costs) for name, costs in result.comparison.costs.items()},
            "rules": [dataclasses.asdict(rule) for rule in result.results],
        },
        title=result.spec.name,
        introduction=introduction,
        rules=result.results,
    )


def _judged(result: ExperimentResult) -> str:
    graded = result.topics.graded
    return f"{len(result.topics.qrels)} judged topics; the judgments are {graded.source} ({graded})."


def _experiment_inputs(result: ExperimentResult) -> dict[str, str]:
    return {f"{label}, sha256": digest for label, digest in result.inputs.items()}


def _experiment_about(result: ExperimentResult) -> dict[str, Any]:
    return {
        "inputs": dict(result.inputs),
        "measured": measured_by(result.spec),
        "judgments": result.topics.graded.source,
        "judgments by source": dict(result.topics.graded.counts),
    }


def _experiment_details(result: ExperimentResult) -> Mapping[str, RowTexts]:
    """Topic -> its texts, of the topics that the report shows: the largest wins and losses of each main pair."""
    hits: dict[str, dict[str, list[str]]] = {topic: {} for topic in _shown_rows(result.comparison)}
    for name in result.systems:
        scores = read_run(result.runs[name].path, result.runs[name].format)
        for topic, of_topic in hits.items():
            of_topic[name] = ranked(scores.get(topic, {}))[:SHOWN_DOCUMENTS]
    shown = {document for of_topic in hits.values() for documents in of_topic.values() for document in documents}
    source = result.spec.documents
    title_of = {} if source is None else _titles(one for one in read_documents(source) if one.id in shown)

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


def write_decision(
    title: str,
    comparison: Comparison,
    results: Sequence[RuleResult],
    reason: str = "",
    *,
    junit: Path | None = None,
    summary: Path | None = None,
) -> None:
    """Write the results of a policy's rules as JUnit XML and as a Markdown summary, for continuous integration."""
    if junit is not None:
        write_junit(junit, title, results)
    if summary is not None:
        with atomic_text(summary) as out:
            out.write(summary_markdown(title, comparison, results, reason))


# Ablations


def write_ablation(ablation: Ablation, folder: Path) -> Path:
    """Write all result files of an ablation; returns the path of the HTML report."""
    experimented = ablation.experimented
    figures = ablation_json(ablation)
    return _write(
        folder,
        "ablation",
        experimented.spec.name,
        ablation.comparison,
        _experiment_details(experimented),
        _experiment_inputs(experimented),
        {
            **_experiment_about(experimented),
            "variants": [
                {
                    "name": variant.name,
                    "kind": variant.kind,
                    "slots": list(variant.slots),
                    "stages": [
                        {stage.kind: stage.model_dump(mode="json", exclude_defaults=True)} for stage in variant.stages
                    ],
                }
                for variant in ablation.variants
            ],
            "slots": figures["slots"],
            "left_out": figures["left_out"],
        },
        title=f"Ablation of {experimented.spec.name}",
        head=ablation_markdown(ablation),
        introduction=(
            f"The pipeline {experimented.spec.name} and {len(ablation.variants) - 1} variants of it on "
            f"{_judged(experimented)}"
        ),
        base=FULL,
        first=[_slots(ablation)],
    )


def ablation_json(ablation: Ablation) -> dict[str, Any]:
    """What each slot brings and costs, as JSON."""
    lines = []
    for line in _slot_lines(ablation):
        pair = line.pair(ablation.comparison)
        row = ablation.comparison.row(line.system, ablation.comparison.measures[0])
        compared = (
            {}
            if pair is None
            else {key: vars(pair)[key] for key in ("difference", "low", "high", "p", "p_corrected", "n")}
        )
        known = {"slot": line.slot, "in_its_place": line.shown, "system": line.system}
        lines.append({**known, "value": row.value, **compared, "costs": dict(line.costs)})
    return {
        "measure": ablation.comparison.measures[0],
        "slots": lines,
        "left_out": dict(ablation.left_out),
    }


def ablation_markdown(ablation: Ablation) -> str:
    """The table of slots."""
    return markdown([_slots(ablation)]).rstrip()


def _slots(ablation: Ablation) -> Section:
    return slots_section(ablation.comparison, list(_slot_lines(ablation)))


def _slot_lines(ablation: Ablation) -> Iterator[SlotLine]:
    """For each slot, a line for the slot as it is, and one for each thing in its place."""
    for slot in ablation.slots:
        own = ablation.costs.get(FULL, {}).get(slot.name, {})
        yield SlotLine(slot.name, slot.adapter or "as it is", FULL, own)
        for variant in ablation.variants:
            if variant.slots == (slot.name,):
                replaced = ablation.costs.get(variant.name, {}).get(slot.name, {})
                costs = dict.fromkeys(own, 0.0) if variant.kind == "off" else replaced
                yield SlotLine(slot.name, variant.shown, variant.name, costs)
