"""The command `data label`: a teacher writes the targets of rows, as a source from which a dataset is built.

A teacher is an adapter, a bare base, or a model of a service. What it writes is parsed as strictly as any output.
Rows whose output does not parse are listed and left out. The card beside the rows names the teacher, so that a student
has it among its ancestors: no judge grades itself.
"""

from __future__ import annotations

import json
import math
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
from searchlora.eval.text_identity import fingerprint
from searchlora.experiments.row_sample import RowSample
from searchlora.experiments.sharding import WHOLE, Sharding, run_shards
from searchlora.experiments.task_model import TaskModel, load_task_model
from searchlora.files import FieldMap, atomic_text, check_writable, file_sha256, mapped, parse_json, read_rows
from searchlora.files.result_cache import cache_key
from searchlora.files.shards import Job, Parts, Shard
from searchlora.inference.engine import Completion, Engine, Request
from searchlora.inference.metered import MeteredEngine, request_key
from searchlora.inference.sampling import Sampling
from searchlora.inference.settings import EngineSettings
from searchlora.outputs import Grade, Graded, InvalidOutput, to_json
from searchlora.pipelines.stages.deciding import confidence, has_probability
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
    """What tokens cost, and how much may be spent.

    Attributes:
        prompt, output: Price of a million tokens, in any currency.
        most: The limit in the same currency; None: none.
    """

    prompt: float = 0.0
    output: float = 0.0
    most: float | None = None

    def of(self, prompt_tokens: float, output_tokens: float) -> float:
        """The cost of tokens.

        Examples:
            >>> Prices(prompt=0.5, output=2.0).of(1_000_000, 250_000)
            1.0
        """
        return (self.prompt * prompt_tokens + self.output * output_tokens) / _MILLION


