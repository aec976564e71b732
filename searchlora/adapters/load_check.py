"""Load check: the conditions that an adapter must meet before it is used.

Every load calls `check_files`, then `attach`: hashes, fingerprint of the base, keys and shapes; no forward pass.
Storing and `adapters verify` call `verify`, which also requires that the delta is not zero, the golden records render
to the same token ids, and the golden logits (of an encoder, the golden vectors) differ from the base's and are
reproduced.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from searchlora.adapters.full_model import check_weights, model_of, unpack
from searchlora.adapters.golden import (
    TOLERANCE,
    VECTOR_TOLERANCE,
    BaseCopy,
    precision_for,
    prompt_hash,
)
from searchlora.adapters.manifest import Base
from searchlora.adapters.peft_folder import read_config
from searchlora.adapters.stored import StoredAdapter, check_hashes
from searchlora.errors import (
    BaseMismatch,
    GoldenMismatch,
    LoadCheckFailed,
    RenderError,
    SearchloraError,
    TokenizerMismatch,
)
from searchlora.models.fingerprint import fingerprint
from searchlora.models.load import load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.outputs import ClosedSet
from searchlora.prompts import Renderer
from searchlora.task import EncoderTask, GenerationTask, Task, load_task


def check_files(stored: StoredAdapter, base: BaseModel) -> None:
    """Check what every load checks before `attach` compares keys and shapes.

    Raises:
        TamperedAdapter: a file is missing, extra or changed.
        BaseMismatch: the base has another architecture, configuration or weights than the one trained on.
        TokenizerMismatch: the base's tokenizer or chat template is not the one trained with.
        LoadCheckFailed: the configuration asks for more than A and B on an unchanged base.
    """
    check_hashes(stored)
    if not stored.is_full:
        read_config(stored.path)
    check_base(stored.reference, stored.manifest.base, base)


def check_base(reference: str, trained_on: Base, base: BaseModel) -> None:
    """Compare fingerprints. Raises `BaseMismatch` or `TokenizerMismatch`."""
    then, now = trained_on.fingerprint, fingerprint(base.path)
    if (then.architecture, then.tensors) != (now.architecture, now.tensors):
        raise BaseMismatch(
            f"was trained on '{trained_on.name}' ({then.architecture}, tensors {then.tensors[:12]}), not on "
            f"'{base.name}' ({now.architecture}, tensors {now.tensors[:12]})",
            where=reference,
            fix="Load it on the base it was trained on, or train it again on this one.",
        )
    if then.config != now.config:
        raise BaseMismatch(
            f"was trained on '{trained_on.name}' with another configuration (config.json) than '{base.name}' has now, "
            "though the weights are the same",
            where=reference,
            fix="Restore the config.json of the base, or train the adapter again.",
        )
    changed = [part for part in ("tokenizer", "template") if getattr(then, part) != getattr(now, part)]
    if changed:
        parts = " and ".join("chat template" if part == "template" else part for part in changed)
        raise TokenizerMismatch(
            f"the {parts} of '{base.name}' changed since training",
            where=reference,
            fix="Restore the tokenizer files of the base, or train the adapter again.",
        )


def verify(
    stored: StoredAdapter, task: Task | None = None, base: BaseModel | None = None, copy: BaseCopy | None = None
) -> None:
    """The full check, with forward passes on a copy of the base.

    A task that is neither prompted nor an encoder's has no golden records; only files, base and delta are checked.

    Args:
        task: The adapter's task, which is bound to the settings in the manifest; None loads it by its name there.
        base: The base; None resolves the name in the manifest.
        copy: The copy of the base that computes; None loads one.

    Raises:
        What `check_files` and `attach` raise, and:
        ZeroDelta: the adapter changes nothing.
        LoadCheckFailed: a weight is not a number of a usual size, or there are no golden records.
        GoldenMismatch: a golden record renders to other token ids than at training, or golden logits or vectors equal
            the base's or are not reproduced.
    """
    manifest = stored.manifest
    base = base or manifest.base.resolve()
    task = (task or load_task(manifest.task)).bound(manifest.settings, manifest.tuned)
    check_files(stored, base)
    check_weights(stored)
    if isinstance(task, GenerationTask):
        _check_golden(stored, precision_for(base), len(manifest.golden.logits))
        check_renders(stored, task, Renderer(load_tokenizer(base)))
        check_logits(stored, copy or BaseCopy.of(task, base))
    elif isinstance(task, EncoderTask):
        _check_golden(stored, "fp32", len(manifest.golden.vectors))
        check_vectors(stored, copy or BaseCopy.of(task, base))


def _check_golden(stored: StoredAdapter, precision: str, records: int) -> None:
    """Refuse golden records that verify nothing: none at all, or in a precision that allows larger differences."""
    golden = stored.manifest.golden
    if not records:
        raise LoadCheckFailed(
            "its manifest has no golden records, so it cannot be verified",
            where=stored.reference,
            fix="Store the adapter again; the task needs examples (examples.jsonl).",
        )
    if golden.precision != precision:
        raise LoadCheckFailed(
            f"its golden records were computed in {golden.precision}, not in {precision} as for this base",
            where=stored.reference,
            fix="Store the adapter again.",
        )


def check_renders(stored: StoredAdapter, task: GenerationTask, renderer: Renderer) -> None:
    """Render the golden records again with the manifest's settings. Needs a tokenizer, but no model.

    Raises:
        GoldenMismatch: naming the record, the first token id that differs, and whether the task's `prompt.jinja`
            changed or its code.
        LoadCheckFailed: see `check_settings`.
    """
    fix = "Restore the task as it was when the adapter was trained, or train it again."
    task = task.bound(stored.manifest.settings)
    renderer = renderer.with_options(stored.manifest.prompt_options)
    for golden in stored.manifest.golden.renders:
        try:
            example = renderer.example(task, golden.record)
        except (RenderError, *_UNUSABLE) as error:  # the template or the code needs a field that the record lacks
            raise GoldenMismatch(
                f"golden record '{golden.record.get('id')}' no longer renders ({error}); {_cause(stored, task)}",
                where=stored.reference,
                fix=fix,
            ) from error
        if list(example.input_ids) == golden.token_ids and example.prompt_length == golden.prompt_length:
            continue
        pairs = zip(example.input_ids, golden.token_ids, strict=False)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        raise GoldenMismatch(
            f"golden record '{golden.record.get('id')}' renders otherwise than at training, from token {same} on "
            f"(now {_excerpt(renderer, example.input_ids, same)}, then {_excerpt(renderer, golden.token_ids, same)}); "
            f"{_cause(stored, task)}",
            where=stored.reference,
            fix=fix,
        )
    check_settings(stored, task)


def check_settings(stored: StoredAdapter, task: GenerationTask) -> None:
    """Use the settings and the tuned values of the manifest, on its first golden records. Needs no tokenizer.

    Raises:
        LoadCheckFailed: if they are not those of the task.
    """
    task = task.bound(stored.manifest.settings, stored.manifest.tuned)
    try:
        for golden in stored.manifest.golden.renders[:_TRIED]:
            form = task.output(golden.record)
            if isinstance(form, ClosedSet) and form.choices is not None:
                task.apply_tuning(form.from_scores([0.0] * len(form.choices)), golden.record)
    except SearchloraError:  # such as of a task that needs settings and has none: whoever uses it gets the same error
        return
    except _UNUSABLE as error:
        raise LoadCheckFailed(
            f"the settings or the tuned values in its manifest cannot be used ({type(error).__name__}: {error})",
            where=stored.reference,
            fix="Restore searchlora.json from a copy, or train the adapter again.",
        ) from None


#: What code of a task raises for a record, settings or tuned values that it was not written for.
_UNUSABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)

#: Golden records on which settings are tried.
_TRIED = 3


def check_logits(stored: StoredAdapter, copy: BaseCopy) -> None:
    """Compute the golden logits again.

    Raises:
        MissingKey, UnexpectedKey: see `attach`.
        GoldenMismatch: naming the record and the largest difference.
    """
    golden = stored.manifest.golden
    prompts = [render.token_ids[: render.prompt_length] for render in golden.renders]
    with copy.trained(model_of(stored) if stored.is_full else stored) as model:
        if not golden.logits:
            return
        _check_reads(stored, model, prompts)
        rows = copy.outputs(model, prompts)
    del model
    plain = copy.plain(prompts)
    names = [f"a logit on golden record '{render.record.get('id')}'" for render in golden.renders]
    now = [row[then.ids] for row, then in zip(rows.numpy(), golden.logits, strict=True)]
    then = [row.logits for row in golden.logits]
    _check_reproduced(stored, rows.numpy(), plain.numpy(), names, now, then, TOLERANCE[golden.precision])


def _check_reads(stored: StoredAdapter, model: Any, prompts: Sequence[Sequence[int]]) -> None:
    """Refuse golden tokens that are not in the vocabulary, and prompts longer than the context."""
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    tokens = [*itertools.chain(*prompts), *itertools.chain(*(row.ids for row in stored.manifest.golden.logits))]
    if max(tokens) >= vocabulary:
        raise GoldenMismatch(
            f"the golden token id {max(tokens)} is not in the vocabulary of {vocabulary:,} tokens",
            where=stored.reference,
            fix="Load the adapter on the base it was trained on.",
        )
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context and (longest := max(map(len, prompts))) > context:
        raise GoldenMismatch(
            f"a golden prompt has {longest:,} tokens, more than the {context:,} that the base reads",
            where=stored.reference,
            fix="Store the adapter again; the task needs shorter examples (examples.jsonl).",
        )


def check_vectors(stored: StoredAdapter, copy: BaseCopy) -> None:
    """Compute the golden vectors again.

    Raises:
        MissingKey, UnexpectedKey: see `attach`.
        GoldenMismatch: naming the text and the largest difference.
    """
    golden = stored.manifest.golden
    texts = [vector.text for vector in golden.vectors]
    with tempfile.TemporaryDirectory() as folder:
        if stored.is_full:
            unpack(stored, Path(folder))
        with copy.trained(BaseModel(stored.reference, Path(folder)) if stored.is_full else stored) as encoder:
            if not texts:
                return
            rows = copy.outputs(encoder, texts)
    del encoder
    plain = copy.plain(texts)
    names = [f"the vector of the golden text {text[:40]!r}" for text in texts]
    _check_reproduced(stored, rows, plain, names, rows, [vector.vector for vector in golden.vectors], VECTOR_TOLERANCE)


def _check_reproduced(
    stored: StoredAdapter,
    rows: Any,
    plain: Any,
    names: Sequence[str],
    now: Sequence[Any],
    then: Sequence[Sequence[float]],
    tolerance: float,
) -> None:
    """Compare outputs (`rows`) with those of the base (`plain`), shape (records, size), and `now` with `then`."""
    if not abs(rows - plain).max() > 0:  # NaN fails too
        raise GoldenMismatch(
            "the outputs on all golden records equal the base's, or are not numbers",
            where=stored.reference,
            fix="Was it trained?",
        )
    for name, row, found, expected in zip(names, rows, now, then, strict=True):
        allowed = min(stored.manifest.golden.tolerance, tolerance) * max(map(abs, expected))
        allowed = min(allowed, tolerance * float(abs(row).max()))
        largest = float(abs(found - expected).max()) if len(found) == len(expected) else math.inf
        if not largest <= allowed:
            raise GoldenMismatch(
                f"{name} is {largest:.3g} off, over {allowed:.3g}",
                where=stored.reference,
                fix="Check the versions of torch, transformers, peft and sentence-transformers in the manifest.",
            )


def _excerpt(renderer: Renderer, ids: Sequence[int], start: int) -> str:
    text: str = renderer.tokenizer.decode(list(ids[start : start + 8]))
    return repr(text)  # a line feed must not break the message


def _cause(stored: StoredAdapter, task: GenerationTask) -> str:
    if prompt_hash(task) != stored.manifest.prompt_hash:
        return f"the prompt template of '{task.name}' (prompt.jinja) changed since"
    return (
        f"its prompt.jinja is the same, so the code of '{task.name}' (version {task.version}) changed since, "
        "such as how it cuts a conversation or what it takes from a record"
    )
