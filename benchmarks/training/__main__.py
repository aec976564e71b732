"""Seconds per training step with three implementations, measured in turn in one process.

    python -m benchmarks.training_speed

Rows are rewriting records of the synthetic shop, weights are real: SmolLM2-135M in bf16, LoRA of rank 16 on all linear
layers, 32 rows per step. A step is forward, backward and AdamW.

* PEFT alone;
* with the hook of `models.load` on the output layer;
* with the hook and `training.cpu_fast_path`, as `searchlora train` does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import save_figures, speed_ratio, speed_row, timed
from searchlora.adapters.attach import new_adapter
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.models.batch import collate, completion_log_probabilities
from searchlora.models.load import load_model, load_tokenizer
from searchlora.models.resolve import resolve
from searchlora.prompts import IGNORED, Example, Renderer
from searchlora.recipe import load_recipe
from searchlora.shop import make_shop
from searchlora.task import load_prompted_task
from searchlora.training.cpu_fast_path import enable_cpu_fast_path

ALONE, HOOK, QUICK = "PEFT alone", "with the hook", "with the hook, quickened"
REPEATS = 7
ROWS = 32


def main() -> None:
    import torch

    recipe = load_recipe({"method": "lora"})
    base = resolve(recipe.base)
    tokenizer = load_tokenizer(base)
    batch = collate(_examples(Renderer(tokenizer)), tokenizer.pad_token_id)

    def step_of(change: Callable[[Any], None]) -> Callable[[], None]:
        model = new_adapter(load_model(base, quantization="none", precision=recipe.precision), recipe).train()
        trained = [each for each in model.parameters() if each.requires_grad]
        for each in trained:
            each.data = each.data.float()
        change(model)
        optimizer = torch.optim.AdamW(trained, lr=1e-4)

        def step() -> None:
            found = completion_log_probabilities(model, batch)
            (-found.sum() / (batch["labels"] != IGNORED).sum()).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    ways = {ALONE: step_of(_without_hook), HOOK: step_of(lambda _: None), QUICK: step_of(enable_cpu_fast_path)}
    seconds, _ = timed(ways, REPEATS)
    tokens = int(batch["attention_mask"].sum())
    found = [
        speed_ratio(slow, quick, "seconds of a step", seconds[slow], seconds[quick])
        for slow, quick in ((ALONE, HOOK), (HOOK, QUICK), (ALONE, QUICK))
    ]
    save_figures(
        "training_speed",
        [speed_row(name, "seconds of a step", values) for name, values in seconds.items()],
        found,
        {"tokens": tokens, "rows_per_step": ROWS},
    )
    for each in found:
        print(f"{each['a']} / {each['b']}: {each['ratio']:.2f} ({each['low']:.2f}-{each['high']:.2f})")
    print(f"{tokens} tokens a step")


def _without_hook(model: Any) -> None:
    model.get_base_model().get_output_embeddings()._forward_pre_hooks.clear()


def _examples(renderer: Renderer) -> list[Example]:
    task = load_prompted_task("rewriting")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_shop(folder / "shop", products=600, queries=400)
        build(task, folder / "shop", format="shop", out=folder / "dataset")
        records = load_dataset(folder / "dataset").records("train")[:ROWS]
    return [renderer.example(task, record) for record in records]


if __name__ == "__main__":
    main()
