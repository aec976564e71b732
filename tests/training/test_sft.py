"""Supervised fine-tuning on a tiny base: loss, resuming after a kill, validation, early stopping, errors."""

from __future__ import annotations

import errno
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from searchlora.data.building import build
from searchlora.errors import TrainingError
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.experiments.validation import Validator
from searchlora.inference.local import LocalEngine
from searchlora.prompts import Renderer
from searchlora.recipe import load_recipe
from searchlora.training.metrics import read_metrics
from searchlora.training.sft import train_adapter
from tests.child_scripts import Script, run_script
from tests.factories import first_word, word_records

SHORT = ["optim.batch_size=8", "optim.max_steps=12", "optim.learning_rate=5e-3", "lora.r=4", "lora.alpha=8"]


def weights(folder: Path):
    return load_file(folder / "adapter_model.safetensors")


def same(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return left.keys() == right.keys() and all(left[key].equal(right[key]) for key in left)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_validation_does_not_change_training_by_a_single_bit(tiny_base, tmp_path, method):
    """On a 4-bit CPU base, an eval-mode forward on the training copy would change every later gradient."""
    task = first_word(tmp_path / "task")
    recipe = load_recipe(
        {}, overrides=[*SHORT, f"method={method}", "validation.every_steps=3", "checkpoints.every_steps=4"]
    )
    records = word_records(64)
    without = train_adapter(task, recipe, tiny_base, records, tmp_path / "without")
    validator = Validator(task, LocalEngine(tiny_base), records[:8], records[:4], max_new_tokens=4)
    train_adapter(task, recipe, tiny_base, records, tmp_path / "with", validate=validator)
    last = "checkpoints/checkpoint-12"
    assert same(tmp_path / "without" / last, tmp_path / "with" / last)
    assert same(without.adapter, tmp_path / "without" / last)
    lines = [line for line in read_metrics(tmp_path / "with" / "metrics.jsonl") if "validation_loss" in line]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert "validation_accuracy" in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "values", "less_is_better"),
    [
        ("loss", [3.0, 1.0, 2.0, 4.0], ()),
        ("kappa", [math.nan, 0.1, math.nan, 0.0], ()),  # a step without the metric is never the best
        ("MAE", [3.0, 1.0, 2.0, 4.0], ("MAE",)),
    ],
)
def test_the_best_step_is_stored(tiny_base, tmp_path, metric, values, less_is_better):
    measured = iter(values)

    def validate(_: Path) -> dict[str, float]:
        return {"loss": 1.0, metric: next(measured)}

    validate.less_is_better = less_is_better
    changes = ["validation.every_steps=3", "checkpoints.every_steps=3", f"validation.metric={metric}"]
    recipe = load_recipe({}, overrides=[*SHORT, *changes])
    task = first_word(tmp_path / "task")
    trained = train_adapter(task, recipe, tiny_base, word_records(64), tmp_path / "run", validate=validate)
    assert trained.summary["best"] == {"step": 6, "loss": 1.0, metric: values[1]}
    assert same(trained.adapter, tmp_path / "run" / "best")
    assert not same(trained.adapter, tmp_path / "run" / "checkpoints" / "checkpoint-12")


@pytest.mark.slow
def test_early_stopping(tiny_base, tmp_path):
    changes = ["validation.every_steps=2", "validation.patience=2", "validation.metric=accuracy"]
    recipe = load_recipe({}, overrides=[*SHORT, *changes, "checkpoints.every_steps=2"])
    for again in (
        False,
        True,
    ):  # the second call continues from the last checkpoint, where early stopping had ended the run
        trained = train_adapter(
            first_word(tmp_path / "task"),
            recipe,
            tiny_base,
            word_records(64),
            tmp_path / "run",
            validate=lambda _: {"loss": 1.0, "accuracy": 0.5},
            resume=again,
        )
        assert trained.summary["steps"] == 6
        assert trained.summary["best"]["step"] == 2


@pytest.mark.slow
def test_an_error_of_validation_is_not_taken_for_a_full_disk(tiny_base, tmp_path):
    def validate(_: Path) -> dict[str, float]:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    recipe = load_recipe({}, overrides=[*SHORT, "optim.max_steps=1"])
    task, records = first_word(tmp_path / "task"), word_records(8)
    with pytest.raises(TrainingError, match=r"validation failed \(.*Connection refused\). Correct this"):
        train_adapter(task, recipe, tiny_base, records, tmp_path / "run", validate=validate)


