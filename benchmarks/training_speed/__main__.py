"""Seconds of a training step with and without the hook of `load_model` on the output layer, in turn, in one process.

    python -m benchmarks.training_speed

Rows are made (the shop's rewriting records), weights are real: SmolLM2-135M in bf16, LoRA r = 16 on all linear layers,
32 rows a step. A step is forward, backward and AdamW.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.common import save_figures
from benchmarks.speed import speed_ratio, speed_row, timed
from searchlora.adapters.attach import new_adapter
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.data.shop import make_shop
from searchlora.models.batch import collate, completion_log_probabilities
from searchlora.models.load import load_model, load_tokenizer
from searchlora.models.resolve import resolve
from searchlora.prompts import IGNORED, Example, Renderer
from searchlora.recipe import load_recipe
from searchlora.task import load_prompted_task

REPEATS = 7
ROWS = 32


def main() -> None:
    import torch

    recipe = load_recipe({"quantization": "none"})
    base = resolve(recipe.base)
    tokenizer = load_tokenizer(base)
    model = new_adapter(load_model(base, quantization="none", precision=recipe.precision), recipe).train()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-4)
    batch = collate(_examples(Renderer(tokenizer)), tokenizer.pad_token_id)
    hooks = model.get_base_model().get_output_embeddings()._forward_pre_hooks
    kept = dict(hooks)

    def step() -> None:
        found = completion_log_probabilities(model, batch)
        (-found.sum() / (batch["labels"] != IGNORED).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()

    def without() -> None:
        hooks.clear()
        step()

    def with_hook() -> None:
        hooks.update(kept)
        step()

    seconds, _ = timed({"without": without, "with the hook": with_hook}, REPEATS)
    tokens = int(batch["attention_mask"].sum())
    found = speed_ratio("without", "with the hook", "seconds of a step", seconds["without"], seconds["with the hook"])
    save_figures(
        "training_speed",
        [speed_row(name, "seconds of a step", values) for name, values in seconds.items()],
        [found],
        {"tokens": tokens, "rows_per_step": ROWS},
    )
    print(f"{found['ratio']:.2f} times as fast ({found['low']:.2f}-{found['high']:.2f}), {tokens} tokens a step")


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
