"""Training speed, memory and loss on a CPU: `searchlora train` beside TRL and PEFT as their documentation shows.

    python -m benchmarks.training

SmolLM2-135M, LoRA of rank 16 on all linear layers, rows of about 60, 200 and 600 tokens. Each system trains each
length in a process of its own, through its whole trainer; the first step of a run is not counted. Both take the same
rows in the same order. TRL and PEFT have the defaults of `SFTConfig` (gradient checkpointing among them), and with
4-bit weights the dropout of 0.05 of PEFT's and QLoRA's examples; searchlora uses its default recipe. Without dropout,
both must have the same losses: `loss_difference` is the largest difference of a run's mean loss, over three seeds.

Rows are rewriting records of the synthetic shop; longer ones have a long turn before the query. About ten minutes, on
an otherwise idle machine.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import in_a_process, print_or_save_speeds
from benchmarks.speed import speed_ratio, speed_row
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.models.load import load_tokenizer
from searchlora.models.resolve import resolve
from searchlora.prompts import Example, Renderer
from searchlora.recipe import Recipe, load_recipe
from searchlora.records import Record
from searchlora.shop import make_shop
from searchlora.task import load_generation_task
from searchlora.training.metrics import read_metrics
from searchlora.training.rows import LengthGroupedBatches
from searchlora.training.sft import train_adapter

BASE = "smollm2-135m-instruct-q4_1"
OURS, TRL = "searchlora", "TRL + PEFT"
SYSTEMS = tuple(f"{system}, {kind}" for kind in ("nf4", "bf16") for system in (OURS, TRL))

#: Tokens of a row -> rows of a step, steps of a run, and seeds.
LENGTHS = {60: (16, 4, (0, 1, 2)), 200: (8, 6, (0,)), 600: (3, 6, (0,))}

#: One more system, at the shortest length only: without gradient checkpointing, as in searchlora.
WITHOUT_CHECKPOINTING = "TRL + PEFT without checkpointing, bf16"


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measured = {length: _measured(length, folder) for length in LENGTHS}
    rows, comparisons = [], []
    for length, of_system in measured.items():
        for system, result in of_system.items():
            name = _name(system, length)
            rows += [
                speed_row(name, "tokens a second", result["speeds"]),
                speed_row(name, "peak memory in GB", [result["memory"]]),
            ]
        for kind in ("nf4", "bf16"):
            ours, other = f"{OURS}, {kind}", f"{TRL}, {kind}"
            a, b = (_name(system, length) for system in (ours, other))
            speeds = [of_system[system]["speeds"] for system in (ours, other)]
            comparisons.append(speed_ratio(a, b, "tokens a second", *speeds))
    dense = measured[60][WITHOUT_CHECKPOINTING]["speeds"]
    ours, other = f"{OURS}, bf16", f"{TRL}, bf16"
    a, b = _name(ours, 60), _name(WITHOUT_CHECKPOINTING, 60)
    comparisons.append(speed_ratio(a, b, "tokens a second", measured[60][ours]["speeds"], dense))
    losses = {system: [statistics.mean(values) for values in measured[60][system]["losses"]] for system in SYSTEMS}
    differences = [one - other for one, other in zip(losses[ours], losses[other], strict=True)]
    about = {
        "base": BASE,
        "rows_per_step": {str(length): settings[0] for length, settings in LENGTHS.items()},
        "mean_losses_of_seeds": losses,
        "loss_difference": max(map(abs, differences)),
    }
    print_or_save_speeds("training", rows, comparisons, about)
    listed = ", ".join(f"{difference:+.4f}" for difference in differences)
    print(f"differences of the mean losses of a seed in bf16: {listed}")


def _name(system: str, length: int) -> str:
    return system if length == 60 else f"{system}, rows of {length} tokens"


def _measured(length: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Speeds, peak memory and losses of each system on rows of one length."""
    data = folder / str(length)
    data.mkdir()
    records = _records(length)
    (data / "records.json").write_text(json.dumps(records), encoding="utf-8")
    systems = [*SYSTEMS, WITHOUT_CHECKPOINTING] if length == 60 else SYSTEMS
    results = {}
    for system in systems:
        results[system] = in_a_process("training", system, str(length), str(data))
        speeds = results[system]["speeds"]
        print(f"{_name(system, length)}: {statistics.median(speeds):.0f} tokens a second", file=sys.stderr)
    return results