@pytest.mark.slow
def test_an_unknown_metric_lists_the_known_ones(tiny_base, tmp_path):
    recipe = load_recipe({}, overrides=[*SHORT, "validation.metric=nDCG"])
    with pytest.raises(TrainingError, match=r"'nDCG' was not measured\. Measured: loss\."):
        train_adapter(
            first_word(tmp_path / "task"),
            recipe,
            tiny_base,
            word_records(8),
            tmp_path / "run",
            validate=lambda _: {"loss": 1.0},
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["lora.variant=rslora", "lora.dropout=0.1", "lora.target_modules=[q_proj, v_proj]"],
        ["optim.gradient_accumulation=2", "optim.gradient_checkpointing=true"],
        ["precision=fp32", "method=lora"],
        ["method=full", "optim.full_learning_rate=5e-3"],
    ],
    ids=lambda overrides: " ".join(overrides[:2]),
)
def test_each_method_reduces_the_loss_and_records_metrics(tiny_base, tmp_path, overrides):
    recipe = load_recipe({}, overrides=[*SHORT, *overrides])
    reported = []
    trained = train_adapter(
        first_word(tmp_path / "task"),
        recipe,
        tiny_base,
        word_records(64),
        tmp_path / "run",
        progress=lambda done, total, note="": reported.append((done, total, note)),
    )
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert len(losses) == 12 and sum(losses[-3:]) < sum(losses[:3])
    assert trained.summary["final_loss"] == losses[-1] and trained.summary["tokens"] > 0
    assert "<svg" in (tmp_path / "run" / "loss.svg").read_text(encoding="utf-8")
    assert reported[-1][:2] == (12, 12) and "tokens/s" in reported[-1][2]
    if not recipe.is_full:  # A and B are fp32 masters, also on a 4-bit or bf16 base
        kept = weights(trained.adapter)
        assert {str(value.dtype) for value in kept.values()} == {"torch.float32"}
        assert any((value != value.bfloat16().float()).any() for value in kept.values())


@pytest.mark.slow
def test_a_model_whose_own_loss_takes_no_count_of_tokens_is_trained(tiny_base, tmp_path, monkeypatch):
    """Gemma 4 is one: transformers then counts no tokens for `compute_loss`, unless the trainer asks for it."""
    from transformers import LlamaForCausalLM

    task, recipe = first_word(tmp_path / "task"), load_recipe({}, overrides=[*SHORT, "optim.max_steps=1"])
    usual = train_adapter(task, recipe, tiny_base, word_records(8), tmp_path / "usual")
    monkeypatch.setattr(LlamaForCausalLM, "accepts_loss_kwargs", False, raising=False)
    other = train_adapter(task, recipe, tiny_base, word_records(8), tmp_path / "other")
    assert other.summary["final_loss"] == usual.summary["final_loss"]


@pytest.mark.slow
def test_a_new_run_in_the_folder_of_an_old_one_keeps_nothing_of_it(tiny_base, tmp_path):
    task, folder = first_word(tmp_path / "task"), tmp_path / "run"
    recipe = load_recipe({}, overrides=[*SHORT, "optim.max_steps=4", "validation.every_steps=2"])
    for loss in (1.0, 5.0):  # the older loss would be the best of both runs
        losses = iter([loss, loss + 1])
        trained = train_adapter(
            task,
            recipe,
            tiny_base,
            word_records(64),
            folder,
            validate=lambda _: {"loss": next(losses)},  # noqa: B023
        )
        assert trained.summary["best"] == {"step": 2, "loss": loss}


@pytest.mark.slow
def test_accumulated_gradients_equal_those_of_the_large_batch(tiny_base, tmp_path):
    """The loss is a mean over all completion tokens of a step, however the step is cut."""
    task, records = first_word(tmp_path / "task"), word_records(16)
    common = [*SHORT, "optim.max_steps=1", "method=lora", "precision=fp32"]
    whole = train_adapter(
        task, load_recipe({}, overrides=[*common, "optim.batch_size=16"]), tiny_base, records, tmp_path / "whole"
    )
    parts = train_adapter(
        task,
        load_recipe({}, overrides=[*common, "optim.batch_size=4", "optim.gradient_accumulation=4"]),
        tiny_base,
        records,
        tmp_path / "parts",
    )
    for run in (whole, parts):
        assert run.summary["steps"] == 1
    first, second = (read_metrics(run.folder / "metrics.jsonl")[0]["loss"] for run in (whole, parts))
    assert first == pytest.approx(second, rel=1e-5)


