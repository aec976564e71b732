"""What an adapter must pass to be loaded.

At every load (`check_files`, then `attach`): hashes, the base's fingerprint, keys and shapes; no forward pass. When it
is stored and on `adapters verify` (`verify`), also: the delta is not zero, the golden records render to the same
token ids, and the logits on the golden prompts (for an encoder, the vectors of the golden texts) differ from the base's
and are those of the day it was stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from searchlora.adapters.attach import attach
from searchlora.adapters.golden import last_logits, prompt_hash
from searchlora.adapters.golden_vectors import check_vectors
from searchlora.adapters.manifest import Base
from searchlora.adapters.peft_folder import read_config
from searchlora.adapters.stored import StoredAdapter, check_hashes
from searchlora.adapters.weights import check_delta
from searchlora.errors import BaseMismatch, GoldenLogitsMismatch, GoldenRenderMismatch, RenderError, TokenizerMismatch
from searchlora.models.fingerprint import fingerprint
from searchlora.models.load import load_model, load_tokenizer
from searchlora.models.resolve import BaseModel, resolve
from searchlora.prompts import Renderer
from searchlora.task import EncoderTask, PromptedTask, Task, load_task


def check_files(stored: StoredAdapter, base: BaseModel) -> None:
    """What is checked at every load before `attach` compares keys and shapes.

    Raises:
        TamperedAdapter: a file is missing, extra or changed.
        BaseMismatch: the base has another architecture, configuration or weights than the one trained on.
        TokenizerMismatch: the base's tokenizer or chat template is not the one trained with.
        LoadCheckFailed: the configuration asks for more than A and B on an unchanged base.
    """
    check_hashes(stored)
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
    # A manifest of schema 1 holds no hash of the configuration; `verify` compares logits for it, too.
    if then.config and then.config != now.config:
        raise BaseMismatch(
            f"was trained on '{trained_on.name}' with another configuration (config.json) than '{base.name}' has now, "
            "though the weights are the same",
            where=reference,
            fix="Restore the config.json of the base, or train the adapter again.",
        )
    changed = [part for part in ("tokenizer", "template") if getattr(then, part) != getattr(now, part)]
    if changed:
        what = " and ".join("chat template" if part == "template" else part for part in changed)
        raise TokenizerMismatch(
            f"the {what} of '{base.name}' changed since training",
            where=reference,
            fix="Restore the tokenizer files of the base, or train the adapter again.",
        )


def verify(stored: StoredAdapter, task: Task | None = None, base: BaseModel | None = None) -> None:
    """The full check, with forward passes on a copy of the base loaded for it.

    A task of neither kind has nothing golden; for it hashes, fingerprint and delta are checked.

    Args:
        task: The adapter's task, which is bound to the manifest's settings; None looks it up by the name there.
        base: The base; None resolves the name in the manifest.

    Raises:
        What `check_files` and `attach` raise, and:
        ZeroDelta: the adapter changes nothing.
        GoldenRenderMismatch: the golden records render to other token ids than at training.
        GoldenLogitsMismatch: the logits on them equal the base's, or are not those of the day it was stored.
        GoldenVectorsMismatch: for an encoder, the same of the vectors of the golden texts.
    """
    manifest = stored.manifest
    base = base or resolve(manifest.base.name, manifest.base.revision)
    task = (task or load_task(manifest.task)).bound(manifest.settings, manifest.tuned)
    check_files(stored, base)
    check_delta(stored.path)
    if isinstance(task, PromptedTask):
        check_renders(stored, task, Renderer(load_tokenizer(base)))
        model = load_model(base, quantization="none", precision=manifest.golden.precision)
        check_logits(stored, attach(model, stored))
    elif isinstance(task, EncoderTask):
        check_vectors(stored, base)


def check_renders(stored: StoredAdapter, task: PromptedTask, renderer: Renderer) -> None:
    """Render the golden records again, with the manifest's settings. Needs a tokenizer, no model.

    Raises:
        GoldenRenderMismatch: naming the record, where its token ids part, and what changed: the task's `prompt.jinja`,
            or its code, such as how it cuts a conversation.
    """
    fix = "Restore the task as it was when the adapter was trained, or train it again."
    task = task.bound(stored.manifest.settings)
    for golden in stored.manifest.golden.renders:
        try:
            example = renderer.example(task, golden.record)
        except (RenderError, KeyError) as error:  # the template or the code wants a field that was not there then
            raise GoldenRenderMismatch(
                f"golden record '{golden.record.get('id')}' no longer renders ({error}); {_cause(stored, task)}",
                where=stored.reference,
                fix=fix,
            ) from error
        if list(example.input_ids) == golden.token_ids and example.prompt_length == golden.prompt_length:
            continue
        same = _common(example.input_ids, golden.token_ids)
        raise GoldenRenderMismatch(
            f"golden record '{golden.record.get('id')}' renders otherwise than at training, from token {same} on "
            f"(now {_shown(renderer, example.input_ids, same)}, then {_shown(renderer, golden.token_ids, same)}); "
            f"{_cause(stored, task)}",
            where=stored.reference,
            fix=fix,
        )


def check_logits(stored: StoredAdapter, model: Any) -> None:
    """Compare the logits on the golden prompts with the manifest.

    Args:
        model: The adapter alone and active on a base that is not quantised, in the manifest's golden precision.

    Raises:
        GoldenLogitsMismatch: naming the record and the largest difference.
    """
    golden = stored.manifest.golden
    if not golden.logits:
        return
    prompts = [render.token_ids[: render.prompt_length] for render in golden.renders]
    rows = last_logits(model, prompts)
    with model.disable_adapter():
        distance = (rows - last_logits(model, prompts)).abs().max()
    if not distance > 0:  # so that NaN fails too
        raise GoldenLogitsMismatch(
            "the logits on every golden prompt equal the base's", where=stored.reference, fix="Was it trained?"
        )
    for row, then, render in zip(rows, golden.logits, golden.renders, strict=True):
        allowed = golden.tolerance * max(abs(value) for value in then.logits)
        largest = max(abs(float(row[token]) - value) for token, value in zip(then.ids, then.logits, strict=True))
        if not largest <= allowed:
            raise GoldenLogitsMismatch(
                f"a logit on golden record '{render.record.get('id')}' is {largest:.3g} off, over {allowed:.3g}",
                where=stored.reference,
                fix="Check the versions of torch, transformers and peft against those in the manifest.",
            )


def _common(one: Sequence[int], two: Sequence[int]) -> int:
    """How many tokens the two begin with in common."""
    return next(
        (at for at, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]), min(len(one), len(two))
    )


def _shown(renderer: Renderer, ids: Sequence[int], start: int) -> str:
    text: str = renderer.tokenizer.decode(list(ids[start : start + 8]))
    return repr(text)  # a line feed must not break the message


def _cause(stored: StoredAdapter, task: PromptedTask) -> str:
    if prompt_hash(task) != stored.manifest.prompt_hash:
        return f"the prompt template of '{task.name}' (prompt.jinja) changed since"
    return (
        f"its prompt.jinja is the same, so the code of '{task.name}' (version {task.version}) changed since, "
        "such as how it cuts a conversation or what it takes from a record"
    )