def _records(length: int) -> list[dict[str, Any]]:
    """Rewriting records whose rows have about `length` tokens; the conversation of a longer row is its own."""
    task, renderer = load_generation_task("rewriting"), Renderer(load_tokenizer(resolve(BASE)))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_shop(folder / "shop", products=600, queries=400)
        build(task, folder / "shop", format="shop", out=folder / "dataset")
        records = load_dataset(folder / "dataset").records("train")
    rows, steps, _ = LENGTHS[length]
    queries = [record["query"] for record in records]
    made = []
    for index, record in enumerate(records[: rows * steps]):
        turns: list[dict[str, str]] = []
        while len(renderer.example(task, {**record, "history": turns}).input_ids) < 0.95 * length:
            before = turns[0]["text"] + ". " if turns else ""  # one turn: the task shortens long conversations
            added = queries[(index * 37 + 11 * len(before) + 1) % len(queries)]
            turns = [{"role": "user", "text": before + added}]
        made.append({**record, "history": turns})
    return made


def work(system: str, length: int, folder: Path) -> dict[str, Any]:
    """Train one system on rows of one length, in this process."""
    from searchlora.training.callbacks import peak_memory

    name, kind = system.rsplit(", ", 1)
    records = json.loads((folder / "records.json").read_text(encoding="utf-8"))
    runs, memory = [], 0.0
    for seed in LENGTHS[length][2]:
        out = folder / f"{system} {seed}"
        if name == OURS:
            runs.append(_train_ours(_recipe(length, kind, seed), records, out))
        else:
            runs.append(_train_trl(_recipe(length, kind, seed), records, out, checkpointing=name == TRL))
        memory = memory or peak_memory()  # after the first run: what it leaves behind would count in the next one's
    return {
        "speeds": [speed for speeds, _ in runs for speed in speeds],
        "memory": memory,
        "losses": [losses for _, losses in runs],
    }


def _recipe(length: int, kind: str, seed: int) -> Recipe:
    rows, steps, _ = LENGTHS[length]
    return load_recipe(
        {
            "base": BASE,
            "method": "qlora" if kind == "nf4" else "lora",
            "seed": seed,
            "optim": {"batch_size": rows, "max_steps": steps},
        }
    )


def _train_ours(recipe: Recipe, records: Sequence[Record], folder: Path) -> tuple[list[float], list[float]]:
    """Tokens a second of each step but the first, and the loss of each step."""
    train_adapter(load_generation_task("rewriting"), recipe, resolve(BASE), records, folder)
    steps = read_metrics(folder / "metrics.jsonl")
    return [step["tokens_per_second"] for step in steps[1:]], [step["loss"] for step in steps]


def _train_trl(
    recipe: Recipe, records: Sequence[Record], folder: Path, *, checkpointing: bool
) -> tuple[list[float], list[float]]:
    """As `_train_ours`, as in the documentation of TRL ("PEFT Integration") and PEFT ("Quantization")."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    examples = _examples(records)
    order = list(
        LengthGroupedBatches([len(example.input_ids) for example in examples], recipe.optim.batch_size, recipe.seed)
    )
    ended: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_log(self, *args: object, **kwargs: object) -> None:
            del args, kwargs
            ended.append(time.perf_counter())

    is_nf4 = recipe.quantization == "nf4"
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    set_seed(recipe.seed)
    model = AutoModelForCausalLM.from_pretrained(
        resolve(BASE).path,
        dtype=torch.bfloat16,
        **({"quantization_config": quantization} if is_nf4 else {}),
    )
    tokenizer = load_tokenizer(resolve(BASE))
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=recipe.optim.batch_size,
            max_steps=recipe.optim.max_steps,
            learning_rate=recipe.optim.learning_rate,
            lr_scheduler_type=recipe.optim.schedule,
            warmup_steps=recipe.optim.warmup_ratio,
            seed=recipe.seed,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            train_sampling_strategy="sequential",
            completion_only_loss=True,  # as it is with columns of prompts and completions
            disable_tqdm=True,
            **({} if checkpointing else {"gradient_checkpointing": False}),
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "input_ids": list(examples[index].input_ids),
                    "completion_mask": [
                        int(place >= examples[index].prompt_length) for place in range(len(examples[index].input_ids))
                    ],
                }
                for index in order
            ]
        ),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=recipe.lora.r,
            lora_alpha=recipe.lora.alpha,
            lora_dropout=0.05 if is_nf4 else 0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        callbacks=[Clock()],
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    rows = recipe.optim.batch_size
    speeds = [
        sum(len(examples[index].input_ids) for index in order[step * rows : (step + 1) * rows])
        / (ended[step] - ended[step - 1])
        for step in range(1, len(losses))
    ]
    return speeds, losses


def _examples(records: Sequence[Record]) -> list[Example]:
    task, renderer = load_generation_task("rewriting"), Renderer(load_tokenizer(resolve(BASE)))
    return [renderer.example(task, record) for record in records]


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(work(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
    else:
        main()