_CHILD = """
import sys
from pathlib import Path
from searchlora.models.resolve import resolve
from searchlora.prompts import Renderer
from searchlora.recipe import load_recipe
from searchlora.training.sft import train_adapter
from tests.factories import first_word, word_records

base, task, run, resume = sys.argv[1:]
recipe = load_recipe({}, overrides=OVERRIDES)
train_adapter(first_word(Path(task)), recipe, resolve(base), word_records(64), Path(run), resume=resume == "resume",
              progress=lambda done, total, note="": print(done, flush=True))
"""


@pytest.mark.slow
def test_resuming_after_kill_9_ends_at_the_same_loss(tiny_base, tmp_path):
    overrides = [*SHORT, "checkpoints.every_steps=5", "lora.dropout=0.1"]
    script = _CHILD.replace("OVERRIDES", repr(overrides))

    def start(run: str, resume: str) -> Script:
        return Script(script, tiny_base.path, tmp_path / "task", tmp_path / run, resume)

    killed = start("killed", "fresh")
    while "\n7\n" not in killed.stdout and killed.is_running():
        time.sleep(0.001)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert (tmp_path / "killed" / "checkpoints" / "checkpoint-5").is_dir()
    for process in (start("whole", "fresh"), start("killed", "resume")):
        assert process.wait() == 0, process.stderr
    after = read_metrics(tmp_path / "killed" / "metrics.jsonl")
    assert [line["step"] for line in after] == list(range(1, 13))
    assert after[-1]["loss"] == read_metrics(tmp_path / "whole" / "metrics.jsonl")[-1]["loss"]
    assert same(tmp_path / "killed" / "adapter", tmp_path / "whole" / "adapter")


@pytest.mark.slow
def test_a_truncated_checkpoint_is_not_resumed_from(tiny_base, tmp_path):
    task = first_word(tmp_path / "task")
    recipe = load_recipe({}, overrides=[*SHORT, "checkpoints.every_steps=4", "checkpoints.keep=5"])
    train_adapter(task, recipe, tiny_base, word_records(64), tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "checkpoint-12" / "trainer_state.json").unlink()
    trained = train_adapter(task, recipe, tiny_base, word_records(64), tmp_path / "run", resume=True)
    assert trained.summary["resumed_from_step"] == 8
    state = json.loads((tmp_path / "run" / "checkpoints" / "checkpoint-12" / "trainer_state.json").read_text("utf-8"))
    assert state["global_step"] == 12


@pytest.mark.slow
def test_a_finished_run_is_not_trained_further(tiny_base, tmp_path):
    task, folder = first_word(tmp_path / "task"), tmp_path / "run"
    recipe = load_recipe({}, overrides=[*SHORT, "checkpoints.every_steps=4"])
    whole = train_adapter(task, recipe, tiny_base, word_records(64), folder)
    before = weights(whole.adapter)
    again = train_adapter(task, recipe, tiny_base, word_records(64), folder, resume=True)
    assert again.summary["steps"] == again.summary["resumed_from_step"] == whole.summary["steps"] == 12
    assert again.summary["final_loss"] == whole.summary["final_loss"]
    after = weights(again.adapter)
    assert all((before[name] == after[name]).all() for name in before)