@dataclass(frozen=True)
class LabelResult:
    """Result of `label`.

    Attributes:
        card: The card beside the rows.
        labelled, unsure, invalid: Numbers of rows.
        outputs: Label, grade or other short output -> number of rows; empty for texts.
        prompt_tokens, output_tokens: Of all rows.
        cost: By the given prices.
    """

    card: JudgmentsCard
    labelled: int
    unsure: int
    invalid: int
    outputs: Mapping[str, int]
    prompt_tokens: int
    output_tokens: int
    cost: float


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
    grades_per_row: int = 1,
    min_probability: float = 0.0,
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

    A killed run resumes when it is started again, and so does one that has reached its limit of cost.

    Args:
        task: A prompted task.
        rows: A file with the fields that the task reads, such as `query`; targets that are there are replaced. JSONL,
            JSON, CSV, TSV or Parquet.
        out: The JSONL file of labelled rows. Written beside it: `<out>.card.json`, which names the teacher;
            `<out>.answers.jsonl`, with the prompt, and the output with its probabilities, of each row;
            `<out>.invalid.jsonl`, if an output does not parse; and `<out>.unsure.jsonl`, if a label is not sure enough.
        adapter, base, teacher: The teacher, see `load_task_model`.
        settings: Without an adapter, a dataset folder whose labels, grades or other settings are used.
        generate: Let the teacher write labels and grades instead of scoring them. A service always writes labels.
        grades_per_row: How many grades of a row the teacher writes, at temperature 1, so that their shares are a soft
            label: for one that gives no probabilities.
        min_probability: Labels with a lower probability are put apart, for people to check.
        fields: Field -> its columns in `rows`; None: columns are named like the fields.
        sample: Label only some of the rows; None: all.
        prices: What tokens cost. With a limit, it is checked before each batch; of N shards, each may spend an N-th.

    Returns:
        The result; None for a shard alone, whose rows `merge_labels` joins with those of the others.

    Raises:
        UsageError: when `out` exists or is not a JSONL file, the teacher is not given in one of its three ways, outputs
            of the task are no targets, or no grades where there are to be several for a row, or without a probability
            where there is to be one, or the limit of cost is reached.
        DataError, RenderError: when the rows cannot be read, or lack a field that the prompt needs, before anything is
            asked; when no output parses.
        NotInStore, LoadCheckFailed, BaseModelError, EngineError: when the teacher cannot be used.
    """
    target = Path(out)
    if prices.most is not None and not (prices.prompt or prices.output):
        fix = "Give --price-prompt or --price-output."
        raise UsageError("a limit of cost needs prices", where="--max-cost", fix=fix)
    if target.suffix != ".jsonl":
        raise UsageError("labelled rows are written as JSONL", where=str(target), fix="Name it *.jsonl.")
    check_new(target)
    check_writable(target)
    model = {"adapter": adapter, "base": base, "teacher": teacher, "task": task, "settings": settings}
    work = partial(
        _label_shard,
        rows=Path(rows),
        out=target,
        grades_per_row=grades_per_row,
        min_probability=min_probability,
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
    grades_per_row: int,
    min_probability: float,
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
    if grades_per_row > 1 and not grades:
        what = f"outputs of the task '{loaded.task.name}' are not grades alone, so their shares are no soft label"
        raise UsageError(what, where="--grades-per-row", fix="Leave it out.")
    if grades_per_row > 1 or (model["teacher"] is not None and not grades):
        # Labels often begin alike, and the first token is all that a service tells.
        loaded = replace(loaded, generate=True)
    if min_probability and (loaded.generate or not has_probability(loaded.task)):
        what = f"outputs of the task '{loaded.task.name}' have no probability here"
        fix = "Only one label of a closed set has one, of a teacher that scores it: no service, and no --generate."
        raise UsageError(what, where="--min-probability", fix=fix)
    card = asdict(loaded.card({rows.name: file_sha256(rows)}))
    if grades_per_row > 1:
        card["rule"] = f"shares of {grades_per_row} written grades"
    costs = [prices.prompt, prices.output]
    about = {"kind": "label", "card": card, "prices": costs, "min_probability": min_probability}
    budget = _Budget(prices, shard, parts.folder)
    # With a limit, little is spent beyond it.
    batch = BATCH_SIZE if prices.most is not None else max(BATCH_SIZE, loaded.engine.call_size)
    key: dict[str, Any] = {**loaded.key, "rows": None}
    if sample is not None:
        key["rows"] = cache_key([record["id"] for record in records])
    if grades_per_row > 1:
        key["grades per row"] = grades_per_row
    job = Job(key, records, partial(_labelled, loaded, budget, grades_per_row), batch, about=about)
    parts.compute(job, shard, progress, len(records))


def _check_targets(task: GenerationTask) -> None:
    if type(task).labelled is GenerationTask.labelled:
        task.labelled({}, None)  # raises


class _Budget:
    """What was spent, also by earlier calls, and the limit of one shard.

    Args:
        folder: Of the parts, whose rows hold the tokens that they took.
    """

    def __init__(self, prices: Prices, shard: Shard, folder: Path) -> None:
        self._prices = prices
        self._most = math.inf if prices.most is None else prices.most / shard.count
        files = [file for file in folder.glob("*") if file.suffix == ".log" or file.name.endswith(".part.jsonl")]
        self._spent = sum(map(self._cost_of, files)) / shard.count

    def _cost_of(self, file: Path) -> float:
        """The cost of a part; the last line of a process that was killed, or is writing, may be cut off."""
        batches = map(parse_json, file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1])
        return math.fsum(self._prices.of(*row["tokens"]) for batch in batches for row in batch.get("out", ()))

    def check(self) -> None:
        """Raise `UsageError` if the limit is reached."""
        if self._spent >= self._most:
            raise UsageError(
                f"the limit of cost is reached: {self._spent:.4g} of {self._most:.4g} are spent",
                where="--max-cost",
                fix="Run the command again with a higher limit: what is labelled is not asked again.",
            )

    def add(self, prompt_tokens: int, output_tokens: int) -> None:
        self._spent += self._prices.of(prompt_tokens, output_tokens)


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


class _SamplingEngine(MeteredEngine):
    """An engine that draws answers at temperature 1; the random numbers of a request depend on it and on the draw."""

    def __init__(self, engine: Engine, draw: int) -> None:
        super().__init__(engine)
        self._draw = draw

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return super().generate([replace(request, sampling=self._sampling(request)) for request in requests])

    def _sampling(self, request: Request) -> Sampling:
        seed = fingerprint(f"{self._draw} {request_key(request).hex()}") % 2**31
        return Sampling(temperature=1.0, seed=seed)


def _grade_of(drawn: Sequence[Any], scale: Sequence[int]) -> Any:
    """The most frequent grade of a row, with the shares of all; invalid if half of them or more are."""
    counts = Counter(each.value for each in drawn if not isinstance(each, InvalidOutput))
    if 2 * counts.total() <= len(drawn):
        raw = next(each.raw for each in drawn if isinstance(each, InvalidOutput))
        return InvalidOutput(raw, f"{len(drawn) - counts.total()} of {len(drawn)} grades do not parse")
    return Grade(counts.most_common(1)[0][0], tuple(counts[grade] / counts.total() for grade in scale))


def _labelled(model: TaskModel, budget: _Budget, grades_per_row: int, rows: Sequence[Record]) -> list[dict[str, Any]]:
    """What is written of rows; the first one of a batch holds the tokens of all."""
    budget.check()
    if grades_per_row == 1:
        meter = MeteredEngine(model.engine)
        meters, outputs = [meter], model.ask(rows, meter)
    else:
        meters = [_SamplingEngine(model.engine, draw) for draw in range(grades_per_row)]
        spec = model.task.output(rows[0])
        assert isinstance(spec, Graded)  # checked before
        drawn = zip(*(model.ask(rows, meter) for meter in meters), strict=True)
        outputs = [_grade_of(of_row, list(spec.scale.values())) for of_row in drawn]
    tokens = (sum(meter.prompt_tokens for meter in meters), sum(meter.output_tokens for meter in meters))
    budget.add(*tokens)
    written = []
    for number, (row, output) in enumerate(zip(rows, outputs, strict=True)):
        prompt = [dict(message) for message in messages(model.task, row)]
        about = {"id": row["id"], "prompt": prompt, "tokens": tokens if number == 0 else (0, 0)}
        if isinstance(output, InvalidOutput):
            written.append({**about, "invalid": {"raw": output.raw, "reason": output.reason}})
        else:
            record = model.task.labelled({key: value for key, value in row.items() if key != COMPLETION}, output)
            probability = confidence(model.task, row, output)
            written.append({**about, "record": record, "output": to_json(output), "probability": probability})
    return written


def merge_labels(out: str | Path) -> LabelResult:
    """Write the labelled rows and what is beside them from the parts of all shards, and remove the parts.

    Raises:
        UsageError: when `out` exists.
        DataError: when a shard or a part is missing or damaged, or no output parses.
    """
    target = Path(out)
    check_new(target)
    check_writable(target)
    parts = Parts.beside(target)
    merged = parts.merged()
    outputs, tokens, invalid, unsure = Counter[str](), [0, 0], 0, 0
    answers, faults, doubts = (Path(f"{target}.{what}.jsonl") for what in ("answers", "invalid", "unsure"))

    least = merged.about.get("min_probability", 0.0)

    def sure(row: Mapping[str, Any]) -> bool:
        return not least or row["probability"] >= least

    with atomic_text(answers) as described, atomic_text(faults) as refused, atomic_text(doubts) as doubted:
        for row in merged:
            tokens = [total + count for total, count in zip(tokens, row["tokens"], strict=True)]
            if "invalid" in row:
                invalid += 1
                refused.write(_line({"id": row["id"], **row["invalid"], "prompt": row["prompt"]}))
            else:
                if sure(row):
                    outputs[_short(row["output"])] += 1
                else:
                    unsure += 1
                    doubted.write(_line(row["record"]))
                described.write(_line({"id": row["id"], "output": row["output"], "prompt": row["prompt"]}))
    if not invalid:
        faults.unlink()
    if not unsure:
        doubts.unlink()
    labelled = outputs.total()
    if not labelled and unsure:
        raise DataError(f"all of the {unsure} labels are unsure", where=str(doubts), fix="Lower --min-probability.")
    if not labelled:
        raise DataError(f"none of the {merged.rows} outputs parses", where=str(faults), fix="Read them.")
    card = finished_card(merged.about["card"], labelled, invalid)
    with card_first(target, card) as (draft, finish):
        with atomic_text(draft) as written:
            written.writelines(_line(row["record"]) for row in merged if "invalid" not in row and sure(row))
        card = finish()
    parts.remove()
    prices = Prices(*merged.about["prices"])
    kinds = {name: count for name, count in outputs.most_common() if name} if len(outputs) <= _KINDS else {}
    return LabelResult(card, labelled, unsure, invalid, kinds, tokens[0], tokens[1], prices.of(*tokens))


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _short(output: Any) -> str:
    """A label or grade in words, by which outputs are counted; empty for any other output."""
    (kind, value) = next(iter(output.items()))
    return str(value["value"]) if kind in ("label", "grade") else ""
