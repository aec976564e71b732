"""The command `data label`: a teacher writes the targets of rows, as a source from which a dataset is built.

A teacher is an adapter, a bare base, or a model of a service. What it writes is parsed as strictly as any output.
Rows whose output does not parse are listed and left out. The card beside the rows names the teacher, so that a student
has it among its ancestors: no judge grades itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.data.validation import RecordCheck
from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.card import JudgmentsCard, card_first, check_new, finished_card
from searchlora.experiments.row_sample import RowSample
from searchlora.experiments.sharding import WHOLE, Sharding, run_shards
from searchlora.experiments.task_model import TaskModel, load_task_model
from searchlora.files import FieldMap, atomic_text, check_writable, file_sha256, mapped, parse_json, read_rows
from searchlora.files.result_cache import cache_key
from searchlora.files.shards import Job, Parts, Shard
from searchlora.inference.metered import MeteredEngine
from searchlora.inference.settings import EngineSettings
from searchlora.outputs import Graded, InvalidOutput, to_json
from searchlora.progress import Progress, Steps, no_progress
from searchlora.prompts import messages
from searchlora.records import Record, RejectedRow
from searchlora.task import COMPLETION, GenerationTask

#: Rows that are labelled together and then written; an engine with larger calls gets more.
BATCH_SIZE = 32

#: Different outputs that are counted one by one.
_KINDS = 100

_MILLION = 1_000_000


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost, in any currency."""

    prompt: float = 0.0
    output: float = 0.0

    def of(self, prompt_tokens: float, output_tokens: float) -> float:
        """The cost of tokens.

        Examples:
            >>> Prices(prompt=0.5, output=2.0).of(1_000_000, 250_000)
            1.0
        """
        return (self.prompt * prompt_tokens + self.output * output_tokens) / _MILLION


@dataclass(frozen=True)
class LabelResult:
    """Result of `label`."""

    card: JudgmentsCard
    labelled: int
    invalid: int
    outputs: Mapping[str, int]  # label, grade or other short output -> number of rows; empty for texts
    prompt_tokens: int | None
    output_tokens: int | None
    cost: float | None  # by the given prices; None where it is unknown


def label(
    task: str,
    rows: str | Path,
    out: str | Path,
    *,
    adapter: str | None = None,
    base: str | None = None,
    teacher: str | None = None,
    settings: str | Path | None = None,
    generate: bool = False,
    fields: FieldMap | None = None,
    sample: RowSample | None = None,
    prices: Prices = Prices(),
    engine: EngineSettings | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    sharding: Sharding = WHOLE,
    steps: Steps = no_progress,
) -> LabelResult | None:
    """Let a teacher label rows, and write them as records of the task, for `data build` with the format `native`.

    A killed run resumes when it is started again.

    `fields`: Field -> its columns in `rows`; None: columns are named like the fields. Returns the result; None for a
    shard alone, whose rows `merge_labels` joins with those of the others.
    """
    target = Path(out)
    if target.suffix != ".jsonl":
        raise UsageError("labelled rows are written as JSONL", where=str(target), fix="Name it *.jsonl.")
    check_new(target)
    check_writable(target)
    model = {"adapter": adapter, "base": base, "teacher": teacher, "task": task, "settings": settings}
    work = partial(
        _label_shard,
        rows=Path(rows),
        out=target,
        fields=fields or {},
        sample=sample,
        prices=prices,
        model={**model, "generate": generate, "engine": engine, "store": Store.of(store), "tasks": tasks},
    )
    if not run_shards(work, sharding, Parts.beside(target), steps("Labelling")):
        return None
    return merge_labels(target)


def _label_shard(
    shard: Shard,
    progress: Progress,
    *,
    rows: Path,
    out: Path,
    fields: FieldMap,
    sample: RowSample | None,
    prices: Prices,
    model: Mapping[str, Any],
) -> None:
    """Label the rows of one shard, in this process."""
    parts = Parts.beside(out)
    loaded = load_task_model(**model, check=_check_targets)
    records = _records(rows, loaded.task, fields, sample)
    for record in records:  # an error in the last row is found before the first is paid
        try:
            messages(loaded.task, record)
        except KeyError as error:
            raise DataError(
                f"the field {error} is missing",
                where=f"{rows.name}, {record['id']}",
                fix="Say which column holds it, as --map FIELD=COLUMN.",
            ) from None
    spec = loaded.task.output(records[0])
    grades = isinstance(spec, Graded) and not spec.reasoned
    if model["teacher"] is not None and not grades:
        # Labels often begin alike, and the first token is all that a service tells.
        loaded = replace(loaded, generate=True)
    card = asdict(loaded.card({rows.name: file_sha256(rows)}))
    about = {"kind": "label", "card": card, "prices": [prices.prompt, prices.output]}
    key: dict[str, Any] = {**loaded.key, "rows": None}
    if sample is not None:
        key["rows"] = cache_key([record["id"] for record in records])
    batch = max(BATCH_SIZE, loaded.engine.call_size)
    job = Job(key, records, partial(_labelled, loaded), batch, about=about)
    parts.compute(job, shard, progress, len(records))