@pytest.mark.slow
def test_validation_uses_the_prompt_options_of_the_recipe(tiny_base, tmp_path):
    """A base whose template prints a date and a flag: training, validation and the stored adapter see the same ones."""
    folder = Path(shutil.copytree(tiny_base.path, tmp_path / "base"))
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    marks = "{{ strftime_now('%d %b %Y') }}{{ 'fast' if enable_thinking is false else 'slow' }}"
    (folder / "chat_template.jinja").write_text(marks + template, encoding="utf-8")
    rows = [
        {"id": f"r{n}", "group": f"g{n}", "query": f"tent {n}", "rewrite": "tent", "split": split}
        for n, split in enumerate(["train"] * 6 + ["validation"] * 2)
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    build("rewriting", source, format="native", out=tmp_path / "data")
    rendered = []
    apply = Renderer._apply

    def noted(self, chat, **kwargs):
        text = apply(self, chat, **kwargs)
        if "THE-" not in "".join(message["content"] for message in chat):  # not a probe of the template
            rendered.append(text[:15])
        return text

    overrides = [
        *SHORT,
        "optim.max_steps=2",
        "prompt.date=2025-03-01",
        "prompt.template_kwargs={enable_thinking: false}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Renderer, "_apply", noted)
        stored = train(
            "rewriting",
            tmp_path / "data",
            "r",
            TrainingOptions(base=str(folder), overrides=overrides),
            store=tmp_path / "store",
        )
    assert set(rendered) == {"01 Mar 2025fast"}
    assert "validation loss" in stored.manifest.metrics
    assert stored.manifest.prompt_options.template_kwargs == {"enable_thinking": False}


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [["precision=fp32", "method=lora"], []], ids=["fp32", "nf4"])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_finite_checkpoint(tiny_base, tmp_path, overrides):
    changes = ["optim.learning_rate=1e38", "optim.schedule=constant", "checkpoints.every_steps=1"]
    recipe = load_recipe({}, overrides=[*SHORT, *changes, *overrides])
    task, folder = first_word(tmp_path / "task"), tmp_path / "run"
    for resume in (False, True):
        with pytest.raises(
            TrainingError, match=r"the (loss|gradient norm) is (nan|inf) at step .*Lower optim"
        ) as error:
            train_adapter(task, recipe, tiny_base, word_records(64), folder, resume=resume)
        assert ("precision=fp32" in str(error.value)) == (recipe.precision == "bf16")
    assert all(math.isfinite(line["loss"]) for line in read_metrics(folder / "metrics.jsonl"))


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from searchlora.errors import TrainingError
from searchlora.models.resolve import resolve
from searchlora.recipe import load_recipe
from searchlora.training.sft import train_adapter
from tests.factories import first_word, word_records

base, task, run = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
recipe = load_recipe({}, overrides=["optim.max_steps=2", "lora.r=8", "checkpoints.every_steps=1"])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    train_adapter(first_word(Path(task)), recipe, resolve(base), word_records(8), Path(run))
except TrainingError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.slow
def test_a_full_disk_is_a_clear_error(tiny_base, tmp_path):
    done = run_script(_FULL_DISK, tiny_base.name, tmp_path / "task", tmp_path / "run")
    assert done.returncode == 3, done.stderr
    assert "cannot be written" in done.stdout and "--resume" in done.stdout


_FULL_DISK_OF_TORCH = """
import resource, signal, sys
from pathlib import Path
import torch
from searchlora.errors import TrainingError
from searchlora.training.training_run import _write_errors

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for state in (torch.get_rng_state(), {"state": [torch.zeros(100)] * 20}):
    try:
        with _write_errors(Path("run")):
            torch.save(state, Path(sys.argv[1]) / "state.pt")
    except TrainingError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_state_that_torch_cannot_write_is_a_clear_error(tmp_path):
    """torch.save raises one RuntimeError where a write fails, and another where the last flush does."""
    done = run_script(_FULL_DISK_OF_TORCH, tmp_path)
    assert done.stdout.count("run: cannot be written") == 2, done.stderr


#: A QLoRA training on a processor for which bitsandbytes looks for a kernel on the hub.
QUIET = """
import ctypes, logging, sys
from pathlib import Path

get = ctypes.CDLL.__getitem__
ctypes.CDLL.__getitem__ = lambda lib, name: (lambda: True) if name == "has_avx512bf16_cpu" else get(lib, name)
from searchlora.models.resolve import resolve
from searchlora.recipe import load_recipe
from searchlora.training.sft import train_adapter
from tests.factories import first_word, word_records

base, folder = resolve(sys.argv[1]), Path(sys.argv[2])
recipe = load_recipe({}, overrides=["optim.max_steps=1", "optim.batch_size=2"])
trained = train_adapter(first_word(folder / "task"), recipe, base, word_records(4), folder / "run")
from bitsandbytes.backends.cpu import ops
print(trained.summary["steps"], ops.gemm_4bit_forward_kernel)
"""


@pytest.mark.slow
def test_qlora_prints_no_advice_to_install_a_kernel_of_the_hub(tiny_base, tmp_path):
    command = [sys.executable, "-c", QUIET, str(tiny_base.path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.stdout.split() == ["1", "None"] and "gemm_4bit_forward" not in done.stderr, done.stderr
