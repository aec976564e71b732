"""The memory that `searchlora size` computes, beside the measured peak of training: six configurations on a CPU.

    python -m benchmarks.size

SmolLM2-135M, whose layers the CPU backend computes, and a random model of the architecture Qwen3, whose layers PyTorch
computes. Each configuration is trained for three steps, without validation, in a process of its own. Measured is its
largest anonymous resident memory, read every 20 milliseconds; computed is that of training and what `size` says of
Python and its libraries. Pages of the base's file do not count, since the system can take them back, except those of
weights that are used where they lie in it. The difference is also shown without libraries: of the process, what it had
before the base was loaded is subtracted. Memory does not depend on what else the machine computes. `--only NAME` runs
some configurations and writes no results. Four minutes on two cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import in_a_process, parser, print_or_save_speeds
from benchmarks.speed import speed_row
from searchlora.models.configuration import read_configuration
from searchlora.models.load import load_tokenizer
from searchlora.models.resolve import BaseModel, resolve
from searchlora.prompts import Renderer
from searchlora.recipe import Recipe, load_recipe
from searchlora.records import Record
from searchlora.task import load_generation_task
from searchlora.training.memory import PROCESS_BYTES, TrainedModel, batch_size
from searchlora.training.rows import render_rows

SMALL, RANDOM = "smollm2-135m-instruct-q4_1", "random Qwen3"

#: Sizes of the random model: 66 million parameters.
_SIZES = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Configuration:
    """What is trained: rows of about `length` tokens."""

    base: str
    method: str
    rows: int
    length: int
    checkpointing: bool = False

    @property
    def name(self) -> str:
        checkpointing = ", checkpointing" if self.checkpointing else ""
        return f"{self.base}, {self.method}, {self.rows} rows of {self.length} tokens{checkpointing}"

    def recipe(self, base: str) -> Recipe:
        optim = {"batch_size": self.rows, "max_steps": 3, "gradient_checkpointing": self.checkpointing}
        return load_recipe({"base": base, "method": self.method, "optim": optim, "max_length": 2048})


CONFIGURATIONS = (
    Configuration(SMALL, "qlora", 8, 300),
    Configuration(SMALL, "lora", 8, 800, checkpointing=True),
    Configuration(SMALL, "full", 4, 300),
    Configuration(SMALL, "full", 8, 300, checkpointing=True),
    Configuration(RANDOM, "lora", 8, 300),
    Configuration(RANDOM, "qlora", 16, 500, checkpointing=True),
)


def main() -> None:
    arguments = parser("size")
    arguments.add_argument("--only", metavar="NAME", help="run configurations whose name contains this")
    only = arguments.parse_args().only
    rows, errors = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        for number, one in enumerate(CONFIGURATIONS):
            if only is not None and only not in one.name:
                continue
            base = _base(one.base, Path(temporary))
            predicted, parts = _predicted(one, base)
            found = in_a_process("size", str(number), str(base.path), str(Path(temporary) / str(number)))
            computed, measured = predicted + PROCESS_BYTES, found["memory"] + found["libraries"]
            errors[one.name] = computed / measured - 1
            rows += [
                speed_row(one.name, "computed, GB", [computed / 1e9]),
                speed_row(one.name, "measured, GB", [measured / 1e9]),
                speed_row(one.name, "computed / measured", [computed / measured]),
                speed_row(one.name, "without libraries", [predicted / found["memory"]]),
                *(speed_row(one.name, f"{part}, GB", [value / 1e9]) for part, value in parts.items()),
            ]
            print(f"{one.name}: {errors[one.name]:+.1%}", file=sys.stderr)
    largest = max(map(abs, errors.values()))
    print_or_save_speeds("size", rows, [], {"largest_error": largest}, trial=only is not None)
    print(f"largest error: {largest:.1%}")


def _base(name: str, folder: Path) -> BaseModel:
    """The base; a random one has the tokenizer of the small one."""
    if name != RANDOM:
        return resolve(name)
    path = folder / "random"
    if not path.is_dir():
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        tokenizer = load_tokenizer(resolve(SMALL))
        torch.manual_seed(0)
        config = AutoConfig.for_model("qwen3", vocab_size=len(tokenizer), **_SIZES)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(path)
        tokenizer.save_pretrained(path)
    return resolve(str(path))


def _predicted(one: Configuration, base: BaseModel) -> tuple[int, dict[str, int]]:
    """Bytes of the training process: all, and by part."""
    recipe = one.recipe(base.name)
    renderer = Renderer(load_tokenizer(base))
    examples = render_rows(load_generation_task("rewriting"), renderer, _records(one), recipe).examples
    memory = TrainedModel(read_configuration(str(base.path)), recipe, "cpu").memory(batch_size(examples, one.rows))
    parts = memory.parts()
    named = {part: int(parts[part] or 0) for part in ("weights", "gradients", "optimiser", "activations", "logits")}
    return memory.training, named


def _records(one: Configuration) -> Sequence[Record]:
    """Rewriting records with a long turn before the query."""
    words = ["red", "green", "blue", "cast", "iron", "stone", "oven", "lamp", "couch", "tent", "boot", "light", "small"]
    records = []
    for row in range(3 * one.rows):
        turn = " ".join(words[(row * 7 + place * place + place) % len(words)] for place in range(one.length - 120))
        history = [{"role": "user", "text": turn}]
        query = f"the {words[row % len(words)]} one"
        rewrite = " ".join(words[(row + place) % len(words)] for place in range(12))
        records.append({"id": f"r{row}", "group": f"r{row}", "query": query, "history": history, "rewrite": rewrite})
    return records


def work(one: Configuration, base: Path, folder: Path) -> dict[str, Any]:
    """Train in this process: bytes that it had before the base was loaded, and those above them at its peak."""
    import bitsandbytes  # noqa: F401
    import datasets  # noqa: F401
    from transformers import AutoModelForCausalLM  # noqa: F401

    import searchlora.training.sft_trainer  # noqa: F401
    from searchlora.training.sft import train_adapter

    task, recipe = load_generation_task("rewriting"), one.recipe(str(base))
    load_tokenizer(resolve(str(base)))
    before = _anonymous()
    with _sampled_peak() as peak:
        train_adapter(task, recipe, resolve(str(base)), _records(one), folder)
    in_the_file = _in_the_file(TrainedModel(read_configuration(str(base)), recipe, "cpu"))
    return {"memory": peak[0] - before + in_the_file, "libraries": before}


def _in_the_file(model: TrainedModel) -> int:
    """Bytes of the weights that training uses where they lie in the mapped file: bf16 weights that nothing copies."""
    if model.computed_in != "bf16":
        return 0
    copied = model.fused is not None or model.recipe.method == "qlora"
    return 2 * (model.parameters - (model.linear if copied else 0))


def _anonymous() -> int:
    """Anonymous resident memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


@contextmanager
def _sampled_peak() -> Iterator[list[int]]:
    """The largest anonymous memory inside the block so far, as the only item of a list."""
    peak, ended = [0], threading.Event()

    def sample() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], _anonymous())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(work(CONFIGURATIONS[int(sys.argv[1])], Path(sys.argv[2]), Path(sys.argv[3]))))
    else:
        main()