def _check_targets(task: GenerationTask) -> None:
    if type(task).labelled is GenerationTask.labelled:
        task.labelled({}, None)  # raises


def _records(file: Path, task: GenerationTask, columns: FieldMap, sample: RowSample | None) -> list[Record]:
    """The rows as records, each with an id. Raises `DataError` for a row that cannot be read or asked about, or no row.

    Fields without a value are left out, and a table's cells with a list or an object are read as JSON.
    """
    records: list[Record] = []
    fields = {name: task.record_schema.get("properties", {}).get(name, {}) for name in task.reads}
    check = RecordCheck({"$defs": task.record_schema.get("$defs", {}), "properties": fields})
    for number, row in enumerate(read_rows(file), 1):
        if isinstance(row, RejectedRow):
            raise DataError(row.reason, where=row.where)
        data = mapped(row.data, columns)
        record = {"id": f"row-{number}", **{name: value for name, value in data.items() if value is not None}}
        for name, schema in fields.items():
            if schema.get("type") in ("array", "object") and isinstance(text := record.get(name), str):
                try:
                    record[name] = parse_json(text)
                except ValueError:
                    raise DataError(f"field '{name}': is not JSON", where=row.where) from None
        if fault := check.fault(record):
            raise DataError(fault, where=row.where)
        records.append({**record, "id": str(record["id"])})
    if not records:
        raise DataError("holds no rows", where=str(file))
    return records if sample is None else [records[row] for row in sample.choose(records, task)]


def _labelled(model: TaskModel, rows: Sequence[Record]) -> list[dict[str, Any]]:
    """What is written of rows; the first one of a batch holds the tokens of all, None if they are not known."""
    meter = MeteredEngine(model.engine)
    outputs = model.ask(rows, meter)
    tokens = None if meter.uncounted else (meter.prompt_tokens, meter.output_tokens)
    written = []
    for number, (row, output) in enumerate(zip(rows, outputs, strict=True)):
        prompt = [dict(message) for message in messages(model.task, row)]
        about: dict[str, Any] = {"id": row["id"], "prompt": prompt, "tokens": tokens if number == 0 else (0, 0)}
        if number == 0 and model.served:
            about["served"] = sorted(model.served)
        if isinstance(output, InvalidOutput):
            written.append({**about, "invalid": {"raw": output.raw, "reason": output.reason}})
        else:
            record = model.task.labelled({key: value for key, value in row.items() if key != COMPLETION}, output)
            written.append({**about, "record": record, "output": to_json(output)})
    return written


def merge_labels(out: str | Path) -> LabelResult:
    """Write the labelled rows and what is beside them from the parts of all shards, and remove the parts."""
    target = Path(out)
    check_new(target)
    check_writable(target)
    parts = Parts.beside(target)
    merged = parts.merged()
    outputs, invalid, served = Counter[str](), 0, set[str]()
    tokens: list[int] | None = [0, 0]
    answers, faults = (Path(f"{target}.{what}.jsonl") for what in ("answers", "invalid"))
    with atomic_text(answers) as described, atomic_text(faults) as refused:
        for row in merged:
            if tokens is None or row["tokens"] is None:
                tokens = None
            else:
                tokens = [total + count for total, count in zip(tokens, row["tokens"], strict=True)]
            served.update(row.get("served", ()))
            if "invalid" in row:
                invalid += 1
                refused.write(_line({"id": row["id"], **row["invalid"], "prompt": row["prompt"]}))
            else:
                outputs[_short(row["output"])] += 1
                described.write(_line({"id": row["id"], "output": row["output"], "prompt": row["prompt"]}))
    if not invalid:
        faults.unlink()
    labelled = outputs.total()
    if not labelled:
        raise DataError(f"none of the {merged.rows} outputs parses", where=str(faults), fix="Read them.")
    card = finished_card(merged.about["card"], labelled, invalid, served)
    with card_first(target, card) as (draft, finish):
        with atomic_text(draft) as written:
            written.writelines(_line(row["record"]) for row in merged if "invalid" not in row)
        card = finish()
    parts.remove()
    cost = None if tokens is None else Prices(*merged.about["prices"]).of(*tokens)
    kinds = {name: count for name, count in outputs.most_common() if name} if len(outputs) <= _KINDS else {}
    prompts, written_tokens = tokens or (None, None)
    return LabelResult(card, labelled, invalid, kinds, prompts, written_tokens, cost)


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _short(output: Any) -> str:
    """A label or grade in words, by which outputs are counted; empty for any other output."""
    (kind, value) = next(iter(output.items()))
    return str(value["value"]) if kind in ("label", "grade") else ""
